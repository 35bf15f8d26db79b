"""Stanford Cars, both layouts of its MATLAB annotation.

- devkit: devkit/cars_{train,test}_annos.mat and cars_meta.mat beside cars_train/ and cars_test/; the test pictures
  have classes only with cars_test_annos_withlabels.mat.
- all in one: cars_annos.mat beside car_ims/, with a test flag a picture.

Boxes have x1, y1, x2, y2 as MATLAB counts: from 1 (the least of 16,185 rows is 1), both ends inside.
"""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from precompute.base.errors import UserError
from precompute.datasets.listing import Box, Listing
from precompute.datasets.rows import Dataset, Row, four_numbers, listing_of

_EDGES = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2")


def read(dataset: Dataset, root: Path) -> Listing:
    kits = (root / "devkit", root / "car_devkit" / "devkit", root)
    kit = next((k for k in kits if (k / "cars_meta.mat").exists()), root / "devkit")
    one_file = root / "cars_annos.mat"
    # It may lie beside a complete devkit, without the pictures that it names.
    if one_file.exists() and ((root / "car_ims").is_dir() or not (kit / "cars_meta.mat").exists()):
        annotation = _load(one_file)
        names = [str(name) for name in annotation["class_names"].flat]
        return _listing(dataset, root, names, _rows(annotation["annotations"], one_file.name, "", len(names)))
    dataset.expect(root, (kit / "cars_meta.mat").relative_to(root).as_posix())
    names = [str(name) for name in _load(kit / "cars_meta.mat")["class_names"].flat]
    train = kit / "cars_train_annos.mat"
    dataset.expect(root, train.relative_to(root).as_posix(), "cars_train")
    labelled = [k / "cars_test_annos_withlabels.mat" for k in (root, kit)]
    test = next((file for file in labelled if file.exists()), kit / "cars_test_annos.mat")
    rows = _rows(_load(train)["annotations"], train.name, _pictures(root, "cars_train"), len(names))
    if test.exists() and (root / "cars_test").is_dir():
        rows = chain(
            rows, _rows(_load(test)["annotations"], test.name, _pictures(root, "cars_test"), len(names), "test")
        )
    return _listing(dataset, root, names, rows)


def _pictures(root: Path, name: str) -> str:
    """The folder of a split's pictures; copies are around that have it in a folder of its own name."""
    return f"{name}/{name}/" if (root / name / name).is_dir() else f"{name}/"


def _listing(dataset: Dataset, root: Path, names: list[str], rows: Iterator[Row]) -> Listing:
    return listing_of(
        dataset, root, rows, splits=("train", "test"), classes=dict(enumerate(names, 1)), boxed=True,
        boxes_in="annotations",
        unlabelled="pictures without a class (cars_test_annos_withlabels.mat is not there)",
    )  # fmt: skip


def _rows(annotations: Any, file: str, folder: str, classes: int, split: str = "train") -> Iterator[Row]:
    """The rows of one MATLAB table; a column `test` decides the split where there is one."""
    for number, row in enumerate(annotations, 1):
        fields, where = row.dtype.names, f"{file} row {number}"
        path = folder + str(row["relative_im_path" if "relative_im_path" in fields else "fname"])
        label, fault = None, ""
        if "class" in fields:
            try:
                label = int(row["class"])
            except (TypeError, ValueError):
                label = -1
            if not 1 <= label <= classes:
                fault = f"{where}: class {row['class']}, but there are {classes}"
        written = [row[key] for key in _EDGES]
        edges = four_numbers(written)
        box: Box | str = f"{where}: {', '.join(map(str, written))} are not four numbers"
        if edges:
            box = Box((edges[0] - 1, edges[1] - 1, *edges[2:]), where)
        if "test" in fields:
            split = "test" if int(row["test"]) else "train"
        yield Row(path, label, split, box, fault=fault, where=where)


def _load(path: Path) -> dict[str, Any]:
    """A .mat file's variables. Raises UserError where it is no MATLAB file."""
    from scipy.io import loadmat

    try:
        return loadmat(path, squeeze_me=True)
    except (OSError, ValueError, TypeError, NotImplementedError) as error:
        raise UserError(f"{path}: not a MATLAB file that can be read ({error})") from error


_TREE = """
  cars_train/00001.jpg ...   cars_test/00001.jpg ...
  devkit/cars_meta.mat       devkit/cars_train_annos.mat   devkit/cars_test_annos.mat
  cars_test_annos_withlabels.mat   (here or in devkit/; without it the test pictures have no class)
or
  car_ims/000001.jpg ...     cars_annos.mat"""
_GET = "Its official site is gone. Get cars_train, cars_test and car_devkit from a copy you trust."
DATASET = Dataset("cars", "Stanford Cars", read, _TREE, "data/stanford_cars", get=_GET)
