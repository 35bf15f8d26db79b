"""FGVC-Aircraft 2013b: 100 variants, one box a picture, and a banner of 20 pixels at the foot of each that is cut off.

images_box.txt has xmin ymin xmax ymax with the top-left pixel at (1, 1) and both ends inside (the set's README).
"""

from pathlib import Path

import numpy as np

from precompute.base.boxfile import Quarantined
from precompute.datasets.base import Listing, escapes, expect, read_lines, read_pairs

BANNER = 20
_TREE = """
  data/images/0034309.jpg ...
  data/images_box.txt        lines: id xmin ymin xmax ymax
  data/variants.txt          one name a line
  data/images_variant_train.txt, ..._val.txt, ..._test.txt   lines: id variant"""
TREES = {"read": _TREE}


def read(root: Path, name: str, source: str) -> Listing:
    splits = ("train", "val", "test")
    needed = ["data/images", "data/images_box.txt", "data/variants.txt"]
    needed += [f"data/images_variant_{split}.txt" for split in splits]
    expect(root, "FGVC-Aircraft", needed, _TREE, source)
    data = root / "data"
    names = tuple(line for _, line in read_lines(data / "variants.txt"))
    index_of = {variant: i for i, variant in enumerate(names)}
    listing = Listing(name, root, names, splits, [], np.empty(0, np.int32), np.empty(0, np.uint8), banner=BANNER)
    keys, labels, split_of, seen = [], [], [], set()
    for k, split in enumerate(splits):
        file = f"images_variant_{split}.txt"
        for line, key, variant in read_pairs(data / file):
            path = f"data/images/{key}.jpg"
            if variant not in index_of:
                reason = f"{file} line {line}: the variant {variant!r} is not in variants.txt"
            elif escapes(path):
                reason = f"{file} line {line}: the path leaves the folder images"
            elif key in seen:
                reason = f"{file} line {line}: id {key} stands in the lists twice"
            else:
                seen.add(key)
                keys.append(key)
                labels.append(index_of[variant])
                split_of.append(k)
                continue
            listing.quarantine.append(Quarantined(path, reason))
    listing.paths = [f"data/images/{key}.jpg" for key in keys]
    listing.labels, listing.splits = np.array(labels, np.int32), np.array(split_of, np.uint8)
    _read_boxes(data / "images_box.txt", keys, listing)
    return listing


def _read_boxes(path: Path, keys: list[str], listing: Listing) -> None:
    row_of = {key: i for i, key in enumerate(keys)}
    edges, lines = np.full((len(keys), 4), np.nan), np.zeros(len(keys), np.int32)
    for line, key, rest in read_pairs(path):
        if key in row_of:
            i = row_of[key]
            lines[i] = line
            try:
                x0, y0, x1, y1 = map(int, rest.split())
                edges[i] = x0 - 1, y0 - 1, x1, y1
            except ValueError:
                listing.box_faults[i] = f"{path.name} line {line}: {rest!r} is not four whole numbers"
    listing.edges, listing.lines, listing.box_file, listing.every_has_box = edges, lines, path.name, True
