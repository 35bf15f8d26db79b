"""FGVC-Aircraft 2013b: 100 variants, a box for each picture, and a banner of 20 pixels at its foot, which is cut off.

images_box.txt has xmin ymin xmax ymax, both ends inside. The set's README says that it counts from 1, but the numbers
themselves count from 0: some begin at 0, and in pictures of 1,024 pixels they end at 1023.
"""

from collections.abc import Iterator
from pathlib import Path

from precompute.datasets.listing import Box, Listing
from precompute.datasets.rows import Archive, Dataset, Row, listing_of, read_lines, read_pairs

_SPLITS = ("train", "val", "test")


def read(dataset: Dataset, root: Path) -> Listing:
    lists = [f"data/images_variant_{split}.txt" for split in _SPLITS]
    dataset.expect(root, "data/images", "data/images_box.txt", "data/variants.txt", *lists)
    variants = {line: line for _, line in read_lines(root / "data" / "variants.txt")}
    return listing_of(
        dataset, root, _rows(root / "data", variants), splits=_SPLITS, classes=variants, folder="data/images/",
        boxed=True, boxes_in="images_box.txt", banner=20,
    )  # fmt: skip


def _rows(data: Path, variants: dict[str, str]) -> Iterator[Row]:
    boxes = {key: _box(rest, f"images_box.txt line {line}") for line, key, rest in read_pairs(data / "images_box.txt")}
    for split in _SPLITS:
        file = f"images_variant_{split}.txt"
        for line, key, variant in read_pairs(data / file):
            where = f"{file} line {line}"
            fault = "" if variant in variants else f"{where}: the variant {variant!r} is not in variants.txt"
            yield Row(f"{key}.jpg", variant, split, boxes.get(key), fault=fault, where=where)


def _box(text: str, where: str) -> Box | str:
    try:
        x0, y0, x1, y1 = map(int, text.split())
    except ValueError:
        return f"{where}: {text!r} is not four whole numbers"
    return Box((x0, y0, x1 + 1, y1 + 1), where)


_TREE = """
  data/images/0034309.jpg ...
  data/images_box.txt        lines: id xmin ymin xmax ymax
  data/variants.txt          one name a line
  data/images_variant_train.txt, ..._val.txt, ..._test.txt   lines: id variant"""
_URL = "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/archives/fgvc-aircraft-2013b.tar.gz"
_ARCHIVES = (Archive(_URL, "d4acdd33327262359767eeaa97a4f732", ".."),)
DATASET = Dataset("aircraft", "FGVC-Aircraft", read, _TREE, "data/fgvc-aircraft-2013b", archives=_ARCHIVES)
