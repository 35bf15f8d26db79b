"""Stanford Cars, as it was given and as people have it.

- devkit: cars_{train,test}_annos.mat and cars_meta.mat beside cars_train/ and cars_test/ (also cars_train/cars_train/);
  the test pictures have classes only with cars_test_annos_withlabels.mat.
- tables: anno_train.csv, anno_test.csv and names.csv (or cars_meta.mat) beside car_data/train/CLASS/ or cars_train/.
- all in one: cars_annos.mat beside car_ims/, with a test flag a picture. Its names are of car_ims only: beside
  cars_train/ the file is of no use.

Boxes count from 1, both ends inside: no number is 0, and some boxes end at the last pixel.
"""

import csv
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from precompute.base.errors import UserError
from precompute.datasets.listing import Box, Listing
from precompute.datasets.rows import Dataset, Row, four_numbers, listing_of, read_lines

_EDGES = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2")
_KITS = ("devkit", "car_devkit/devkit", "cars_devkit", "devkit/devkit", "car_devkit", "")
_PICTURES = ("cars_{0}/cars_{0}", "cars_{0}", "car_data/car_data/{0}", "car_data/{0}", "{0}")


class _Car(NamedTuple):
    """A line of a table: a value each, as it is written."""

    path: str
    edges: tuple[Any, ...]
    label: Any = None  # None: the table has none
    test: Any = None


def read(dataset: Dataset, root: Path) -> Listing:
    """Any of the layouts; where several are begun, the one whose pictures are there."""
    one_file = root / "cars_annos.mat"
    train, test = (_table(root, split) for split in ("train", "test"))
    folder = _pictures(root, "train")
    if one_file.exists() and ((root / "car_ims").is_dir() or (train is None and folder is None)):
        annotation = _load(one_file, "annotations", "class_names")
        names = _names_of(annotation)
        return _listing(dataset, root, names, _rows(_cars(annotation, one_file), one_file.name, {}, "", len(names)))
    names = _names(root)
    if train is None or names is None:
        dataset.expect(root, "devkit/cars_train_annos.mat", "devkit/cars_meta.mat")
    if folder is None:
        dataset.expect(root, "cars_train")
    train, names, folder = train or root, names or [], folder or ""  # expect has raised where one is missing
    rows = _rows(_lines(train), train.name, _index(root, folder, train), folder, len(names))
    other = _pictures(root, "test")
    if test is not None and other is not None:
        rows = chain(rows, _rows(_lines(test), test.name, _index(root, other, test), other, len(names), "test"))
    return _listing(dataset, root, names, rows)


def _table(root: Path, split: str) -> Path | None:
    """The file of a split, one with classes before one without."""
    names = [f"cars_{split}_annos_withlabels.mat"] if split == "test" else []
    names += [f"cars_{split}_annos.mat", f"anno_{split}.csv"]
    files = (root / kit / name for name in names for kit in ("", *_KITS))
    return next((file for file in files if file.is_file()), None)


def _names(root: Path) -> list[str] | None:
    """The names of the classes, of cars_meta.mat or names.csv."""
    for kit in _KITS:
        if (file := root / kit / "cars_meta.mat").is_file():
            return _names_of(_load(file, "class_names"))
    file = root / "names.csv"
    return [line.strip('"') for _, line in read_lines(file)] if file.is_file() else None


def _pictures(root: Path, split: str) -> str | None:
    """The folder of a split's pictures, with a slash at its end."""
    folders = (pattern.format(split) for pattern in _PICTURES)
    return next((f"{folder}/" for folder in folders if (root / folder).is_dir()), None)


def _index(root: Path, folder: str, table: Path) -> dict[str, list[str]]:
    """Of a table's pictures in folders of classes: their paths below `folder` by their names."""
    paths: dict[str, list[str]] = defaultdict(list)
    for path in sorted((root / folder).glob("*/*.*")) if table.suffix == ".csv" else ():
        if not (root / folder / path.name).is_file():  # else the name is a path
            paths[path.name].append(path.relative_to(root / folder).as_posix())
    return paths


