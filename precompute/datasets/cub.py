"""Text files joined by image id, with a box for each picture: CUB-200-2011, NABirds, and the demo set in CUB's layout.

Ids may have gaps and the files any order; the real CUB has boxes that hang over the edge, and copies are around that
lack image_class_labels.txt (the class is then read from the folder, `001.Black_footed_Albatross`).
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from precompute.base.errors import UserError
from precompute.datasets.listing import Box, Listing
from precompute.datasets.rows import Archive, Dataset, Row, four_numbers, listing_of, read_pairs

_NEEDED = ("images", "images.txt")


def read(dataset: Dataset, root: Path) -> Listing:
    """CUB-200-2011. Raises UserError where files are missing or a line cannot be read at all."""
    dataset.expect(root, *_NEEDED)
    return _joined(dataset, root, used_only=False)


def read_nabirds(dataset: Dataset, root: Path) -> Listing:
    """NABirds: classes.txt names every node of its hierarchy, so only those that have pictures count as classes."""
    dataset.expect(root, *_NEEDED, "bounding_boxes.txt", "image_class_labels.txt", "classes.txt")
    return _joined(dataset, root, used_only=True)


def read_demo(dataset: Dataset, root: Path) -> Listing:
    """The demo set, made where it is missing."""
    if not root.exists():
        from precompute.demo import make_demo

        make_demo(root)
    return read(dataset, root)


def _joined(dataset: Dataset, root: Path, used_only: bool) -> Listing:
    notes: Counter[str] = Counter()
    files: dict[str, tuple[int, str]] = {}  # id: line of images.txt, path
    twice = []
    for line, key, path in read_pairs(root / "images.txt"):
        if key in files:
            first, other = files[key]
            fault = f"images.txt line {line}: id {key} stands there twice (first in line {first}: images/{other})"
            twice.append(Row(path, fault=fault))
        else:
            files[key] = (line, path)
    classes, class_of = _classes(root, files, used_only, notes)
    boxed, split = (root / "bounding_boxes.txt").exists(), (root / "train_test_split.txt").exists()
    if not split:
        notes["pictures in the split train, as there is no train_test_split.txt"] = len(files)
    if not boxed:
        notes["pictures without an annotated box, as there is no bounding_boxes.txt"] = len(files)
    rows = (*twice, *_rows(root, files, class_of, boxed, split))
    return listing_of(
        dataset, root, rows, splits=("train", "test") if split else ("train",), classes=classes, folder="images/",
        boxed=boxed, boxes_in="bounding_boxes.txt" if boxed else "", notes=notes,
    )  # fmt: skip


def _rows(
    root: Path, files: dict[str, tuple[int, str]], class_of: dict[str, str], boxed: bool, split: bool
) -> Iterator[Row]:
    lines = read_pairs(root / "train_test_split.txt") if split else ((0, key, "1") for key in files)
    training = {key: rest for _, key, rest in lines}
    boxes = _boxes(root) if boxed else {}
    for key, (line, path) in files.items():
        where = f"images.txt line {line}"
        if training.get(key) not in ("0", "1"):
            problem = f"says {training[key]!r}, not 0 or 1," if key in training else "has no line"
            yield Row(path, where=where, fault=f"train_test_split.txt {problem} for id {key}")
        elif key not in class_of:
            yield Row(path, where=where, fault=f"no class for id {key} ({where}) in image_class_labels.txt")
        else:
            box = boxes.get(key, f"bounding_boxes.txt has no box for id {key}" if boxed else None)
            yield Row(path, class_of[key], "test" if training[key] == "0" else "train", box, where=where)


def _classes(
    root: Path, files: dict[str, tuple[int, str]], used_only: bool, notes: Counter[str]
) -> tuple[dict[str, str], dict[str, str]]:
    """Class names by class id, in the order of classes.txt, and the class id of each image id."""
    folders = {key: path.split("/")[0] for key, (_, path) in files.items()}
    labels_file = root / "image_class_labels.txt"
    if (root / "classes.txt").exists():
        classes = {key: name for _, key, name in read_pairs(root / "classes.txt")}
    else:
        classes = {name.partition(".")[0]: name for name in sorted(set(folders.values()))}
        notes["classes read from the folders' names (no classes.txt)"] = len(classes)
    if used_only:
        used = {label for _, _, label in read_pairs(labels_file)}
        classes = {key: name for key, name in classes.items() if key in used}
    if labels_file.exists():
        class_of = {}
        for line, key, label in read_pairs(labels_file):
            if label not in classes:
                raise UserError(f"{labels_file} line {line}: class id {label!r} is not in classes.txt")
            class_of[key] = label
        return classes, class_of
    by_name = {name: key for key, name in classes.items()}
    by_number = {int(key): key for key in classes if key.isdigit()}
    class_of = {}
    for key, folder in folders.items():
        number = folder.partition(".")[0]
        label = by_name.get(folder, by_number.get(int(number)) if number.isdigit() else None)
        if label is not None:
            class_of[key] = label
    notes["labels read from the folders' names (no image_class_labels.txt)"] = len(class_of)
    return classes, class_of


def _boxes(root: Path) -> dict[str, Box | str]:
    """The box of each image id, or why it cannot be used; NABirds' sizes.txt says what size it was annotated at."""
    boxes: dict[str, Box | str] = {}
    path, sizes = root / "bounding_boxes.txt", _sizes(root / "sizes.txt")
    lines: dict[str, int] = {}
    for line, key, rest in read_pairs(path):
        where = f"{path.name} line {line}"
        numbers = four_numbers(rest.split())
        if numbers is None:
            boxes[key] = f"{where}: {rest!r} is not four numbers (x y width height)"
        elif key in lines:
            boxes[key] = f"{where}: id {key} has a box in line {lines[key]} already"
        else:
            x, y, width, height = numbers
            boxes[key] = Box((x, y, x + width, y + height), where, sizes.get(key))
        lines[key] = line
    return boxes


def _sizes(path: Path) -> dict[str, tuple[int, int]]:
    """Width and height of each image id, where the file is there and says them."""
    sizes = {}
    for _, key, rest in read_pairs(path) if path.exists() else ():
        words = rest.split()
        if len(words) == 2 and all(word.isdigit() for word in words):
            sizes[key] = int(words[0]), int(words[1])
    return sizes


_TREE = """
  images/001.Black_footed_Albatross/*.jpg ...
  images.txt               lines: id path-below-images
  bounding_boxes.txt       lines: id x y width height (pixels; may be absent)
  train_test_split.txt     lines: id 1-for-training (may be absent)
  image_class_labels.txt   lines: id class-id (may be absent)
  classes.txt              lines: class-id name (may be absent)"""
_NABIRDS_TREE = _TREE.replace("001.Black_footed_Albatross", "0817").replace("; may be absent", "")
_URL = "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz"
_LICENCE = "Its licence must be agreed to by hand: https://dl.allaboutbirds.org/nabirds, then unpack nabirds.tar.gz."
_ARCHIVES = (Archive(_URL, "97eceeb196236b17998738112f37df78", ".."),)
DATASETS = (
    Dataset("cub", "CUB-200-2011", read, _TREE, "data/CUB_200_2011", archives=_ARCHIVES),
    Dataset("nabirds", "NABirds", read_nabirds, _NABIRDS_TREE, "data/nabirds", get=_LICENCE),
    Dataset("demo", "CUB-200-2011", read_demo, _TREE, "data/demo"),
)
