"""The box file: everything that later stages need to know of an image set, in one HDF5 file. The only contract.

A file is written whole and never changed. It is opened, verified, read into NumPy and closed at once: no HDF5 handle
outlives `BoxCache.open`, so forks and threads are harmless.

Layout: a user block of 512 bytes, then plain HDF5 (`h5ls`, `h5py.File` read it as it stands).
- The user block is one line of text: schema, length and SHA-256 of everything after it. It is compared byte for byte,
  so one flipped bit anywhere in the file, or a cut end, is noticed when the file is opened.
- One contiguous, uncompressed dataset a column (1.28 M rows load in well under half a second; gzip takes 4-6 times
  as long), paths as fixed-length bytes, and `header`, a JSON document, for everything that is not a column.
Equal contents give equal bytes: no timestamps, sorted keys.
"""

import hashlib
import io
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np

from precompute.base.errors import BadFile, BadValue, UserError
from precompute.base.files import replacing

SCHEMA = 1
_BLOCK = 512  # HDF5 wants a power of two from 512 on
_MAGIC = b"saliencyswap boxes, schema "
COLUMNS: dict[str, tuple[str, tuple[int, ...]]] = {  # dtype and the shape of one row; BoxCache says what they mean
    "paths": ("S", ()),
    "file_sizes": ("int64", ()),
    "hashes": ("uint8", (16,)),
    "widths": ("int32", ()),
    "heights": ("int32", ()),
    "banners": ("int16", ()),
    "labels": ("int32", ()),
    "splits": ("uint8", ()),
    "boxes": ("float32", (4,)),
    "sources": ("uint8", ()),
    "scores": ("float32", ()),
    "plain": ("bool", ()),
}
_HEADER = ("dataset", "class_names", "split_names", "source_names", "quarantine", "provenance")


@dataclass(frozen=True)
class Quarantined:
    """A picture that was left out: its path (relative to the root) and why."""

    path: str
    reason: str


