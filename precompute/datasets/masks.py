"""Sets with a foreground mask a picture, read when the picture is: Oxford-IIIT Pet (trimaps) and ECSSD.

The box is the mask's extent. In a trimap 1 is the animal, 2 the background, 3 the border between them, about as wide
as the annotators' doubt; it counts as foreground, so that the box holds the whole animal.
"""

import os
from pathlib import Path

import numpy as np

from precompute.datasets.base import BadRow, Box, Listing, expect, read_lines, walk_pictures

_PETS = """
  images/Abyssinian_1.jpg ...
  annotations/trimaps/Abyssinian_1.png ...
  annotations/trainval.txt   annotations/test.txt    lines: name class-id species breed-id"""
_ECSSD = """
  images/0001.jpg ...
  ground_truth_mask/0001.png ..."""
TREES = {"read_pets": _PETS, "read_ecssd": _ECSSD}


class MaskListing(Listing):
    """A listing whose boxes come from mask files. `masks[i]` is relative to the root."""

    masks: list[str]
    trimap: bool

    @property
    def has_boxes(self) -> bool:
        return True

    def annotation_path(self, i: int) -> str | None:
        return self.masks[i]

    def mask(self, i: int) -> np.ndarray:
        from PIL import Image

        try:
            with Image.open(os.path.join(self.root, self.masks[i])) as picture:
                values = np.asarray(picture)
        except FileNotFoundError:
            raise BadRow(f"{self.masks[i]}: its mask is not there") from None
        except (OSError, ValueError, SyntaxError) as error:
            raise BadRow(f"{self.masks[i]}: its mask cannot be read: {error}") from error
        if values.ndim == 3:
            values = values[..., 0]
        return (values == 1) | (values == 3) if self.trimap else values > 127

    def box(self, i: int) -> Box:
        mask = self.mask(i)
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if not len(rows):
            raise BadRow(f"{self.masks[i]}: its mask has no foreground")
        edges = (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))
        return Box(edges, self.masks[i], (mask.shape[1], mask.shape[0]), same_shape=True)


def read_pets(root: Path, name: str, source: str) -> Listing:
    """37 breeds; trainval.txt is the split "train", test.txt "test". The class is the name before the last `_`."""
    needed = ("images", "annotations/trimaps", "annotations/trainval.txt", "annotations/test.txt")
    expect(root, "Oxford-IIIT Pet", needed, _PETS, source)
    names, breeds, splits, numbers = [], [], [], {}
    for k, file in enumerate(("trainval.txt", "test.txt")):
        for _, line in read_lines(root / "annotations" / file):
            if line.startswith("#"):
                continue
            fields = line.split()
            breed = fields[0].rpartition("_")[0]
            names.append(fields[0])
            breeds.append(breed)
            splits.append(k)
            numbers.setdefault(breed, int(fields[1]) if len(fields) > 1 and fields[1].isdigit() else 0)
    classes = sorted(numbers, key=lambda breed: (numbers[breed], breed))
    index_of = {breed: i for i, breed in enumerate(classes)}
    listing = MaskListing(
        name, root, tuple(classes), ("train", "test"), [f"images/{n}.jpg" for n in names],
        np.array([index_of[b] for b in breeds], np.int32), np.array(splits, np.uint8), every_has_box=True,
    )  # fmt: skip
    listing.masks, listing.trimap = [f"annotations/trimaps/{n}.png" for n in names], True
    return listing


def read_ecssd(root: Path, name: str, source: str) -> Listing:
    """A saliency benchmark: no classes, one split ("test")."""
    expect(root, "ECSSD", ("images", "ground_truth_mask"), _ECSSD, source)
    listing = MaskListing(name, root, (), ("test",), [], np.empty(0, np.int32), np.empty(0, np.uint8))
    paths = walk_pictures(root / "images", listing)
    listing.paths = [f"images/{path}" for path in paths]
    listing.labels, listing.splits = np.full(len(paths), -1, np.int32), np.zeros(len(paths), np.uint8)
    listing.masks, listing.trimap = [f"ground_truth_mask/{os.path.splitext(p)[0]}.png" for p in paths], False
    listing.every_has_box = True
    return listing
