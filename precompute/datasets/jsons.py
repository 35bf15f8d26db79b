"""Sets annotated in COCO's JSON format: COCO itself (the largest object's box), iNaturalist 2018 (no boxes)."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from precompute.base.boxfile import Quarantined
from precompute.base.errors import UserError
from precompute.datasets.base import Box, Listing, escapes, expect

_COCO = """
  annotations/instances_train2017.json   annotations/instances_val2017.json
  train2017/*.jpg                        val2017/*.jpg"""
_INAT = """
  train2018.json   val2018.json
  train_val2018/Aves/2761/*.jpg ..."""
TREES = {"read_coco": _COCO, "read_inat2018": _INAT}


def read_coco(root: Path, name: str, source: str) -> Listing:
    """A picture's box and label are those of its largest object (by its box; crowds do not count)."""
    splits = [s for s in ("train", "val") if (root / "annotations" / f"instances_{s}2017.json").exists()]
    needed = ["annotations/instances_train2017.json"] if not splits else [f"{s}2017" for s in splits]
    expect(root, "COCO 2017", needed, _COCO, source)
    listing = _Reader(name, root, tuple(splits))
    for k, split in enumerate(splits):
        listing.add(k, root / "annotations" / f"instances_{split}2017.json", f"{split}2017/")
    return listing.done(with_boxes=True)


def read_inat2018(root: Path, name: str, source: str) -> Listing:
    splits = [s for s in ("train", "val") if (root / f"{s}2018.json").exists()]
    needed = ["train2018.json"] if not splits else ["train_val2018"]
    expect(root, "iNaturalist 2018", needed, _INAT, source)
    listing = _Reader(name, root, tuple(splits))
    for k, split in enumerate(splits):
        listing.add(k, root / f"{split}2018.json", "")
    return listing.done(with_boxes=False)


class JsonListing(Listing):
    """A listing that names for every box the file and the annotation's id."""

    wheres: list[str]

    def box(self, i: int) -> Box | None:
        box = super().box(i)
        return box and dataclasses.replace(box, where=self.wheres[i])


class _Reader:
    def __init__(self, name: str, root: Path, splits: tuple[str, ...]) -> None:
        self.listing = JsonListing(name, root, (), splits, [], np.empty(0, np.int32), np.empty(0, np.uint8))
        self.categories: dict[int, str] = {}
        self.labels: list[int] = []  # category ids until done()
        self.splits: list[int] = []
        self.edges: list[tuple[float, ...]] = []
        self.listing.wheres = []
        self.seen: set[str] = set()

    def add(self, split: int, file: Path, folder: str) -> None:
        """All pictures of one JSON file. Raises UserError where it is not such a file."""
        try:
            content = json.loads(file.read_bytes())
            for category in content["categories"]:
                self.categories[int(category["id"])] = str(category["name"])
            largest: dict[int, dict[str, Any]] = {}
            for note in content["annotations"]:
                if note.get("iscrowd"):
                    continue
                best = largest.get(note["image_id"])
                # Equal: the first. One whose box makes no sense counts as the largest: its picture is left out.
                if best is None or _area(note) > _area(best):
                    largest[note["image_id"]] = note
            for image in content["images"]:
                self._row(split, folder + image["file_name"], largest.get(image["id"]), file)
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{file}: not in COCO's JSON format ({type(error).__name__}: {error})") from error

    def _row(self, split: int, path: str, note: dict[str, Any] | None, file: Path) -> None:
        if escapes(path):
            self.listing.quarantine.append(Quarantined(path, f"{file.name}: the path leaves the folder"))
            return
        if path in self.seen:
            self.listing.quarantine.append(Quarantined(path, f"{file.name}: stands there twice"))
            return
        self.seen.add(path)
        where = file.name if note is None else f"{file.name} annotation {note.get('id', 'without id')}"
        label: Any = -1 if note is None else note.get("category_id")
        if label not in self.categories and note is not None:
            reason = f"{where}: category {label!r} is not among the categories"
            self.listing.quarantine.append(Quarantined(path, reason))
            return
        edges = (np.nan,) * 4
        if note is not None and "bbox" in note:
            if (box := _numbers(note["bbox"])) is None:
                fault = f"{where}: the bbox {note['bbox']!r} is not four numbers (x y width height)"
                self.listing.box_faults[len(self.listing.paths)] = fault
            else:
                x, y, width, height = box
                edges = (x, y, x + width, y + height)
        self.listing.paths.append(path)
        self.listing.wheres.append(where)
        self.labels.append(int(label))
        self.splits.append(split)
        self.edges.append(edges)

    def done(self, with_boxes: bool) -> Listing:
        ids = sorted(self.categories)
        index_of = {key: i for i, key in enumerate(ids)} | {-1: -1}
        self.listing.class_names = tuple(self.categories[key] for key in ids)
        self.listing.labels = np.array([index_of[key] for key in self.labels], np.int32)
        self.listing.splits = np.array(self.splits, np.uint8)
        if with_boxes:
            self.listing.edges = np.array(self.edges, np.float64).reshape(-1, 4)
            self.listing.box_file = "the instances file"
            without = int(np.isnan(self.listing.edges[:, 0]).sum())
            if without:
                self.listing.note("pictures without an annotated object", without)
        elif without := self.labels.count(-1):
            self.listing.note("pictures without a class", without)
        return self.listing


def _area(note: dict[str, Any]) -> float:
    """Infinite where the box makes no sense."""
    box = _numbers(note.get("bbox", (0, 0, 0, 0)))
    return math.inf if box is None else box[2] * box[3]


def _numbers(box: Any) -> tuple[float, float, float, float] | None:
    """Four finite numbers, or None where these are none."""
    try:
        x, y, width, height = map(float, box)
    except (TypeError, ValueError):
        return None
    return (x, y, width, height) if all(map(math.isfinite, (x, y, width, height))) else None
