"""Sets with a foreground mask a picture, read when the picture is: Oxford-IIIT Pet (trimaps) and ECSSD.

The box is the mask's extent. In a trimap 1 is the animal, 2 the background, 3 the border between them, about as wide
as the annotators' doubt; it counts as foreground, so that the box holds the whole animal.
"""

import contextlib
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from precompute.datasets.listing import BadRow, Box, Listing
from precompute.datasets.rows import Archive, Dataset, Row, listing_of, read_lines, walk_pictures

if TYPE_CHECKING:
    import numpy as np


def read_pets(dataset: Dataset, root: Path) -> Listing:
    """37 breeds; trainval.txt is the split "train", test.txt "test". The class is the name before the last `_`."""
    dataset.expect(root, "images", "annotations/trimaps", "annotations/trainval.txt", "annotations/test.txt")
    rows, numbers = [], {}
    for split, file in (("train", "trainval.txt"), ("test", "test.txt")):
        for number, line in read_lines(root / "annotations" / file):
            if line.startswith("#"):
                continue
            name, class_id = (*line.split(), "")[:2]
            breed = name.rpartition("_")[0]
            mask = f"annotations/trimaps/{name}.png"
            rows.append(Row(f"images/{name}.jpg", breed, split, file=mask, where=f"{file} line {number}"))
            numbers.setdefault(breed, int(class_id) if class_id.isdigit() else 0)
    classes = {breed: breed for breed in sorted(numbers, key=lambda breed: (numbers[breed], breed))}
    return listing_of(
        dataset, root, rows, splits=("train", "test"), classes=classes, boxes_in="masks",
        read_box=lambda root, file: extent(trimap(root, file), file), read_mask=trimap,
    )  # fmt: skip


def read_ecssd(dataset: Dataset, root: Path) -> Listing:
    """A saliency benchmark: no classes, one split ("test")."""
    dataset.expect(root, "images", "ground_truth_mask")
    notes: Counter[str] = Counter()
    rows = (
        row._replace(split="test", file=f"ground_truth_mask/{os.path.splitext(row.path[len('images/') :])[0]}.png")
        for row in walk_pictures(root, notes, "images")
    )
    return listing_of(
        dataset, root, rows, splits=("test",), boxes_in="masks", notes=notes,
        read_box=lambda root, file: extent(light(root, file), file), read_mask=light,
    )  # fmt: skip


def trimap(root: Path, file: str) -> "np.ndarray":
    """The foreground bool [H, W] of a trimap. Raises BadRow where it cannot be read."""
    values = grey(root, file)
    return (values == 1) | (values == 3)


def extent(mask: "np.ndarray", file: str) -> Box:
    """The box of a mask's foreground. Raises BadRow where there is none."""
    import numpy as np

    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    if not len(rows):
        raise BadRow(f"{file}: its mask has no foreground")
    edges = (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))
    return Box(edges, file, (mask.shape[1], mask.shape[0]), same_shape=True)


@contextlib.contextmanager
def _named(file: str) -> Iterator[None]:
    """What goes wrong with a mask becomes BadRow."""
    from precompute.base.pixels import BadImage

    try:
        yield
    except FileNotFoundError:
        raise BadRow(f"{file}: its mask is not there") from None
    except (OSError, ValueError, SyntaxError, BadImage) as error:
        raise BadRow(f"{file}: its mask cannot be read: {error}") from error


def light(root: Path, file: str) -> "np.ndarray":
    """Where a mask is light, bool [H, W], however its file says so. Raises BadRow where it cannot be read."""
    from precompute.base import pixels

    with _named(file):
        # With its palette applied, 1 bit made black and white, and 16 bits made 8.
        return pixels.decode((root / file).read_bytes()).max(-1) > 127


def grey(root: Path, file: str) -> "np.ndarray":
    """A mask's values uint8 [H, W], those of a palette its indices. Raises BadRow where it cannot be read."""
    import numpy as np
    from PIL import Image

    with _named(file), Image.open(os.path.join(root, file)) as picture:
        values = np.asarray(picture)
    return values[..., 0] if values.ndim == 3 else values


_PETS_TREE = """
  images/Abyssinian_1.jpg ...
  annotations/trimaps/Abyssinian_1.png ...
  annotations/trainval.txt   annotations/test.txt    lines: name class-id species breed-id"""
_ECSSD_TREE = """
  images/0001.jpg ...
  ground_truth_mask/0001.png ..."""
_URL = "https://www.robots.ox.ac.uk/~vgg/data/pets/data"
_PETS = (
    Archive(f"{_URL}/images.tar.gz", "5c4f3ee8e5d25df40f4fd59a7f44e54c", "."),
    Archive(f"{_URL}/annotations.tar.gz", "95a8c909bbe2e81eed6a22bccdf3f68f", "."),
)
_ECSSD = "images.zip and ground_truth_mask.zip from https://www.cse.cuhk.edu.hk/leojia/projects/hsaliency."
DATASETS = (
    Dataset("pets", "Oxford-IIIT Pet", read_pets, _PETS_TREE, "data/oxford-iiit-pet", archives=_PETS, masks=True),
    Dataset("ecssd", "ECSSD", read_ecssd, _ECSSD_TREE, "data/ECSSD", get=_ECSSD, masks=True),
)
