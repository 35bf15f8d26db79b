"""Any tree of pictures: class folders, split folders with class folders below, or one flat folder. No boxes.

    root/classA/*.jpg                      one split, "train"
    root/train/classA/*.jpg, root/test/…   splits by name (train, val, test and their usual spellings)
    root/*.jpg                             no labels

The class is the first folder below the root or split; deeper folders belong to it.
"""

from pathlib import Path

import numpy as np

from precompute.base.errors import UserError
from precompute.datasets.base import Listing, walk_pictures

_SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
_TREE = """
  CLASS/*.jpg, or train/CLASS/*.jpg and test/CLASS/*.jpg, or pictures without any folder"""
TREES = {"read": _TREE}


def read(root: Path, name: str, source: str) -> Listing:
    """The tree below `root`. Raises UserError where it is no folder or holds no picture."""
    if not root.is_dir():
        problem = "it is a file" if root.exists() else "there is no such folder"
        raise UserError(f"{root}: {problem}.\nExpected below it:{_TREE}")
    listing = Listing(name, root, (), (), [], np.empty(0, np.int32), np.empty(0, np.uint8))
    listing.paths = walk_pictures(root, listing)
    if not listing.paths and not listing.quarantine:
        raise UserError(f"{root}: no pictures (by their names' endings) anywhere below it.\nExpected:{_TREE}")
    parts = [path.split("/")[:-1] for path in listing.paths]
    if all(folders and folders[0].lower() in _SPLITS for folders in parts):
        split_of = [_SPLITS[folders[0].lower()] for folders in parts]
        classes = [folders[1] if len(folders) > 1 else None for folders in parts]
    else:
        split_of = ["train"] * len(parts)
        classes = [folders[0] if folders else None for folders in parts]
    names = sorted({c for c in classes if c is not None})
    index_of: dict[str | None, int] = {c: i for i, c in enumerate(names)}
    listing.class_names = tuple(names)
    listing.split_names = tuple(s for s in ("train", "val", "test") if s in set(split_of)) or ("train",)
    listing.labels = np.array([index_of.get(c, -1) for c in classes], np.int32)
    listing.splits = np.array([listing.split_names.index(s) for s in split_of], np.uint8)
    return listing