def _listing(dataset: Dataset, root: Path, names: list[str], rows: Iterator[Row]) -> Listing:
    return listing_of(
        dataset, root, rows, splits=("train", "test"), classes=dict(enumerate(names, 1)), boxed=True,
        boxes_in="annotations",
        unlabelled="pictures without a class (cars_test_annos_withlabels.mat is not there)",
    )  # fmt: skip


def _rows(
    cars: Iterable[_Car], file: str, paths: dict[str, list[str]], folder: str, classes: int, split: str = "train"
) -> Iterator[Row]:
    """The rows of one table; a column `test` decides the split where there is one."""
    for number, car in enumerate(cars, 1):
        where, fault, label = f"{file} row {number}", "", None
        if car.label is not None:
            label = _whole(car.label)
            if not 1 <= label <= classes:
                fault = f"{where}: class {car.label}, but there are {classes}"
        edges = four_numbers(car.edges)
        box: Box | str = f"{where}: {', '.join(map(str, car.edges))} are not four numbers"
        if edges is not None:
            x1, y1, x2, y2 = edges
            box = Box((x1 - 1, y1 - 1, x2, y2), where)
        if car.test is not None:
            split = {0: "train", 1: "test"}.get(_whole(car.test), f"test = {car.test}")
        name, *others = paths.get(car.path, [car.path])
        if others:
            fault = f"{where}: several pictures have this name: {name} and {others[0]}"
        yield Row(folder + name, label, split, box, fault=fault, where=where)


def _whole(value: Any) -> int:
    """-1 for what is no number."""
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        return -1


def _lines(table: Path) -> Iterable[_Car]:
    if table.suffix == ".mat":
        return _cars(_load(table, "annotations"), table)
    return _csv(table)


def _csv(table: Path) -> Iterator[_Car]:
    """Lines fname, x1, y1, x2, y2, class."""
    for number, cells in enumerate(csv.reader(line for _, line in read_lines(table)), 1):
        if len(cells) not in (5, 6):
            raise UserError(f"{table} row {number}: {len(cells)} cells, expected fname, x1, y1, x2, y2, class")
        if number > 1 or cells[1].strip().isdigit():  # else its head
            yield _Car(cells[0], tuple(cells[1:5]), cells[5] if len(cells) == 6 else None)


def _cars(content: dict[str, Any], file: Path) -> Iterator[_Car]:
    for row in content["annotations"].flat:
        fields = (row.dtype.names if hasattr(row, "dtype") else None) or ()
        name = "relative_im_path" if "relative_im_path" in fields else "fname"
        if missing := [field for field in (name, *_EDGES) if field not in fields]:
            raise UserError(f"{file}: its annotations have no {', '.join(missing)}")
        label, test = (row[field] if field in fields else None for field in ("class", "test"))
        yield _Car(str(row[name]), tuple(row[edge] for edge in _EDGES), label, test)


def _names_of(content: dict[str, Any]) -> list[str]:
    return [str(name) for name in content["class_names"].flat]


def _load(path: Path, *needed: str) -> dict[str, Any]:
    """A .mat file's variables, as arrays. Raises UserError where it is no MATLAB file, or one is missing."""
    import numpy as np
    from scipy.io import loadmat

    try:
        content = loadmat(path, squeeze_me=True)
    except Exception as error:  # of damaged files SciPy raises whatever its parser meets
        text = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: not a MATLAB file that can be read ({text or type(error).__name__})") from error
    if missing := [name for name in needed if name not in content]:
        raise UserError(f"{path}: has no {', '.join(missing)}")
    return {name: np.asarray(content[name]) for name in needed}


_TREE = """
  cars_train/00001.jpg ...   cars_test/00001.jpg ...         (also cars_train/cars_train/00001.jpg)
  devkit/cars_meta.mat       devkit/cars_train_annos.mat   devkit/cars_test_annos.mat
  cars_test_annos_withlabels.mat   (here or in devkit/; without it the test pictures have no class)
or
  car_data/train/CLASS/*.jpg   car_data/test/CLASS/*.jpg   anno_train.csv   anno_test.csv   names.csv
or
  car_ims/000001.jpg ...     cars_annos.mat"""
_GET = "Its official site is gone. Get cars_train, cars_test and car_devkit from a copy you trust."
DATASET = Dataset("cars", "Stanford Cars", read, _TREE, "data/stanford_cars", get=_GET)
