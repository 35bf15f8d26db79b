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
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from precompute.base.boxcheck import COLUMNS, FURTHER, NAMES, BadBoxes, check, check_kind
from precompute.base.errors import BadFile, BadValue, UserError
from precompute.base.files import replacing
from precompute.base.markup import one_line
from precompute.base.members import BadMember, holder, opened, read_member

SCHEMA = 1
BLOCK = 512  # HDF5 wants a power of two from 512 on
_LARGE = 1 << 26  # bytes of a picture's file that may be asked for on the box file's word
_MAGIC = b"saliencyswap boxes, schema "
_AGAIN = "make it again with: python -m precompute.boxes --rebuild"


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
    source_names: tuple[str, ...]  # "gt", "whole" (the whole picture, for want of a box) and the detector, if any
    paths: np.ndarray  # S [N]: UTF-8, relative to the root, '/' between folders
    file_sizes: np.ndarray  # int64 [N]: bytes
    hashes: np.ndarray  # uint8 [N, 16]: the first half of the file's SHA-256
    widths: np.ndarray  # int32 [N]: pixels
    heights: np.ndarray  # int32 [N]: pixels, without the banner
    banners: np.ndarray  # int16 [N]: rows to cut off below `heights`
    labels: np.ndarray  # int32 [N]: index into class_names, -1 unknown
    splits: np.ndarray  # uint8 [N]: index into split_names
    boxes: np.ndarray  # float32 [N, 4]
    sources: np.ndarray  # uint8 [N]: index into source_names
    scores: np.ndarray  # float32 [N]: mean saliency in the box, in [0, 1]; 1 for gt, 0 for whole
    plain: np.ndarray  # bool [N]: any decoder takes the file's bytes; else feed it pixels.to_png(bytes)
    truths: np.ndarray | None = None  # float32 [N, 4]: annotated boxes (NaN: none), where `boxes` are a detector's
    offsets: np.ndarray | None = None  # int64 [N]: where its bytes begin in the archive it lies in; -1: a plain file
    packed: np.ndarray | None = None  # int64 [N]: bytes there where they are deflated (zip); 0: not packed
    quarantine: tuple[Quarantined, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)  # JSON: config, fingerprint, versions, counts

    def __post_init__(self) -> None:
        """Raises BadBoxes (a ValueError) for what `boxcheck` says no box file may hold."""
        check(self)

    def __len__(self) -> int:
        return len(self.paths)

    def folder(self, given: Path | str | None = None) -> Path:
        """The folder that paths are relative to: `given`, or the one the file was made with."""
        return Path(given or self.provenance.get("config", {}).get("root") or f"data/{self.dataset}")

    def counts(self) -> tuple[dict[str, int], dict[str, int]]:
        """The number of images of each split, and of boxes of each source; also where it is 0."""

        def by_name(names: tuple[str, ...], column: np.ndarray) -> dict[str, int]:
            return dict(zip(names, np.bincount(column, minlength=len(names)).tolist(), strict=True))

        return by_name(self.split_names, self.splits), by_name(self.source_names, self.sources)

    def path(self, i: int) -> str:
        """Image i's path relative to the root."""
        return self.paths[i].decode()

    @property
    def keys(self) -> np.ndarray:
        """uint64 [N]: equal for equal files (8 bytes of their SHA-256)."""
        return np.ascontiguousarray(self.hashes[:, :8]).view("<u8")[:, 0]

    def indices(self, split: str | None = None) -> np.ndarray:
        """int64 rows of a split, ascending (None: all). Raises UserError for a name the set does not have.

        `NAME/dev` is every third image of each class of the split, `NAME/fit` the rest: for choosing settings without
        a look at the images that are held out.
        """
        if split is None:
            return np.arange(len(self), dtype=np.int64)
        if split in self.split_names:
            return np.flatnonzero(self.splits == self.split_names.index(split))
        name, _, part = split.partition("/")
        if name not in self.split_names or part not in ("fit", "dev"):
            raise UserError(
                f"the set {self.dataset!r} has no split {split!r}; it has: {', '.join(self.split_names) or 'none'} "
                "(and of each NAME/fit and NAME/dev, two thirds and a third of it)"
            )
        rows = np.flatnonzero(self.splits == self.split_names.index(name))
        order = np.argsort(self.labels[rows], kind="stable")
        label = self.labels[rows][order]
        rank = np.empty(len(rows), np.int64)
        rank[order] = np.arange(len(rows)) - np.searchsorted(label, label)  # place within the class
        return rows[(rank % 3 == 2) == (part == "dev")]

    def read(self, root: Path | str, i: int, check: str = "size") -> bytes:
        """Image i's bytes. Raises BadFile where it is missing or not the file that was cached.

        `check`: "size" compares the length, "hash" the contents too, "none" nothing.
        """
        if check not in ("size", "hash", "none"):
            raise BadValue("check", check, ["size", "hash", "none"])
        path, size = self.path(i), int(self.file_sizes[i])
        try:
            data = self._bytes(os.fspath(root), i, path, size)
        except OSError as error:
            raise BadFile(path, f"cannot be read below {root}: {error.strerror or error}") from error
        except BadMember as error:
            raise BadFile(path, str(error)) from None
        if check != "none" and len(data) != size:
            self._compare_size(i, len(data))
        if check == "hash" and hashlib.sha256(data).digest()[:16] != self.hashes[i].tobytes():
            raise BadFile(path, "changed since the boxes were made: same size, other contents")
        return data

    def _bytes(self, root: str, i: int, path: str, size: int) -> bytes:
        archive = None if self.offsets is None else self.archive(root, i)
        if archive is None or self.offsets is None or self.packed is None:
            return _contents(os.path.join(root, path), size)
        return read_member(archive, int(self.offsets[i]), size, int(self.packed[i]))

    def archive(self, root: Path | str, i: int) -> str | None:
        """The path of the archive that image i lies in; None where it is a plain file, also one unpacked since."""
        return None if self.offsets is None or self.offsets[i] < 0 else holder(root, self.path(i))

    def check_size(self, root: Path | str, i: int) -> None:
        """Raises BadFile where image i is missing or its size has changed; does not read it.

        Of an archive only the length shows.
        """
        try:
            if (archive := self.archive(root, i)) is not None and self.offsets is not None and self.packed is not None:
                size = int(self.file_sizes[i])
                if self.offsets[i] + (self.packed[i] or size) > opened(archive).size:
                    raise BadFile(self.path(i), "its archive ends before it does: the archive is cut, or another one")
            else:
                size = os.stat(Path(root, self.path(i))).st_size
        except OSError as error:
            raise BadFile(self.path(i), f"cannot be read below {root}: {error.strerror or error}") from error
        self._compare_size(i, size)

    def _compare_size(self, i: int, size: int) -> None:
        if size != self.file_sizes[i]:
            raise BadFile(self.path(i), f"changed since the boxes were made: {size} bytes, not {self.file_sizes[i]}")

    @staticmethod
    def open(path: Path | str) -> "BoxCache":
        """Reads and verifies a box file. Raises UserError where it is missing, damaged, cut or of another kind.

        A file with a right checksum may still be made by hand: whatever is odd about it is an error of one line.
        """
        try:
            with open(path, "rb") as file:
                length = _verify(file, path)
                return _read(file, length)
        except FileNotFoundError:
            raise UserError(
                f"{path}: no such file; make it with: python -m precompute.boxes --dataset NAME --root DIR --out {path}"
            ) from None
        except (IsADirectoryError, PermissionError) as error:
            raise UserError(f"{path}: {error.strerror}") from error
        except BadBoxes as error:
            raise UserError(f"{path}: {error.for_user}; {_AGAIN}") from error
        except UserError:
            raise
        except Exception as error:  # h5py and json have a dozen kinds for what is made by hand
            reason = one_line(str(error) or type(error).__name__)
            raise UserError(f"{path}: not as precompute.boxes writes it ({reason}); {_AGAIN}") from error


