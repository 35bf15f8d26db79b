"""What a data set's reader hands out, and the tools all readers share."""

import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np

from precompute.base.boxfile import Quarantined
from precompute.base.errors import UserError

EXTENSIONS = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pnm")
)


class BadRow(Exception):
    """An annotation that cannot be used; the text names the file, the line and the value."""


@dataclass(frozen=True)
class Box:
    """An annotated box in pixels of the picture as seen (x0, y0, x1, y1; end-exclusive), and where it is written.

    `size`: width and height that the annotation was made at, where it says so; the box is scaled if they differ.
    `same_shape`: a size of other proportions than the picture's is a fault (a mask of another picture).
    """

    edges: tuple[float, float, float, float]
    where: str
    size: tuple[int, int] | None = None
    same_shape: bool = False


@dataclass(eq=False)
class Listing:
    """A data set as its files tell it, before any picture was opened. Row i of every column is picture i.

    A reader that can name a row's fault without opening the picture puts it into `quarantine`; faults of boxes go into
    `box_faults`, since they do not matter when the boxes come from a detector.
    """

    dataset: str
    root: Path
    class_names: tuple[str, ...]
    split_names: tuple[str, ...]
    paths: list[str]
    labels: np.ndarray  # int32 [N]; -1 unknown
    splits: np.ndarray  # uint8 [N]
    edges: np.ndarray | None = None  # float64 [N, 4]: annotated boxes in pixels (NaN: none); None: the set has none
    lines: np.ndarray | None = None  # int32 [N]: line of the box in `box_file`, for messages
    box_file: str = ""
    every_has_box: bool = False  # the set's own rule: a picture without a box is a fault
    banner: int = 0  # rows at the foot of every picture that do not belong to it
    box_faults: dict[int, str] = field(default_factory=dict)
    quarantine: list[Quarantined] = field(default_factory=list)
    notes: dict[str, int] = field(default_factory=dict)  # what was mended or left aside while listing, and how often

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def has_boxes(self) -> bool:
        """Whether the set comes with boxes (not: whether every picture has one)."""
        return self.edges is not None

    def box(self, i: int) -> Box | None:
        """Picture i's annotated box; None where it has none. Raises BadRow for an annotation that makes no sense."""
        if i in self.box_faults:
            raise BadRow(self.box_faults[i])
        if self.edges is None or math.isnan(self.edges[i, 0]):
            if self.every_has_box:
                raise BadRow(f"{self.box_file} has no box for it")
            return None
        line = "" if self.lines is None else f" line {self.lines[i]}"
        x0, y0, x1, y1 = self.edges[i].tolist()
        return Box((x0, y0, x1, y1), f"{self.box_file}{line}")

    def annotation_path(self, i: int) -> str | None:
        """The file (relative to the root) that only picture i's box is read from; None: there is no such file."""
        return None

    def mask(self, i: int) -> np.ndarray | None:
        """Picture i's foreground as bool [H, W], where the set has masks; else None. Raises BadRow."""
        return None

    def note(self, what: str, count: int = 1) -> None:
        self.notes[what] = self.notes.get(what, 0) + count


def clip_box(box: Box, width: int, height: int) -> tuple[tuple[float, float, float, float], bool]:
    """The box in [0, 1] of a picture of width × height pixels, and whether it had to be clipped.

    Raises BadRow where a number is not finite, the annotation is of a picture of another shape, or less than one pixel
    of the box lies inside.
    """
    x0, y0, x1, y1 = box.edges
    told = f"{box.where}: the box x {x0:g}, y {y0:g}, width {x1 - x0:g}, height {y1 - y0:g}"
    if not all(map(math.isfinite, box.edges)):
        raise BadRow(f"{told} is not of finite numbers")
    if box.same_shape and box.size is not None:
        wide, high = box.size
        if abs(width * high - height * wide) > max(width, height, wide, high):  # more than rounding to whole pixels
            raise BadRow(f"{box.where}: made for a picture of {wide}x{high} pixels, but this one has {width}x{height}")
    if box.size is not None and min(box.size) > 0 and box.size != (width, height):
        across, down = width / box.size[0], height / box.size[1]
        x0, y0, x1, y1 = x0 * across, y0 * down, x1 * across, y1 * down
    inside = (max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height)))
    if inside[2] - inside[0] < 1 or inside[3] - inside[1] < 1:
        kind = "has no area" if x1 - x0 < 1 or y1 - y0 < 1 else f"lies outside the picture of {width}x{height} pixels"
        raise BadRow(f"{told} {kind}")
    relative = (inside[0] / width, inside[1] / height, inside[2] / width, inside[3] / height)
    return relative, inside != (x0, y0, x1, y1)


