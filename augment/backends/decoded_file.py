"""Decoded pictures in a file: what `DecodedCache` keeps, for all processes that map it, and for later runs.

The file, in this machine's byte order:
  head     a line of text that says what is in it, then zeros: 4096 bytes
  numbers  uint64 [rows]: 0, or the check sum of a row's pixels, which says that they are there
  pixels   a row's part [h, w, 3], then its scene [S, S, 3] where scenes are kept; each row begins at a multiple of 64

Where a row lies follows from the box file and the policy, so nothing is ever moved. Whoever needs a row first locks
its byte (the system drops the lock of a process that is killed), decodes it, writes it, and writes its number last. A
number that does not fit the pixels (a cut file, a power cut) means that the row is not there.
"""

import mmap
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from augment.backends.decoded import DecodedCache, Picture
from augment.views.plan import Pool
from augment.views.policy import Policy
from precompute.base.errors import UserError
from precompute.base.locks import SETUP, USERS, SharedFile

ENDING = ".pictures"
HEAD = 4096
_MAGIC = b"saliencyswap decoded pictures 1, "
_ALIGNED = 64
_LINE = 512  # words that are added up with one weight
# The bytes that are locked, besides `SETUP`: shared by every user, and by who decodes row i.
_USERS, _ROWS = USERS[0], USERS[-1] + 1