def _read(file: BufferedReader, length: int) -> BoxCache:
    """The contents of a file of `length` bytes with a right checksum. Raises whatever h5py and json do, too."""
    h5: Any  # h5py's item access is a union of everything a file may hold
    with h5py.File(file, "r") as h5:
        header = _parsed(_plain(h5, "header", length, "uint8", (None,)).tobytes())
        if not _has(h5, "columns"):
            raise ValueError("it has no columns")
        group = h5["columns"]
        rows, columns = None, {}
        # Further columns, which earlier versions wrote, are not read.
        for name, (dtype, row) in (COLUMNS | FURTHER).items():
            if name in COLUMNS or _has(group, name):
                columns[name] = _plain(group, name, length, dtype, (rows, *row))
                rows = len(columns["paths"])  # the first
    return BoxCache(**header, **columns)


def _plain(group: Any, name: str, length: int, dtype: str, shape: tuple[int | None, ...]) -> np.ndarray:
    """A dataset of an h5py group, if its values lie in this file of `length` bytes as `write` puts them there.

    None in `shape`: any number. Before anything is read, ValueError for a link (it may lead to another file), values in
    other files (external storage, virtual datasets), filters (HDF5 loads libraries for those it does not know), values
    that are not there, and more values than the file has bytes.
    """
    if not _has(group, name) or not isinstance(found := group[name], h5py.Dataset):
        raise ValueError(f"{name} is not there as plain numbers")
    made = found.id.get_create_plist()
    if made.get_layout() != h5py.h5d.CONTIGUOUS or made.get_external_count() or made.get_nfilters():
        raise ValueError(f"{name} is stored in pieces, compressed or in another file")
    if found.shape is None or len(found.shape) != len(shape):
        raise ValueError(f"{name} has the shape {found.shape}")
    expected = tuple(given if n is None else n for n, given in zip(shape, found.shape, strict=True))
    check_kind(name, found.dtype, found.shape, dtype, expected)
    size = math.prod(expected) * found.dtype.itemsize
    if size > length or (size and (found.id.get_offset() is None or found.id.get_storage_size() < size)):
        raise ValueError(f"{name} has {size} bytes, which are not all in the file")
    return found[()]


