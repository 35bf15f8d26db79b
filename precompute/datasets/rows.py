"""The parts of a data set's reader: `Dataset` describes the set, the reader makes a `Row` for each picture.

A reader is one file of this package. It ends with `DATASET = Dataset(..., read=read)` (or with `DATASETS`, several of
them), and that is all: the registry is what the files of the package name.
"""

import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from precompute.base.errors import UserError
from precompute.base.files import leaves_root
from precompute.base.markup import one_line
from precompute.base.members import Member
from precompute.datasets.listing import Box, Listing

EXTENSIONS = frozenset((
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pnm",
    ".avif", ".jp2", ".j2k", ".jpx",
))  # fmt: skip

SPELLINGS = {
    "train": ("train", "training", "trn"),
    "val": ("val", "valid", "validation", "dev", "eval"),
    "test": ("test", "testing", "tst"),
}
_SPLITS = {spelling: split for split, spellings in SPELLINGS.items() for spelling in spellings}


@dataclass(frozen=True)
class Archive:
    """An official public archive: where, its MD5, and the folder it is unpacked into (relative to the set's root)."""

    url: str
    md5: str
    into: str


@dataclass(frozen=True)
class Dataset:
    """A data set: its name on the command line, its reader, where it usually lies, and how it can be had."""

    name: str
    title: str
    read: "Callable[[Dataset, Path], Listing]"  # raises UserError where the folder has another layout
    tree: str  # the layout that the reader expects, for messages
    usual_root: str | None = None  # None: no usual place, --root must be given
    get: str = ""  # one sentence on where to get it, if there are no archives
    archives: Sequence[Archive] = ()
    masks: bool = False  # whether it comes with foreground masks

    def how_to_get(self) -> str:
        """A sentence: where to get the set."""
        if not self.archives:
            return self.get
        urls = ", ".join(archive.url for archive in self.archives)
        return f"python -m precompute.boxes --dataset {self.name} --download fetches it ({urls})."

    def expect(self, root: Path, *needed: str) -> None:
        """Raises UserError, with the tree that is expected, unless all `needed` files and folders are below `root`."""
        missing = [name for name in needed if not (root / name).exists()]
        if not missing:
            return
        problem = "it is a file (only --dataset folder reads archives)" if root.exists() else "there is no such folder"
        hint = ""
        if root.is_dir():
            problem = f"{', '.join(missing)} not found below it"
            for child in sorted(root.iterdir()):
                if all((child / name).exists() for name in needed):
                    hint = f"\nIt seems to be one folder further down: --root {child}"
        raise UserError(
            f"{root} is no folder of {self.title}: {problem}.{hint}\nExpected:{self.tree}\n{self.how_to_get()}\n"
            "Any tree of pictures in class folders: --dataset folder"
        )


class Row(NamedTuple):
    """One picture as the set's files describe it; with a `fault` it is left out, and the fault is the reason."""

    path: str  # relative to the folder of pictures, '/' between folders
    label: Any = None  # key of its class; None: unknown
    split: str = "train"
    box: Box | str | None = None  # its annotated box; a string: why that cannot be used
    file: str | None = None  # the file, relative to the root, that only this picture's box is read from
    fault: str = ""
    where: str = ""  # where the picture is listed, for messages
    member: Member | None = None  # where it lies in an archive; None: it is a file


