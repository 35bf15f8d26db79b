"""ImageNet (ILSVRC 2012): class folders by WordNet id, with boxes where their XML files have been unpacked.

Pictures: train/n01440764/*.JPEG and val/n01440764/*.JPEG, or ILSVRC's own Data/CLS-LOC/train and a flat
Data/CLS-LOC/val (the class is then read from the XML file). XML files: anywhere the archives or Kaggle put them.
A box is scaled where the XML file gives another size than the picture has; of several boxes the largest counts.
"""

import math
import os
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from precompute.datasets.listing import BadRow, Box, Listing, rank
from precompute.datasets.rows import Dataset, Row, listing_of, walk_pictures

_PICTURES = ("{split}", "Data/CLS-LOC/{split}")
_SHARED = "pictures whose XML file is not known: its name is that of several pictures"
_XMLS = ("bbox/{split}", "bbox_{split}", "Annotations/CLS-LOC/{split}", "Annotation", "Annotations")


def read(dataset: Dataset, root: Path) -> Listing:
    folders = {split: folder for split in ("train", "val") if (folder := _first(root, _PICTURES, split)) is not None}
    if not folders:
        dataset.expect(root, "train")
    notes: Counter[str] = Counter()
    rows = [row for split, folder in folders.items() for row in _rows(root, split, folder, notes)]
    unboxed = "pictures without an XML file of boxes" if any(row.file for row in rows) else ""
    return listing_of(dataset, root, rows, splits=tuple(folders), read_box=largest_box, notes=notes, unboxed=unboxed)


def _rows(root: Path, split: str, folder: str, notes: Counter[str]) -> Iterator[Row]:
    xml_folder = _first(root, _XMLS, split)
    xmls = [] if xml_folder is None else (root / xml_folder).rglob("*.xml")
    present = {xml.relative_to(root / str(xml_folder)).with_suffix("").as_posix() for xml in xmls}
    rows = [*walk_pictures(root, notes, folder)]
    stems = [os.path.splitext(row.path[len(folder) + 1 :])[0] for row in rows]
    xml_of = [next((x for x in (stem, stem.rpartition("/")[2]) if x in present), None) for stem in stems]
    takers = Counter(xml_of)
    for row, stem, xml in zip(rows, stems, xml_of, strict=True):
        if xml not in (stem, None) and takers[xml] > 1:  # beside each other in one folder, not below their classes
            xml, notes[_SHARED] = None, notes[_SHARED] + 1
        inner = row.path[len(folder) + 1 :]
        file = None if xml is None else f"{xml_folder}/{xml}.xml"
        label, fault = inner.split("/")[0] if "/" in inner else None, row.fault
        if label is None and file is not None:
            try:
                label = _parse(root, file).findtext("object/name")
            except BadRow as error:
                fault = str(error)
        yield row._replace(label=label, split=split, file=file, fault=fault)


def largest_box(root: Path, xml: str) -> Box | None:
    """The largest <bndbox> of a PASCAL VOC file; None where it has none. Raises BadRow."""
    tree = _parse(root, xml)
    size = tree.find("size")
    boxes = []
    try:
        shape = None if size is None else (int(size.findtext("width", "")), int(size.findtext("height", "")))
        for node in tree.iter("bndbox"):
            x0, y0, x1, y1 = (float(node.findtext(key, "")) for key in ("xmin", "ymin", "xmax", "ymax"))
            if not all(map(math.isfinite, (x0, y0, x1, y1))):
                raise ValueError(f"{x0:g}, {y0:g}, {x1:g}, {y1:g}")
            boxes.append((x0, y0, x1, y1))
    except ValueError as error:
        raise BadRow(f"{xml}: a box or size in it is not a number ({error})") from error
    if not boxes:
        return None
    return Box(max(boxes, key=lambda b: rank(b[2] - b[0], b[3] - b[1])), xml, shape)


def _parse(root: Path, xml: str) -> ElementTree.Element:
    try:
        return ElementTree.parse(os.path.join(root, xml)).getroot()
    except (OSError, ElementTree.ParseError) as error:
        raise BadRow(f"{xml}: cannot be read ({error})") from error


def _first(root: Path, patterns: tuple[str, ...], split: str) -> str | None:
    folders = (pattern.format(split=split) for pattern in patterns)
    return next((folder for folder in folders if (root / folder).is_dir()), None)


_TREE = """
  train/n01440764/*.JPEG ...     val/n01440764/*.JPEG ...
  bbox/train/n01440764/*.xml     bbox/val/*.xml           (may be absent: boxes then come from a detector)
or ILSVRC's
  Data/CLS-LOC/train/n01440764/*.JPEG          Data/CLS-LOC/val/*.JPEG
  Annotations/CLS-LOC/train/n01440764/*.xml    Annotations/CLS-LOC/val/*.xml"""
_GET = "It is given to registered users only: https://image-net.org/download-images.php."
DATASET = Dataset("imagenet", "ImageNet", read, _TREE, "data/imagenet", get=_GET)