def _has(group: Any, name: str) -> bool:
    """Whether a group of h5py holds `name` itself; follows no link, as that may open another file."""
    links, h5l = group.id.links, vars(h5py)["h5l"]  # h5py's types do not know it
    return links.exists(name.encode()) and links.get_info(name.encode()).type == h5l.TYPE_HARD


def _parsed(text: bytes) -> dict[str, Any]:
    """The header's fields of a BoxCache. Raises ValueError, TypeError or RecursionError for what is no such header."""
    header = json.loads(text.decode())
    if not isinstance(header, dict):
        raise ValueError("its header is no JSON object")
    if missing := {"dataset", "provenance", "quarantine", *NAMES} - header.keys():
        raise ValueError(f"its header lacks {', '.join(sorted(missing))}")
    # Raises for half a character (\\ud800), NaN and infinity, which could be printed neither as text nor as JSON.
    json.dumps(header, ensure_ascii=False, allow_nan=False).encode()
    fields = {name: header[name] for name in ("dataset", "provenance")}
    fields |= {name: tuple(header[name]) if isinstance(header[name], list) else header[name] for name in NAMES}
    return fields | {"quarantine": tuple(Quarantined(*pair) for pair in header["quarantine"])}


def _contents(path: str, size: int) -> bytes:
    """The whole file. Where it has `size` bytes, a single call reads it: half the time of `Path.read_bytes`."""
    file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    try:
        if size > _LARGE:  # a box file may say anything, also more than there is memory
            size = min(size, os.fstat(file).st_size)
        data = os.read(file, size + 1)
        if len(data) == size:
            return data
        parts = [data]  # another file than it was, or a system that reads less at a time
        while parts[-1]:
            parts.append(os.read(file, 1 << 20))
        return b"".join(parts)
    finally:
        os.close(file)


def write(path: Path | str, cache: BoxCache) -> None:
    """Writes the file beside `path`, then moves it there: a reader sees the old file or the new one, whole.

    Raises OSError (with the file's name) where the folder cannot be written or the disk is full.
    """
    # HDF5 writes into memory and the bytes go out by one plain write: a full disk is then an OSError with its number,
    # not one of the library's many.
    body = memoryview(_to_hdf5(cache))[BLOCK:]
    block = user_block(len(body), hashlib.sha256(body).hexdigest())
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(block)
        file.write(body)


def _to_hdf5(cache: BoxCache) -> bytes:
    header = {name: getattr(cache, name) for name in ("dataset", *NAMES, "provenance")}
    header["quarantine"] = [[bad.path, bad.reason] for bad in cache.quarantine]
    text = json.dumps(header, sort_keys=True, ensure_ascii=False, indent=1).encode()
    memory = io.BytesIO()
    with h5py.File(memory, "w", userblock_size=BLOCK) as h5:
        h5.attrs["schema"] = SCHEMA
        # A dataset, for attributes end at 64 KiB: less than the class names of iNaturalist.
        h5.create_dataset("header", data=np.frombuffer(text, np.uint8))
        group = h5.create_group("columns")
        for name in (*COLUMNS, *FURTHER):
            if (column := getattr(cache, name)) is not None:
                group.create_dataset(name, data=column)
    # Not getbuffer(): where writing fails, the view is freed with the traceback after its BytesIO, and CPython crashes.
    return memory.getvalue()


def user_block(length: int, sha256: str) -> bytes:
    """The first BLOCK bytes of a file of `length` bytes more, whose hash is `sha256`."""
    return (_MAGIC + f"{SCHEMA}, {length} bytes follow, sha256 {sha256}\n".encode()).ljust(BLOCK, b" ")


def _verify(file: BufferedReader, path: Path | str) -> int:
    """Compares the user block with what it must be for the bytes that follow; leaves `file` at its start.

    Returns the file's length in bytes. Raises UserError.
    """
    block = file.read(BLOCK)
    if not block.startswith(_MAGIC):
        kind = " (HDF5 of another kind)" if block.startswith(b"\x89HDF") else "" if block else " (it is empty)"
        raise UserError(f"{path}: not a box file of python -m precompute.boxes{kind}; name another, or {_AGAIN}")
    schema = block[len(_MAGIC) :].split(b",", 1)[0].decode(errors="replace")
    if schema != str(SCHEMA):
        raise UserError(f"{path}: written in schema {schema}, this version reads schema {SCHEMA}; {_AGAIN}")
    length = os.fstat(file.fileno()).st_size - BLOCK
    if block != user_block(length, hashlib.file_digest(file, "sha256").hexdigest()):
        written = re.search(rb", (\d+) bytes follow", block)
        cut = written is not None and int(written[1]) > length
        reason = "its end is missing" if cut else "its checksum does not match its contents"
        raise UserError(f"{path}: damaged ({reason}); copy it again, or {_AGAIN}")
    file.seek(0)
    return BLOCK + length
