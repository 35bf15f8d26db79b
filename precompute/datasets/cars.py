"""Stanford Cars, both layouts of its MATLAB annotation.

- devkit: devkit/cars_{train,test}_annos.mat and cars_meta.mat beside cars_train/ and cars_test/; the test pictures
  have classes only with cars_test_annos_withlabels.mat.
- all in one: cars_annos.mat beside car_ims/, with a test flag a picture.

Boxes are taken as x1, y1 to x2, y2, end-exclusive, as they stand (the devkit does not say where it counts from).
"""

from pathlib import Path
from typing import Any

import numpy as np

from precompute.base.boxfile import Quarantined
from precompute.base.errors import UserError
from precompute.datasets.base import Listing, escapes, expect

_TREE = """
  cars_train/00001.jpg ...   cars_test/00001.jpg ...
  devkit/cars_meta.mat       devkit/cars_train_annos.mat   devkit/cars_test_annos.mat
  cars_test_annos_withlabels.mat   (here or in devkit/; without it the test pictures have no class)
or
  car_ims/000001.jpg ...     cars_annos.mat"""
TREES = {"read": _TREE}
_EDGES = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2")


def read(root: Path, name: str, source: str) -> Listing:
    if (root / "cars_annos.mat").exists():
        annotation = _load(root / "cars_annos.mat")
        names = _names(annotation["class_names"])
        rows = [(root / "cars_annos.mat", "", r, int(r["test"])) for r in annotation["annotations"]]
        return _listing(root, name, names, rows)
    kits = (root / "devkit", root / "car_devkit" / "devkit", root)
    kit = next((k for k in kits if (k / "cars_meta.mat").exists()), None)
    if kit is None:
        expect(root, "Stanford Cars", ("devkit/cars_meta.mat",), _TREE, source)
    assert kit is not None
    names = _names(_load(kit / "cars_meta.mat")["class_names"])
    labelled = [k / "cars_test_annos_withlabels.mat" for k in (root, kit)]
    test = next((file for file in labelled if file.exists()), kit / "cars_test_annos.mat")
    rows = []
    for split, folder, file in ((0, "cars_train", kit / "cars_train_annos.mat"), (1, "cars_test", test)):
        if not file.exists() or not (root / folder).is_dir():
            if split == 0:
                expect(root, "Stanford Cars", (file.relative_to(root).as_posix(), folder), _TREE, source)
            continue
        rows += [(file, f"{folder}/", r, split) for r in _load(file)["annotations"]]
    return _listing(root, name, names, rows)


def _load(path: Path) -> dict[str, Any]:
    """A .mat file's variables. Raises UserError where it is not one."""
    from scipy.io import loadmat

    try:
        return loadmat(path, squeeze_me=True)
    except (OSError, ValueError, TypeError, NotImplementedError) as error:
        raise UserError(f"{path}: not a MATLAB file that can be read ({error})") from error


def _names(values: Any) -> tuple[str, ...]:
    return tuple(str(value) for value in np.atleast_1d(values))


def _number(value: Any) -> float:
    """NaN for what is none: an empty field, a text."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return np.nan


def _listing(root: Path, name: str, names: tuple[str, ...], rows: list[tuple[Path, str, Any, int]]) -> Listing:
    listing = Listing(name, root, names, ("train", "test"), [], np.empty(0, np.int32), np.empty(0, np.uint8))
    labels, splits, edges, lines = [], [], [], []
    for number, (file, folder, row, split) in enumerate(rows, 1):
        fields = row.dtype.names
        path = folder + str(row["relative_im_path" if "relative_im_path" in fields else "fname"])
        if escapes(path):
            listing.quarantine.append(Quarantined(path, f"{file.name} row {number}: the path leaves the folder"))
            continue
        label = _number(row["class"]) - 1 if "class" in fields else -1.0
        if not (-1 <= label < len(names) and label == int(label)):
            reason = f"{file.name} row {number}: class {row['class']}, but there are {len(names)}"
            listing.quarantine.append(Quarantined(path, reason))
            continue
        edges.append([_number(row[key]) for key in _EDGES])
        if not np.isfinite(edges[-1]).all():
            told = ", ".join(str(row[key]) for key in _EDGES)
            listing.box_faults[len(listing.paths)] = f"{file.name} row {number}: {told} are not four numbers"
        listing.paths.append(path)
        labels.append(int(label))
        splits.append(split)
        lines.append(number)
    listing.labels, listing.splits = np.array(labels, np.int32), np.array(splits, np.uint8)
    listing.edges = np.array(edges, np.float64).reshape(-1, 4)
    listing.lines, listing.box_file, listing.every_has_box = np.array(lines, np.int32), "annotations", True
    unlabelled = int((listing.labels < 0).sum())
    if unlabelled:
        listing.note("pictures without a class (cars_test_annos_withlabels.mat is not there)", unlabelled)
    return listing