def expect(root: Path, what: str, needed: Iterable[str], tree: str, source: str) -> None:
    """Raises UserError, with the tree that is expected, unless all `needed` files and folders are below `root`."""
    missing = [name for name in needed if not (root / name).exists()]
    if not missing:
        return
    problem = f"{', '.join(missing)} not found below it" if root.is_dir() else "there is no such folder"
    hint = ""
    if root.is_dir():
        inner = [child for child in sorted(root.iterdir()) if child.is_dir()]
        for child in inner:
            if all((child / name).exists() for name in needed):
                hint = f"\nIt seems to be one folder further down: --root {child}"
    article = "an" if what[0] in "AEFIO" else "a"
    raise UserError(f"{root} is not {article} {what} folder: {problem}.{hint}\nExpected:{tree.rstrip()}\n{source}")


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Line numbers (from 1) and stripped lines of a text file; blank ones are passed over. BOM and CRLF do no harm."""
    try:
        with open(path, encoding="utf-8-sig", newline=None) as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line.strip()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a UTF-8 text file ({error.reason})") from error


def read_pairs(path: Path) -> Iterator[tuple[int, str, str]]:
    """(line number, key, rest) of lines `key rest...`. Raises UserError for a line without a second field."""
    for number, line in read_lines(path):
        key, _, rest = line.partition(" ")
        if not rest.strip():
            raise UserError(f"{path} line {number}: {line!r}: expected two fields or more, separated by a space")
        yield number, key, rest.strip()


def escapes(path: str) -> bool:
    """Whether a listed path would leave the folder it is relative to."""
    pure = PurePosixPath(path)
    return pure.is_absolute() or ".." in pure.parts


def walk_pictures(folder: Path, listing: Listing) -> list[str]:
    """Paths (relative, '/' separated, sorted) of all files below `folder` whose name ends like a picture's.

    Hidden files and folders (also macOS's ._x.jpg) are passed over, links are followed but not in circles. Other
    files are counted in the listing's notes; what has no printable name and folders that cannot be read are named in
    its quarantine. OSError where `folder` itself cannot be read.
    """

    def inside(current: str, prefix: str, above: tuple[tuple[int, int], ...]) -> Iterator[str]:
        try:
            status = os.stat(current)
            identity = (status.st_dev, status.st_ino)
            if identity in above:  # a link to a folder that we are in
                return
            with os.scandir(current) as entries:
                found = sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: os.fsencode(e.name))
        except OSError as error:
            if not above:
                raise
            place = _shown(os.path.relpath(current, listing.root))
            listing.quarantine.append(Quarantined(f"{place}/", f"this folder cannot be read: {error.strerror}"))
            return
        for entry in found:
            if _is_folder(entry):
                yield from inside(entry.path, f"{prefix}{entry.name}/", (*above, identity))
            elif os.path.splitext(entry.name)[1].lower() in EXTENSIONS:
                yield prefix + entry.name
            else:
                kind = os.path.splitext(entry.name)[1] or "without an ending"
                what = f"files ignored, no pictures by their names ({kind})"
                listing.notes[what] = listing.notes.get(what, 0) + 1

    return drop_unprintable(inside(str(folder), "", ()), listing.quarantine)


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def drop_unprintable(paths: Iterable[str], quarantine: list[Quarantined]) -> list[str]:
    """Only paths that are UTF-8; the box file has no way to hold others, so they are named in `quarantine`."""
    kept = []
    for path in paths:
        try:
            path.encode()
            kept.append(path)
        except UnicodeEncodeError:
            quarantine.append(Quarantined(_shown(path), "its name is not UTF-8: rename the file"))
    return kept


def _shown(path: str) -> str:
    return os.fsencode(path).decode("utf-8", "backslashreplace")
