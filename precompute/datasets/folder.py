"""Any tree of pictures: class folders, split folders with class folders below, or one flat folder. No boxes.

    root/classA/*.jpg                      one split, "train"
    root/train/classA/*.jpg, root/test/…   splits by name (train, val, test and their usual spellings)
    root/*.jpg                             no labels

The class is the first folder below the root or split; deeper folders belong to it.
"""

from collections import Counter
from pathlib import Path

from precompute.base.errors import UserError
from precompute.datasets.listing import Listing
from precompute.datasets.rows import Dataset, listing_of, walk_pictures

_SPELLINGS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
_SPLITS = {spelling: split for split, spellings in _SPELLINGS.items() for spelling in spellings}


def read(dataset: Dataset, root: Path) -> Listing:
    """The tree below `root`. Raises UserError where it is no folder or holds no picture."""
    if not root.is_dir():
        problem = "it is a file" if root.exists() else "there is no such folder"
        raise UserError(f"{root}: {problem}.\nExpected below it:{dataset.tree}")
    notes: Counter[str] = Counter()
    rows = list(walk_pictures(root, notes))
    if not rows:
        raise UserError(f"{root}: no pictures (by their names' endings) anywhere below it.\nExpected:{dataset.tree}")
    folders = [row.path.split("/")[:-1] for row in rows]
    by_split = all(parts and parts[0].lower() in _SPLITS for parts, row in zip(folders, rows, strict=True))
    for i, parts in enumerate(folders):
        split, parts = (_SPLITS[parts[0].lower()], parts[1:]) if by_split else ("train", parts)
        rows[i] = rows[i]._replace(split=split, label=parts[0] if parts else None)
    used = {row.split for row in rows}
    splits = tuple(name for name in _SPELLINGS if name in used)
    return listing_of(dataset, root, rows, splits=splits, notes=notes)


_TREE = """
  CLASS/*.jpg, or train/CLASS/*.jpg and test/CLASS/*.jpg, or pictures without any folder"""
DATASET = Dataset("folder", "folder of pictures", read, _TREE)
