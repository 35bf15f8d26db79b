"""Sets annotated in COCO's JSON format: COCO itself (the largest object's box), iNaturalist 2018 (no boxes)."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from precompute.base.errors import UserError
from precompute.datasets.listing import Box, Listing
from precompute.datasets.rows import Archive, Dataset, Row, four_numbers, listing_of


def read(dataset: Dataset, root: Path) -> Listing:
    """A picture's box and label are those of its largest object (by its box; crowds do not count)."""
    splits = [s for s in ("train", "val") if (root / "annotations" / f"instances_{s}2017.json").exists()]
    needed = [f"{s}2017" for s in splits] or ["annotations/instances_train2017.json"]
    dataset.expect(root, *needed)
    files = {s: (root / "annotations" / f"instances_{s}2017.json", f"{s}2017/") for s in splits}
    return _listing(dataset, root, files, boxed=True, unboxed="pictures without an annotated object")


def read_inat2018(dataset: Dataset, root: Path) -> Listing:
    """iNaturalist 2018: no boxes."""
    splits = [s for s in ("train", "val") if (root / f"{s}2018.json").exists()]
    dataset.expect(root, "train_val2018" if splits else "train2018.json")
    files = {s: (root / f"{s}2018.json", "") for s in splits}
    return _listing(dataset, root, files, unlabelled="pictures without a class")


def _listing(dataset: Dataset, root: Path, files: dict[str, tuple[Path, str]], **more: Any) -> Listing:
    """`files`: the JSON file of each split, and the folder of its pictures."""
    categories: dict[int, str] = {}
    rows = [row for split, (file, folder) in files.items() for row in _rows(file, folder, split, categories)]
    return listing_of(dataset, root, rows, splits=tuple(files), classes=dict(sorted(categories.items())), **more)


def _rows(file: Path, folder: str, split: str, categories: dict[int, str]) -> Iterator[Row]:
    """All pictures of one JSON file; adds to `categories`. Raises UserError where it is not such a file."""
    try:
        content = json.loads(file.read_bytes())
        categories.update((int(category["id"]), str(category["name"])) for category in content["categories"])
        largest: dict[int, dict[str, Any]] = {}
        for note in content["annotations"]:
            best = largest.get(note["image_id"])
            # Of equal areas the first counts. A box that makes no sense counts as the largest: its picture is left out.
            if not note.get("iscrowd") and (best is None or _area(note) > _area(best)):
                largest[note["image_id"]] = note
        for image in content["images"]:
            yield _row(folder + image["file_name"], split, largest.get(image["id"]), file.name, categories)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file}: not in COCO's JSON format ({type(error).__name__}: {error})") from error


def _row(path: str, split: str, note: dict[str, Any] | None, file: str, categories: dict[int, str]) -> Row:
    if note is None:
        return Row(path, None, split, where=file)
    where = f"{file} annotation {note.get('id', 'without id')}"
    label = note.get("category_id")
    fault = "" if label in categories else f"{where}: category {label!r} is not among the categories"
    box: Box | str | None = None
    if "bbox" in note:
        if (numbers := four_numbers(note["bbox"])) is None:
            box = f"{where}: the bbox {note['bbox']!r} is not four numbers (x y width height)"
        else:
            x, y, width, height = numbers
            box = Box((x, y, x + width, y + height), where)
    return Row(path, label, split, box, fault=fault, where=file)


def _area(note: dict[str, Any]) -> float:
    """Infinite where the box makes no sense."""
    box = four_numbers(note.get("bbox", (0, 0, 0, 0)))
    return math.inf if box is None else box[2] * box[3]


_TREE = """
  annotations/instances_train2017.json   annotations/instances_val2017.json
  train2017/*.jpg                        val2017/*.jpg"""
_INAT_TREE = """
  train2018.json   val2018.json
  train_val2018/Aves/2761/*.jpg ..."""
_COCO = "http://images.cocodataset.org"
_COCO_ARCHIVES = (
    Archive(f"{_COCO}/zips/train2017.zip", "cced6f7f71b7629ddf16f17bbcfab6b2", "."),
    Archive(f"{_COCO}/zips/val2017.zip", "442b8da7639aecaf257c1dceb8ba8c80", "."),
    Archive(f"{_COCO}/annotations/annotations_trainval2017.zip", "f4bbac642086de4f52a3fdda2de5fa2c", "."),
)
_INAT = "https://ml-inat-competition-datasets.s3.amazonaws.com/2018"
_INAT_ARCHIVES = (
    Archive(f"{_INAT}/train_val2018.tar.gz", "b1c6952ce38f31868cc50ea72d066cc3", "."),
    Archive(f"{_INAT}/train2018.json.tar.gz", "bfa29d89d629cbf04d826a720c0a68b0", "."),
    Archive(f"{_INAT}/val2018.json.tar.gz", "f2ed8bfe3e9901cdefceb4e53cd3775d", "."),
)
DATASETS = (
    Dataset("coco", "COCO 2017", read, _TREE, "data/coco", archives=_COCO_ARCHIVES),
    Dataset("inat2018", "iNaturalist 2018", read_inat2018, _INAT_TREE, "data/inat2018", archives=_INAT_ARCHIVES),
)
