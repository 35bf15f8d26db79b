"""A data set as its files describe it, before any picture is opened; and the meaning of an annotated box."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from precompute.base.members import Member

if TYPE_CHECKING:
    import numpy as np

    from precompute.base.boxfile import Quarantined


class BadRow(Exception):
    """An annotation that cannot be used; the text names the file, the line and the value."""


class OtherFrame(BadRow):
    """A box that was annotated in a picture of other proportions: where it lies in this one is not known."""


@dataclass(frozen=True)
class Box:
    """An annotated box in pixels of the picture as seen (x0, y0, x1, y1; end-exclusive), and where it is written.

    `size`: width and height that the annotation was made at, where it says so. The box is scaled where the picture has
    other ones of the same proportions. `same_shape`: other proportions are a fault (a mask of another picture).
    """

    edges: tuple[float, float, float, float]
    where: str
    size: tuple[int, int] | None = None
    same_shape: bool = False


@dataclass(frozen=True, eq=False)
class Listing:
    """The pictures of a data set. Row i of every column is picture i; `rows.listing_of` makes it.

    Faults of boxes are no quarantine, since they do not matter when boxes come from a detector.
    """

    dataset: str
    root: Path
    class_names: tuple[str, ...]
    split_names: tuple[str, ...]
    paths: list[str]
    labels: "np.ndarray"  # int32 [N]; -1 unknown
    splits: "np.ndarray"  # uint8 [N]
    boxes: Sequence[Box | str | None] | None  # annotated; a string: why that cannot be used; None: not listed
    files: Sequence[str | None]  # the file, relative to the root, that only this picture's box is read from
    read_box: Callable[[Path, str], Box | None] | None  # reads a file of `files`; None: there are none
    read_mask: "Callable[[Path, str], np.ndarray] | None"
    boxes_in: str  # the file or files that hold a box of every picture; "": pictures may have none
    banner: int  # rows at the foot of every picture that do not belong to it
    quarantine: "tuple[Quarantined, ...]"  # pictures whose fault shows without opening them
    notes: Mapping[str, int]  # what was mended or left aside while listing, and how often
    members: Sequence[Member | None] = ()  # where pictures lie in archives; (): all are files

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def has_boxes(self) -> bool:
        """Whether the set comes with boxes (not: whether every picture has one)."""
        return self.boxes is not None or any(file is not None for file in self.files)

    @property
    def every_has_box(self) -> bool:
        """Whether a picture without a box is a fault."""
        return bool(self.boxes_in)

    def box(self, i: int) -> Box | None:
        """Picture i's annotated box; None where it has none. Raises BadRow for an annotation that makes no sense."""
        file = self.annotation_path(i)
        if file is not None and self.read_box is not None:
            return self.read_box(self.root, file)
        box = self.boxes[i] if self.boxes is not None else None
        if box is None and self.every_has_box:
            box = f"{self.boxes_in} has no box for it"
        if isinstance(box, str):
            raise BadRow(box)
        return box

    def member(self, i: int) -> Member | None:
        """Where picture i lies in an archive; None: it is a file."""
        return self.members[i] if self.members else None

    def annotation_path(self, i: int) -> str | None:
        """The file (relative to the root) that only picture i's box is read from; None: there is no such file."""
        return self.files[i] if self.files else None

    def mask(self, i: int) -> "np.ndarray | None":
        """Picture i's foreground as bool [H, W], where the set has masks; else None. Raises BadRow."""
        file = self.annotation_path(i)
        return None if file is None or self.read_mask is None else self.read_mask(self.root, file)


def rank(width: float, height: float) -> tuple[bool, float]:
    """By which the largest of several boxes is taken: any of a pixel or more before those that are of no use."""
    return min(width, height) >= 1, width * height


def clip_box(box: Box, width: int, height: int, orientation: int = 1) -> tuple[tuple[float, float, float, float], bool]:
    """The box in [0, 1] of a picture of width × height pixels as seen, and whether it had to be clipped.

    `orientation`: the picture's EXIF value, 1-8. A box of the stored picture, which its `size` shows, is turned by it.
    Raises BadRow where a number is not finite or less than one pixel of the box lies inside, OtherFrame where the
    annotation is of a picture of other proportions.
    """
    from precompute.base.boxmath import alike  # NumPy: too heavy for --help

    written = "{}: the box x {:g}, y {:g}, width {:g}, height {:g}".format(
        box.where, *box.edges[:2], box.edges[2] - box.edges[0], box.edges[3] - box.edges[1]
    )
    if not all(map(math.isfinite, box.edges)):
        raise BadRow(f"{written} is not of finite numbers")
    x0, y0, x1, y1 = box.edges
    wide, high = box.size or (width, height)
    if not alike(wide, high, width, height) and orientation > 4 and alike(high, wide, width, height):
        (x0, y0, x1, y1), wide, high = _turned(box.edges, wide, high, orientation), high, wide
    if not alike(wide, high, width, height):
        kind = BadRow if box.same_shape else OtherFrame
        raise kind(f"{box.where}: made for a picture of {wide}x{high} pixels, but this one has {width}x{height}")
    across, down = width / wide, height / high
    x0, y0, x1, y1 = x0 * across, y0 * down, x1 * across, y1 * down
    inside = left, top, right, bottom = max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height))
    if right - left < 1 or bottom - top < 1:
        fault = f"lies outside the picture of {width}x{height} pixels"
        if min(x1 - x0, y1 - y0) < 1:
            fault = "has no area" if min(x1 - x0, y1 - y0) <= 0 else "is less than a pixel wide or high"
        raise BadRow(f"{written} {fault}")
    return (left / width, top / height, right / width, bottom / height), inside != (x0, y0, x1, y1)


def _turned(
    edges: tuple[float, float, float, float], wide: int, high: int, orientation: int
) -> tuple[float, float, float, float]:
    """A box of a stored picture of wide × high pixels in the picture as seen, for an orientation from 5 to 8."""
    y0, x0, y1, x1 = edges  # rows and columns change places
    if orientation in (7, 8):  # then top to bottom
        y0, y1 = wide - y1, wide - y0
    if orientation in (6, 7):  # then left to right
        x0, x1 = high - x1, high - x0
    return x0, y0, x1, y1