@dataclass(frozen=True, eq=False)
class BoxCache:
    """N images of a set and their boxes. Row i of every array is image i; the arrays are not to be written to.

    Boxes are x0, y0, x1, y1 in [0, 1] of the picture as a person sees it: turned by its EXIF orientation, without the
    banner (rows at the foot of the stored picture that do not belong to it), ends exclusive.
    """

    dataset: str
    class_names: tuple[str, ...]
    split_names: tuple[str, ...]
    source_names: tuple[str, ...]
    paths: np.ndarray  # S [N]: UTF-8, relative to the root, '/' between folders
    file_sizes: np.ndarray  # int64 [N]: bytes
    hashes: np.ndarray  # uint8 [N, 16]: the first half of the file's SHA-256
    widths: np.ndarray  # int32 [N]: pixels
    heights: np.ndarray  # int32 [N]: pixels, without the banner
    banners: np.ndarray  # int16 [N]: rows to cut off below `heights`
    labels: np.ndarray  # int32 [N]: index into class_names, -1 unknown
    splits: np.ndarray  # uint8 [N]: index into split_names
    boxes: np.ndarray  # float32 [N, 4]
    sources: np.ndarray  # uint8 [N]: index into source_names: "gt", a detector, or "whole" (no box was found)
    scores: np.ndarray  # float32 [N]: mean saliency in the box, in [0, 1]; 1 for gt, 0 for whole
    plain: np.ndarray  # bool [N]: any decoder takes the file's bytes; else feed it pixels.to_png(bytes)
    truths: np.ndarray | None = None  # float32 [N, 4]: annotated boxes (NaN: none), where `boxes` are a detector's
    quarantine: tuple[Quarantined, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)  # JSON: config, fingerprint, versions, counts

    def __post_init__(self) -> None:
        """Raises ValueError where a column has the wrong dtype or shape: a defect of the caller, not of the user."""
        n = len(self.paths)
        for name, (dtype, row) in COLUMNS.items():
            column = getattr(self, name)
            right = column.dtype.kind == "S" if dtype == "S" else column.dtype == dtype
            if not right or column.shape != (n, *row):
                raise ValueError(f"column {name}: {column.dtype} {column.shape}, expected {dtype} {(n, *row)}")
        if not np.isfinite(self.boxes).all():
            raise ValueError("column boxes: not of finite numbers")
        if self.truths is not None and self.truths.shape != (n, 4):
            raise ValueError(f"column truths: {self.truths.shape}, expected {(n, 4)}")

    def __len__(self) -> int:
        return len(self.paths)

    def folder(self, given: Path | str | None = None) -> Path:
        """The folder that paths are relative to: `given`, or the one the file was made with."""
        return Path(given or self.provenance.get("config", {}).get("root") or f"data/{self.dataset}")

    def counts(self) -> tuple[dict[str, int], dict[str, int]]:
        """How many images each split has, and how many boxes each source; those with none are in it too."""
        splits, sources = (
            np.bincount(column, minlength=len(names)).tolist()
            for names, column in ((self.split_names, self.splits), (self.source_names, self.sources))
        )
        return dict(zip(self.split_names, splits, strict=True)), dict(zip(self.source_names, sources, strict=True))

    def path(self, i: int) -> str:
        """Image i's path relative to the root."""
        return self.paths[i].decode()

    def indices(self, split: str | None = None) -> np.ndarray:
        """int64 rows of one split, ascending (None: all). Raises UserError for a name the set does not have.

        `NAME/dev` is every third image of each class of the split, `NAME/fit` the others: for choosing settings without
        a look at the images that are held out.
        """
        if split is None:
            return np.arange(len(self), dtype=np.int64)
        name, _, part = split.partition("/")
        if name not in self.split_names or split not in (name, f"{name}/fit", f"{name}/dev"):
            raise UserError(
                f"the set {self.dataset!r} has no split {split!r}; it has: {', '.join(self.split_names) or 'none'} "
                "(and of each NAME/fit and NAME/dev, two thirds and one third of it)"
            )
        rows = np.flatnonzero(self.splits == self.split_names.index(name))
        if not part:
            return rows
        order = np.argsort(self.labels[rows], kind="stable")
        label = self.labels[rows][order]
        rank = np.empty(len(rows), np.int64)
        rank[order] = np.arange(len(rows)) - np.searchsorted(label, label)  # place within the class
        return rows[(rank % 3 == 2) == (part == "dev")]

    def read(self, root: Path | str, i: int, check: str = "size") -> bytes:
        """Image i's bytes. Raises BadFile where it is missing or not the file that was cached.

        `check`: "size" compares the length, "hash" the contents too, "none" nothing.
        """
        path = self.path(i)
        try:
            data = _contents(os.path.join(root, path), int(self.file_sizes[i]))
        except OSError as error:
            raise BadFile(path, f"cannot be read below {root}: {error.strerror or error}") from error
        if check not in ("size", "hash", "none"):
            raise BadValue("check", check, ["size", "hash", "none"])
        if check != "none" and len(data) != self.file_sizes[i]:
            raise BadFile(path, f"changed since the boxes were made: {len(data)} bytes, not {self.file_sizes[i]}")
        if check == "hash" and hashlib.sha256(data).digest()[:16] != self.hashes[i].tobytes():
            raise BadFile(path, "changed since the boxes were made: same size, other contents")
        return data

    def check_size(self, root: Path | str, i: int) -> None:
        """Raises BadFile where image i is missing or its size has changed; does not read it."""
        path = self.path(i)
        try:
            size = os.stat(Path(root, path)).st_size
        except OSError as error:
            raise BadFile(path, f"cannot be read below {root}: {error.strerror or error}") from error
        if size != self.file_sizes[i]:
            raise BadFile(path, f"changed since the boxes were made: {size} bytes, not {self.file_sizes[i]}")

    @staticmethod
    def open(path: Path | str) -> "BoxCache":
        """Reads and verifies a box file. Raises UserError where it is missing, damaged, cut or of another kind."""
        try:
            with open(path, "rb") as file:
                _verify(file, path)
                header, columns = _from_hdf5(file)
        except FileNotFoundError:
            raise UserError(
                f"{path}: no such file; make it with: python -m precompute.boxes --dataset NAME --root DIR --out {path}"
            ) from None
        except (IsADirectoryError, PermissionError) as error:
            raise UserError(f"{path}: {error.strerror}") from error
        quarantine = tuple(Quarantined(*pair) for pair in header.pop("quarantine"))
        if len(bad := np.flatnonzero(~np.isfinite(columns["boxes"]).all(1))):
            raise UserError(
                f"{path}: the box of {columns['paths'][bad[0]].decode()} is not of finite numbers ({len(bad)} in all); "
                "make it again with: python -m precompute.boxes --rebuild"
            )
        names = {key: tuple(header.pop(key)) for key in ("class_names", "split_names", "source_names")}
        return BoxCache(**header, **names, **columns, quarantine=quarantine)