class FileCache(DecodedCache):
    """Pictures by row of the pool, in a file. One thread decodes (`begin`, `add`); any may ask what is there."""

    chunk = 64  # others that need one of them wait so long

    def __init__(
        self, policy: Policy, pool: Pool, rows: np.ndarray, path: Path, about: str, *, lasting: bool,
        budget: int | None, spare: int, side: int | None = None, remedy: str, say: Callable[[str], None],
    ) -> None:  # fmt: skip
        """rows: int64, ascending: the images that may be used; about: what their pixels are, one line of text.

        lasting: the file stays when its last user leaves. budget: bytes of pixels in the file; the rows beyond are
        decoded each time. None: `spare`, or what the file has already. side: see `DecodedCache`. remedy: the end of
        the message where there is no room.

        Raises UserError where there is no room, and where the file is somebody else's or none of these.
        """
        super().__init__(policy, pool, 0, side)
        self.path, self.lasting, self._say = path, lasting, say
        self._place = np.full(len(pool.widths), -1, np.int64)
        self._place[rows] = np.arange(len(rows))
        scene = 3 * policy.size**2 if self.keeps_scenes else 0
        lengths = -(-(3 * self._sides[rows].prod(axis=1) + scene) // _ALIGNED) * _ALIGNED
        base = -(-(HEAD + 8 * len(rows)) // mmap.PAGESIZE) * mmap.PAGESIZE
        self._ends = base + np.cumsum(lengths)
        self._starts = self._ends - lengths
        self._lines = np.arange(0, int(lengths.max(initial=0)) // 8, _LINE)
        self._weights = 2 * np.arange(len(self._lines), dtype=np.uint64) + 1
        self._seen = np.zeros(len(rows), bool)  # there, and found to be whole
        self._mine: set[int] = set()  # rows that this process is to decode
        self._damaged = 0
        self._open = False
        head = _MAGIC + about.encode() + b"\n"
        self._shared = shared = SharedFile(path)
        try:
            with_others = not shared.locks.take(_USERS)
            size = _begun(shared, head, with_others)
            self.budget = max(spare, size - base) if budget is None else budget
            self.count = int(np.searchsorted(self._ends - base, self.budget, "right"))  # rows that are kept
            length = int(self._ends[self.count - 1]) if self.count else base
            _reserve(shared, size, length, remedy)
            os.pwrite(shared.file, head, 0)
            shared.locks.take(_USERS, shared=True)
            self._map = mmap.mmap(shared.file, length)
        except BaseException:
            os.close(shared.file)
            raise
        shared.locks.drop(SETUP)
        self._numbers = np.frombuffer(self._map, np.uint64, len(rows), HEAD)
        self._words = np.frombuffer(self._map, np.uint64)
        self._pixels = torch.frombuffer(self._map, dtype=torch.uint8)
        self._open = True

    def __len__(self) -> int:
        return int(np.count_nonzero(self._numbers[: self.count]))

    def __contains__(self, row: int) -> bool:
        return self._there(int(self._place[row]))

    def get(self, row: int) -> Picture | None:
        """See `DecodedCache`. The pixels are the file's: not to be written to."""
        i = int(self._place[row])
        if not self._there(i):
            return None
        x0, y0, x1, y1 = self._regions[row].tolist()
        (w, h), start, size = self._sides[row].tolist(), int(self._starts[i]), self.policy.size
        pixels = self._pixels.as_strided((h, w, 3), (3 * w, 3, 1), start)
        scene = None
        if self.keeps_scenes:
            scene = self._pixels.as_strided((size, size, 3), (3 * size, 3, 1), start + 3 * w * h)
        return Picture(pixels, (x0, y0), scene, (w / (x1 - x0), h / (y1 - y0)))

    def begin(self, row: int) -> bool:
        """See `DecodedCache`: False where another process decodes the row, or has just done so."""
        i = int(self._place[row])
        if not 0 <= i < self.count:
            return True
        if not self._shared.locks.take(_ROWS + i):
            return False
        if self._there(i):
            self._shared.locks.drop(_ROWS + i)
            return False
        if self._numbers[i]:
            if not self._damaged:
                self._say(f"{self.path}: damaged pictures in it are decoded again")
            self._damaged += 1
            self._write(np.zeros(1, np.uint64), at=HEAD + 8 * i)
        self._mine.add(row)
        return True

    def add(self, row: int, picture: Picture) -> None:
        """Writes a picture whose decoding was begun here. Raises OSError where the disk fails."""
        if row in self._mine:
            i = int(self._place[row])
            parts = [picture.pixels.numpy()] + ([] if picture.scene is None else [picture.scene.numpy()])
            self._write(*parts, at=int(self._starts[i]))
            self._write(np.array([self._sum(i)], np.uint64), at=HEAD + 8 * i)
            self._seen[i] = True
            self.end(row)

    def end(self, row: int) -> None:
        """See `DecodedCache`."""
        if row in self._mine:
            self._mine.remove(row)
            self._shared.locks.drop(_ROWS + int(self._place[row]))

    def clear(self) -> None:
        """Leaves the file; its last user removes it, unless it is a lasting one."""
        if not self._open:
            return
        self._open = False
        shared = self._shared
        if not self.lasting:
            shared.setup()
            if shared.locks.take(_USERS):
                with suppress(FileNotFoundError):
                    self.path.unlink()
            shared.locks.drop(SETUP)
        shared.locks.drop(_USERS)
        del self._numbers, self._words, self._pixels
        with suppress(BufferError):  # a picture is still in use: the mapping ends with it
            self._map.close()
        os.close(shared.file)

    def _there(self, i: int) -> bool:
        if not 0 <= i < self.count:
            return False
        if not self._seen[i]:
            number = int(self._numbers[i])
            if not number or number != self._sum(i):  # reading maps 16 pages at a time: cheaper than asking for them
                return False
            self._seen[i] = True
        return True

    def _sum(self, i: int) -> int:
        """The check sum of a row's pixels as they are in the file: never 0.

        The sum of its 64-bit words, those of each 4096 bytes times a number of their own.
        """
        words = self._words[self._starts[i] // 8 : self._ends[i] // 8]
        count = -(-len(words) // _LINE)
        lines = np.add.reduceat(words, self._lines[:count])
        return int((lines * self._weights[:count]).sum()) or 1

    def _write(self, *parts: np.ndarray, at: int) -> None:
        """Not through the mapping: where a disk fails, a write is an error, and a mapping kills the process."""
        wanted, views = sum(part.nbytes for part in parts), [part.data.cast("B") for part in parts]
        if (done := os.pwritev(self._shared.file, views, at)) != wanted:
            raise OSError(0, f"only {done} of {wanted} bytes could be written", str(self.path))


def _begun(shared: SharedFile, head: bytes, with_others: bool) -> int:
    """Checks the head of an open file, and returns the file's bytes; 0 for one that is to be begun anew."""
    found, size = os.pread(shared.file, HEAD, 0), os.fstat(shared.file).st_size
    if found[: len(head)] == head and not any(found[len(head) :]):
        return size
    if any(found) and not found.startswith(_MAGIC) and not _MAGIC.startswith(found):
        raise UserError(f"{shared.path}: no file of decoded pictures. Move it away, or name another folder")
    if with_others:
        raise UserError(f"{shared.path}: another process uses it, and its head is damaged. End that first")
    os.ftruncate(shared.file, 0)
    return 0


def _reserve(shared: SharedFile, size: int, length: int, remedy: str) -> None:
    """Room for `length` bytes in a file of `size`; UserError where there is none, and the file is as it was."""
    about = os.fstat(shared.file)
    if about.st_size >= length and about.st_blocks * 512 >= length:
        return
    try:
        os.posix_fallocate(shared.file, 0, length)
    except OSError as error:
        os.ftruncate(shared.file, size)
        if not size:
            shared.path.unlink(missing_ok=True)
        raise UserError(
            f"{shared.path.parent}: no room for {length / 1e9:.3g} GB of decoded pictures ({error.strerror}). {remedy}"
        ) from error
