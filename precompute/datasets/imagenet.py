"""ImageNet (ILSVRC 2012): class folders by WordNet id, with boxes where their XML files have been unpacked.

Pictures: train/n01440764/*.JPEG and val/n01440764/*.JPEG, or ILSVRC's own Data/CLS-LOC/train and a flat
Data/CLS-LOC/val (the class is then read from the XML file). XML files: anywhere the archives or Kaggle put them.
A box is scaled where the XML file gives another size than the picture has; of several boxes the largest counts.
"""

import math
import os
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np

from precompute.base.boxfile import Quarantined
from precompute.datasets.base import BadRow, Box, Listing, expect, walk_pictures

_TREE = """
  train/n01440764/*.JPEG ...     val/n01440764/*.JPEG ...
  bbox/train/n01440764/*.xml     bbox/val/*.xml           (may be absent: boxes then come from a detector)
or ILSVRC's
  Data/CLS-LOC/train/n01440764/*.JPEG          Data/CLS-LOC/val/*.JPEG
  Annotations/CLS-LOC/train/n01440764/*.xml    Annotations/CLS-LOC/val/*.xml"""
TREES = {"read": _TREE}
_PICTURES = ("{split}", "Data/CLS-LOC/{split}")
_XMLS = ("bbox/{split}", "bbox_{split}", "Annotations/CLS-LOC/{split}", "Annotation", "Annotations")


class XmlListing(Listing):
    """A listing whose boxes come from one XML file a picture, where there is one."""

    xmls: list[str | None]  # relative to the root

    @property
    def has_boxes(self) -> bool:
        return any(xml is not None for xml in self.xmls)

    def annotation_path(self, i: int) -> str | None:
        return self.xmls[i]

    def box(self, i: int) -> Box | None:
        xml = self.xmls[i]
        return None if xml is None else largest_box(self.root, xml)


def read(root: Path, name: str, source: str) -> Listing:
    found = {split: _first(root, _PICTURES, split) for split in ("train", "val")}
    splits = tuple(split for split, folder in found.items() if folder is not None)
    if not splits:
        expect(root, "ImageNet", ("train",), _TREE, source)
    listing = XmlListing(name, root, (), splits, [], np.empty(0, np.int32), np.empty(0, np.uint8))
    listing.xmls = []
    classes: list[str | None] = []
    split_of = []
    for k, split in enumerate(splits):
        folder, xml_folder = found[split], _first(root, _XMLS, split)
        present = _xmls_below(root, xml_folder)
        for path in walk_pictures(root / str(folder), listing):
            stem = os.path.splitext(path)[0]
            xml = next((x for x in (stem, stem.rpartition("/")[2]) if x in present), None)
            xml_path = None if xml is None else f"{xml_folder}/{xml}.xml"
            wnid = path.split("/")[0] if "/" in path else None
            if wnid is None and xml_path is not None:
                try:
                    wnid = _class_in(root, xml_path)
                except BadRow as error:
                    listing.quarantine.append(Quarantined(f"{folder}/{path}", str(error)))
                    continue
            listing.paths.append(f"{folder}/{path}")
            listing.xmls.append(xml_path)
            classes.append(wnid)
            split_of.append(k)
    names = sorted({c for c in classes if c is not None})
    index_of: dict[str | None, int] = {c: i for i, c in enumerate(names)}
    listing.class_names = tuple(names)
    listing.labels = np.array([index_of.get(c, -1) for c in classes], np.int32)
    listing.splits = np.array(split_of, np.uint8)
    if listing.has_boxes and None in listing.xmls:
        listing.note("pictures without an XML file of boxes", listing.xmls.count(None))
    return listing


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
    return Box(max(boxes, key=lambda b: (b[2] - b[0]) * (b[3] - b[1])), xml, shape)


def _class_in(root: Path, xml: str) -> str | None:
    return _parse(root, xml).findtext("object/name")


def _parse(root: Path, xml: str) -> ElementTree.Element:
    try:
        return ElementTree.parse(os.path.join(root, xml)).getroot()
    except (OSError, ElementTree.ParseError) as error:
        raise BadRow(f"{xml}: cannot be read ({error})") from error


def _first(root: Path, patterns: tuple[str, ...], split: str) -> str | None:
    folders = (pattern.format(split=split) for pattern in patterns)
    return next((folder for folder in folders if (root / folder).is_dir()), None)


def _xmls_below(root: Path, folder: str | None) -> set[str]:
    """Paths below `folder` without the ending."""
    if folder is None:
        return set()
    home = root / folder
    return {p.relative_to(home).with_suffix("").as_posix() for p in home.rglob("*.xml")}