def _contents(path: str, size: int) -> bytes:
    """The whole file, which should have `size` bytes: then it is one call, half as long as `Path.read_bytes`."""
    with io.FileIO(path) as file:
        data = file.read(size + 1)
        return data if len(data) == size else data + file.readall()


def write(path: Path | str, cache: BoxCache) -> None:
    """Writes the file beside `path`, then moves it there: a reader sees the old file or the new one, whole.

    Raises OSError (with the file's name) where the folder cannot be written or the disk is full.
    """
    # HDF5 writes into memory and the bytes go out by one plain write: a full disk is then an OSError with its number,
    # not one of the library's many.
    body = memoryview(_to_hdf5(cache))[_BLOCK:]
    block = _user_block(len(body), hashlib.sha256(body).hexdigest())
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(block)
        file.write(body)


def _to_hdf5(cache: BoxCache) -> bytes:
    header = {name: getattr(cache, name) for name in _HEADER}
    header["quarantine"] = [[bad.path, bad.reason] for bad in cache.quarantine]
    text = json.dumps(header, sort_keys=True, ensure_ascii=False, indent=1).encode()
    memory = io.BytesIO()
    with h5py.File(memory, "w", userblock_size=_BLOCK) as h5:
        h5.attrs["schema"] = SCHEMA
        # A dataset, for attributes end at 64 KiB: less than the class names of iNaturalist.
        h5.create_dataset("header", data=np.frombuffer(text, np.uint8))
        group = h5.create_group("columns")
        for name in COLUMNS:
            group.create_dataset(name, data=getattr(cache, name))
        if cache.truths is not None:
            group.create_dataset("truths", data=cache.truths)
    # Not getbuffer(): where writing fails, the view is freed with the traceback after its BytesIO, and CPython crashes.
    return memory.getvalue()


def _from_hdf5(file: BinaryIO) -> tuple[dict[str, Any], dict[str, Any]]:
    """The header and the columns of a verified file; columns that earlier versions wrote beside them are not read."""
    h5: Any  # h5py's item access is a union of everything a file may hold
    with h5py.File(file, "r") as h5:
        group = h5["columns"]
        columns = {name: group[name][()] for name in (*COLUMNS, "truths") if name in group}
        return json.loads(h5["header"][()].tobytes()), columns


def _user_block(length: int, sha256: str) -> bytes:
    return (_MAGIC + f"{SCHEMA}, {length} bytes follow, sha256 {sha256}\n".encode()).ljust(_BLOCK, b" ")


def _verify(file: BufferedReader, path: Path | str) -> None:
    """Compares the user block with what it must be for the bytes that follow; leaves `file` at its start."""
    block = file.read(_BLOCK)
    if not block.startswith(_MAGIC):
        raise UserError(f"{path}: not a box file of python -m precompute.boxes{_what_is(block)}")
    schema = block[len(_MAGIC) :].split(b",", 1)[0]
    if schema != b"%d" % SCHEMA:
        raise UserError(
            f"{path}: written in schema {schema.decode(errors='replace')}, this version reads schema {SCHEMA}; "
            "make it again with: python -m precompute.boxes --rebuild"
        )
    length = os.fstat(file.fileno()).st_size - _BLOCK
    digest = hashlib.file_digest(file, "sha256").hexdigest()
    if block != _user_block(length, digest):
        said = block.split(b", ")[2:3]
        cut = said and said[0].split(b" ")[0].isdigit() and int(said[0].split(b" ")[0]) > length
        raise UserError(
            f"{path}: damaged ({'its end is missing' if cut else 'its checksum does not match its contents'}); "
            "copy it again, or make it again with: python -m precompute.boxes --rebuild"
        )
    file.seek(0)


def _what_is(block: bytes) -> str:
    if not block:
        return " (it is empty)"
    return " (HDF5 of another kind)" if block.startswith(b"\x89HDF") else ""
