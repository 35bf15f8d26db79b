"""Text files joined by image id, one box a picture: CUB-200-2011, NABirds, and the demo set in CUB's layout.

Ids may have gaps and the files any order; the real CUB has boxes that hang over the edge, and copies are around that
lack image_class_labels.txt (the class is then read from the folder, `001.Black_footed_Albatross`).
"""

import math
from pathlib import Path

import numpy as np

from precompute.base.boxfile import Quarantined
from precompute.base.errors import UserError
from precompute.datasets.base import Listing, escapes, expect, read_pairs

TREES = {
    "read_cub": """
  images/001.Black_footed_Albatross/*.jpg ...
  images.txt               lines: id path-below-images
  bounding_boxes.txt       lines: id x y width height (pixels)
  train_test_split.txt     lines: id 1-for-training
  image_class_labels.txt   lines: id class-id (may be absent)
  classes.txt              lines: class-id name (may be absent)""",
    "read_nabirds": """
  images/0817/*.jpg ...
  images.txt               lines: id path-below-images
  bounding_boxes.txt       lines: id x y width height (pixels)
  train_test_split.txt     lines: id 1-for-training
  image_class_labels.txt   lines: id class-id
  classes.txt              lines: class-id name (all nodes of the hierarchy)""",
}


def read_cub(root: Path, name: str, source: str) -> Listing:
    """CUB-200-2011. Raises UserError where files are missing or a line cannot be read at all."""
    needed = ("images", "images.txt", "bounding_boxes.txt", "train_test_split.txt")
    expect(root, "CUB-200-2011", needed, TREES["read_cub"], source)
    return _read(root, name, used_only=False)


def read_nabirds(root: Path, name: str, source: str) -> Listing:
    """NABirds: classes.txt names every node of its hierarchy, so only those that have pictures count as classes."""
    needed = ("images", "images.txt", "bounding_boxes.txt", "train_test_split.txt", "image_class_labels.txt")
    expect(root, "NABirds", (*needed, "classes.txt"), TREES["read_nabirds"], source)
    return _read(root, name, used_only=True)


def _read(root: Path, name: str, used_only: bool) -> Listing:
    listing = Listing(name, root, (), ("train", "test"), [], np.empty(0, np.int32), np.empty(0, np.uint8))
    files = _read_images(root / "images.txt", listing)
    class_names, class_of = _read_classes(root, files, listing, used_only)
    training = {key: rest for _, key, rest in read_pairs(root / "train_test_split.txt")}
    keys, labels, splits = [], [], []
    for key, (line, path) in files.items():
        if training.get(key) not in ("0", "1"):
            said = f"says {training[key]!r}, not 0 or 1," if key in training else "has no line"
            listing.quarantine.append(Quarantined(path, f"train_test_split.txt {said} for id {key}"))
        elif key not in class_of:
            reason = f"no class for id {key} (images.txt line {line}) in image_class_labels.txt"
            listing.quarantine.append(Quarantined(path, reason))
        else:
            keys.append(key)
            listing.paths.append(path)
            labels.append(class_of[key])
            splits.append(training[key] == "0")
    listing.class_names = class_names
    listing.labels = np.array(labels, np.int32)
    listing.splits = np.array(splits, np.uint8)
    _read_boxes(root / "bounding_boxes.txt", keys, listing)
    return listing


def _read_images(path: Path, listing: Listing) -> dict[str, tuple[int, str]]:
    """id -> (line, path below the root); rows that cannot be used go to the quarantine."""
    files: dict[str, tuple[int, str]] = {}
    for line, key, file in read_pairs(path):
        where = f"{path.name} line {line}: "
        if escapes(file):
            listing.quarantine.append(Quarantined(file, f"{where}the path {file!r} leaves the folder images"))
        elif key in files:
            first, other = files[key]
            listing.quarantine.append(
                Quarantined(f"images/{file}", f"{where}id {key} stands there twice (first in line {first}: {other})")
            )
        else:
            files[key] = (line, f"images/{file}")
    return files


def _read_classes(
    root: Path, files: dict[str, tuple[int, str]], listing: Listing, used_only: bool
) -> tuple[tuple[str, ...], dict[str, int]]:
    """Class names in the order of classes.txt, and id of the image -> index of its class."""
    folders = {key: path.split("/")[1] for key, (_, path) in files.items()}
    if (root / "classes.txt").exists():
        rows = [(key, name) for _, key, name in read_pairs(root / "classes.txt")]
    else:
        rows = [(name.partition(".")[0], name) for name in sorted(set(folders.values()))]
        listing.note("classes read from the folders' names (no classes.txt)", len(rows))
    if used_only:
        used = {rest for _, _, rest in read_pairs(root / "image_class_labels.txt")}
        rows = [(key, name) for key, name in rows if key in used]
    index_of = {key: i for i, (key, _) in enumerate(rows)}
    class_names = tuple(name for _, name in rows)
    if (root / "image_class_labels.txt").exists():
        class_of = {}
        for line, key, rest in read_pairs(root / "image_class_labels.txt"):
            if rest not in index_of:
                raise UserError(
                    f"{root / 'image_class_labels.txt'} line {line}: class id {rest!r} is not in classes.txt"
                )
            class_of[key] = index_of[rest]
        return class_names, class_of
    by_name = {name: i for i, name in enumerate(class_names)}
    by_number = {int(key): i for i, (key, _) in enumerate(rows) if key.isdigit()}
    class_of = {}
    for key, folder in folders.items():
        number = folder.partition(".")[0]
        label = by_name.get(folder, by_number.get(int(number)) if number.isdigit() else None)
        if label is not None:
            class_of[key] = label
    listing.note("labels read from the folders' names (no image_class_labels.txt)", len(class_of))
    return class_names, class_of


def _read_boxes(path: Path, keys: list[str], listing: Listing) -> None:
    row_of = {key: i for i, key in enumerate(keys)}
    edges = np.full((len(keys), 4), np.nan)
    lines = np.zeros(len(keys), np.int32)
    for line, key, rest in read_pairs(path):
        if key not in row_of:
            continue
        i = row_of[key]
        if lines[i]:
            listing.box_faults[i] = f"{path.name} line {line}: id {key} has a box in line {lines[i]} already"
        lines[i] = line
        try:
            x, y, width, height = map(float, rest.split())
            if not all(map(math.isfinite, (x, y, width, height))):
                raise ValueError
            edges[i] = x, y, x + width, y + height
        except ValueError:
            listing.box_faults[i] = f"{path.name} line {line}: {rest!r} is not four numbers (x y width height)"
    for key, i in row_of.items():
        if not lines[i]:
            listing.box_faults[i] = f"{path.name} has no box for id {key}"
    listing.edges, listing.lines, listing.box_file, listing.every_has_box = edges, lines, path.name, True
