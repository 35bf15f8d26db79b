"""Reads a batch's files by one call into memory that is used again, where nothing is special about them.

Per file Python would make a path, a call or four and a `bytes` in fresh memory: more than half of the host's time for a
batch that is decoded on a GPU. What cannot be read so is left to `ImageSet.read`, which says what is wrong with it.
"""

import ctypes
import functools
import hashlib
import os
from collections.abc import Callable

import numpy as np

from augment.backends.recycled import Blocks
from precompute.base.boxfile import BoxCache

LARGEST = 1 << 24  # bytes of a file that is read so
_ALIGNED = 64  # bytes, where files begin
_SOUND, _COMPLETE = 0, 1  # of files.cpp's Status


class _Batch(ctypes.Structure):
    """The struct FileBatch of files.cpp."""

    _fields_ = (
        ("root", ctypes.c_char_p),
        *((name, ctypes.c_void_p) for name in ("paths", "sizes", "starts", "memory", "status")),
        ("width", ctypes.c_int64),
        ("count", ctypes.c_int32),
        ("next", ctypes.c_int32),
    )


class FileReader:
    """Reads files of box files. Its memory is used again when nobody holds what was read."""

    def __init__(self, library: ctypes.CDLL, run: Callable[[Callable[[], None]], object]) -> None:
        """`library`: of `native.load`; `run(work)` calls `work` in as many threads as are to share the files."""
        self._read, self._run, self._blocks = library.read_files, run, Blocks()

    def read(self, cache: BoxCache, root: str, rows: np.ndarray) -> list[memoryview | None]:
        """The bytes of those `rows` of a box file that `ImageSet.read` would give as they are; None for the others."""
        sizes, fits = cache.file_sizes[rows], cache.plain[rows] & (cache.file_sizes[rows] <= LARGEST)
        if cache.offsets is not None:  # in an archive
            fits &= cache.offsets[rows] < 0
        chosen = np.flatnonzero(fits)
        out: list[memoryview | None] = [None] * len(rows)
        if not len(chosen):
            return out
        sizes = np.ascontiguousarray(sizes[chosen], np.int64)
        paths = cache.paths[rows[chosen]]
        ends = np.cumsum((sizes // _ALIGNED + 1) * _ALIGNED)
        starts = np.concatenate(([0], ends[:-1]))
        memory, status = self._blocks.take(int(ends[-1])), np.empty(len(chosen), np.int32)
        at = (x.ctypes.data for x in (paths, sizes, starts, memory, status))
        batch = _Batch(os.fsencode(root), *at, paths.itemsize, len(chosen), 0)
        self._run(functools.partial(self._read, ctypes.addressof(batch)))
        whole = memory.data
        for i, start, end in zip(chosen.tolist(), starts.tolist(), (starts + sizes).tolist(), strict=True):
            out[i] = whole[start:end]
        for i in chosen[status > _COMPLETE].tolist():
            out[i] = None
        for k in np.flatnonzero(status == _COMPLETE).tolist():  # as long as it was: the contents say whether it is
            i = int(chosen[k])
            if hashlib.sha256(out[i] or b"").digest()[:16] != cache.hashes[rows[i]].tobytes():
                out[i] = None
        return out
