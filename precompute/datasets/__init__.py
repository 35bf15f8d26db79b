"""Readers of image sets, from their real on-disk layouts. `DATASETS` is the registry."""

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from precompute.cli import UserError

if TYPE_CHECKING:
    from precompute.datasets.base import Listing


@dataclass(frozen=True)
class Dataset:
    """Where a set's reader is and where the set usually lies."""

    module: str
    usual_root: str | None  # None: no usual place, --root must be given
    about: str


DATASETS = {
    "cub": Dataset("cub", "data/CUB_200_2011", "CUB-200-2011"),
    "demo": Dataset("cub", "data/demo", "the embedded set, generated when it is missing"),
    "folder": Dataset("folder", None, "any tree of class folders, or a flat one"),
}


def read_dataset(name: str, root: Path | str | None = None) -> "Listing":
    """Lists a set. Raises UserError for an unknown name, a missing folder or one of another layout."""
    if name not in DATASETS:
        raise UserError(f"unknown data set {name!r}; known: {', '.join(DATASETS)}")
    entry = DATASETS[name]
    if root is None and entry.usual_root is None:
        raise UserError(f"--dataset {name} has no usual place: say where it is with --root DIR")
    root = Path(root or entry.usual_root or "")
    if name == "demo" and not root.exists():
        from precompute.demo import make_demo

        make_demo(root)
    return importlib.import_module(f"precompute.datasets.{entry.module}").read(root, name)