def listing_of(
    dataset: Dataset,
    root: Path,
    rows: Iterable[Row],
    *,
    splits: tuple[str, ...],
    classes: Mapping[Any, str] | None = None,
    folder: str = "",
    boxed: bool = False,
    boxes_in: str = "",
    banner: int = 0,
    read_box: Callable[[Path, str], Box | None] | None = None,
    read_mask: Callable[[Path, str], Any] | None = None,
    notes: Mapping[str, int] | None = None,
    unlabelled: str = "",
    unboxed: str = "",
) -> Listing:
    """The listing of `rows`. Leaves out rows with a fault, paths that leave their folder, and pictures listed twice.

    `classes`: names by label, in order (None: the labels are the names). `folder`: what paths are relative to, with a
    slash at its end. `boxed`: the set has boxes, even if no row has.
    `unlabelled`, `unboxed`: notes that count rows without a class or box.
    The other arguments are columns of `Listing`.
    """
    import numpy as np

    from precompute.base.boxfile import Quarantined

    paths, labels, split_of, boxes, files, members = [], [], [], [], [], []
    quarantine, seen = [], set()
    for row in rows:
        path, fault = folder + row.path, row.fault
        if leaves_root(path) or "\0" in path:
            place = f" {folder.rstrip('/')}" if folder else ""
            path, fault = one_line(row.path), f"{row.where}: the path {row.path!r} leaves the folder{place}"
        elif (shown := _shown(path)) != path:  # a box file could not hold the path
            path, fault = shown, "its name is not UTF-8: rename the file"
        elif not fault and path in seen:
            fault = f"{row.where}: stands there twice"
        elif not fault and row.split not in splits:
            fault = f"{row.where}: its split is {row.split!r}, and the set has {', '.join(splits)}"
        if fault:
            quarantine.append(Quarantined(path, fault))
            continue
        seen.add(path)
        paths.append(path)
        labels.append(row.label)
        split_of.append(splits.index(row.split))
        boxes.append(row.box)
        files.append(row.file)
        members.append(row.member)
    boxed = boxed or any(box is not None for box in boxes)
    if classes is None:
        classes = {label: label for label in sorted(set(labels) - {None})}
    index_of = {None: -1} | {label: i for i, label in enumerate(classes)}
    columns = np.array([index_of[label] for label in labels], np.int32), np.array(split_of, np.uint8)
    counts = Counter(notes or {})
    counts[unlabelled] += labels.count(None)
    counts[unboxed] += sum(not isinstance(box, Box) for box in boxes) if boxed else files.count(None)
    counts = {what: count for what, count in counts.items() if what and count}
    return Listing(
        dataset.name, root, tuple(map(_shown, classes.values())), splits, paths, *columns, boxes if boxed else None,
        files if read_box else (), read_box, read_mask, boxes_in, banner, tuple(quarantine), counts,
        members if any(members) else (),
    )  # fmt: skip


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


def four_numbers(values: Any) -> tuple[float, float, float, float] | None:
    """Four finite numbers; None where `values` are anything else."""
    try:
        a, b, c, d = map(float, values)
    except (TypeError, ValueError):
        return None
    return (a, b, c, d) if all(map(math.isfinite, (a, b, c, d))) else None


def split_of(folder: str) -> str | None:
    """The split that a folder's name says: train, Training, train_mini, train2017, val.X1; None for other names."""
    words = re.findall(r"[a-z]+", folder.lower())
    return _SPLITS.get(words[0]) if words else None


def is_picture(name: str) -> bool:
    """Whether a file's name ends like a picture's."""
    return os.path.splitext(name)[1].lower() in EXTENSIONS


def walk_pictures(
    root: Path, notes: Counter[str], folder: str = "", wanted: Callable[[str], bool] = is_picture
) -> Iterator[Row]:
    """A row for every file below root/folder whose name is `wanted`, sorted; paths are relative to `root`.

    Hidden files and folders (also macOS's ._x.jpg) are passed over, links are followed but not in circles. Other files
    are counted in `notes`, folders that cannot be read are rows with a fault. OSError where root/folder itself cannot
    be read.
    """

    def inside(current: str, prefix: str, above: tuple[tuple[int, int], ...]) -> Iterator[Row]:
        try:
            status = os.stat(current)
            identity = (status.st_dev, status.st_ino)
            if identity in above:  # a link to a folder that it is in
                return
            with os.scandir(current) as entries:
                visible = sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: os.fsencode(e.name))
        except OSError as error:
            if not above:
                raise
            yield Row(_shown(prefix), fault=f"this folder cannot be read: {error.strerror}")
            return
        for entry in visible:
            if _is_folder(entry):
                yield from inside(entry.path, f"{prefix}{entry.name}/", (*above, identity))
            elif wanted(entry.name):
                yield Row(prefix + entry.name)
            else:
                ignored[os.path.splitext(entry.name)[1] or "without an ending"] += 1

    ignored: Counter[str] = Counter()
    yield from inside(str(root / folder), f"{folder}/" if folder else "", ())
    note_ignored(ignored, notes)


def note_ignored(ignored: Counter[str], notes: Counter[str]) -> None:
    """Adds to `notes` how many files of which endings were passed over."""
    few = {ending for ending, _ in ignored.most_common(5)}
    for ending, count in ignored.items():
        kind = ending if ending in few else "other endings"
        notes[f"files ignored, no pictures by their names ({kind})"] += count


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _shown(path: str) -> str:
    """A path or name, with backslashes for bytes that are not UTF-8 and for halves of characters."""
    try:
        return os.fsencode(path).decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:
        return path.encode("utf-8", "backslashreplace").decode()
