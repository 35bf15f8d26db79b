"""The images of one or several box files as one numbered set, and the checked bytes of their files.

Every file is checked before a decoder gets it: one undecodable file would end a DALI pipeline, and not be named.
"""

import bisect
import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from augment.request import to_stderr
from augment.stream.files import FileReader
from augment.views.plan import Pool
from precompute.base import pixels
from precompute.base.away import Patient
from precompute.base.boxfile import BoxCache
from precompute.base.errors import BadFile, BadValue, UserError
from precompute.base.markup import one_line
from precompute.base.members import forget

ZEROS = bytes(64)  # in a row


class ImageSet:
    """The rows of all box files in sequence: image i of the set is row `i - offset` of its file."""

    def __init__(self, parts: Sequence[tuple[BoxCache, Path]], say: Callable[[str], None] = to_stderr) -> None:
        """`say` takes the lines about a folder that is away for a while."""
        self.parts = list(parts)
        self._folders = [Patient(root, say) for _, root in self.parts]
        self.offsets = np.cumsum([0, *(len(cache) for cache, _ in self.parts)])
        self._offsets: list[int] = self.offsets.tolist()  # lists are faster for single look-ups
        pools = [Pool.of(cache) for cache, _ in self.parts]
        self.pool = Pool(
            *(np.concatenate([getattr(p, name) for p in pools]) for name in ("widths", "heights", "boxes", "has_box"))
        )
        self.labels = np.concatenate([cache.labels for cache, _ in self.parts]).astype(np.int64)

    @staticmethod
    def open(
        boxes: Path | str | BoxCache, root: Path | str | None, say: Callable[[str], None] = to_stderr
    ) -> "ImageSet":
        """The set of one box file; `root` is the folder or archive of its paths (None: that it was made with).

        Raises UserError where either is missing, or where none of 16 sampled images is below the folder.
        """
        if not isinstance(boxes, str | os.PathLike | BoxCache):
            raise BadValue("boxes", boxes, "a box file's path, or a BoxCache")
        cache = boxes if isinstance(boxes, BoxCache) else BoxCache.open(boxes)
        root = cache.folder(root)
        forget()
        if not root.exists():
            raise UserError(
                f"{root}: no such folder; name the one that the box file's paths are relative to "
                f"(as in {one_line(root / cache.path(0) if len(cache) else root)})"
            )
        some = np.linspace(0, len(cache) - 1, min(len(cache), 16)).astype(int).tolist()
        files = [cache.archive(root, i) or os.path.join(root, cache.path(i)) for i in some]
        if files and not any(map(os.path.exists, files)):
            raise UserError(
                f"{root}: the box file's images are not below it (no {one_line(cache.path(0))}); "
                "name the folder where they are"
            )
        return ImageSet([(cache, root)], say)

    def __len__(self) -> int:
        return int(self.offsets[-1])

    def twins(self) -> np.ndarray | None:
        """int64 [n]: the same number for images whose files are equal; None: all differ."""
        values, numbers = np.unique(np.concatenate([cache.keys for cache, _ in self.parts]), return_inverse=True)
        return None if len(values) == len(numbers) else numbers

    def close(self) -> None:
        """Ends the waiting for folders that are away."""
        for folder in self._folders:
            folder.close()

    def digest(self, rows: np.ndarray) -> str:
        """A 16-digit fingerprint of the images in `rows` and their boxes; if it changes, so do the views."""
        fingerprint = hashlib.sha256(np.ascontiguousarray(rows, "<i8").tobytes())
        for (cache, _), offset in zip(self.parts, self._offsets, strict=False):
            own = rows[(rows >= offset) & (rows < offset + len(cache))] - offset
            for column, kind in ((cache.hashes, "u1"), (cache.boxes, "<f4"), (cache.banners, "<i2")):
                fingerprint.update(np.ascontiguousarray(column[own], kind).tobytes())
        return fingerprint.hexdigest()[:16]

    def path(self, i: int) -> str:
        """Image i's path relative to its root."""
        part, row = self._row(i)
        return self.parts[part][0].path(row)

    def shape(self, i: int) -> tuple[int, int]:
        """Height and width of the whole decoded picture, the banner included."""
        part, row = self._row(i)
        cache = self.parts[part][0]
        return int(cache.heights[row]) + int(cache.banners[row]), int(cache.widths[row])

    def read(self, i: int, check: str = "size") -> bytes:
        """Bytes of image i that every decoder turns into the same pixels. Raises BadFile.

        A folder that is away is waited for; UserError where it stays away (`precompute.base.away`).

        `check`: "size" compares the length, and the hash of a file that may hide damage behind an equal length: one
        that is no plain JPEG, does not end with the end marker, or has a run of zeros, as a file has whose last or
        middle part was never written. It costs 0.02 ms. "hash" compares all contents.
        """
        part, row = self._row(i)
        cache, folder = self.parts[part][0], self._folders[part]
        try:
            data = cache.read(folder.root, row, check)
        except BadFile:  # the folder may be away
            data = folder.read(cache.path(row), lambda: cache.read(folder.root, row, check))
        plain = cache.plain[row]
        sound = plain and data.startswith(b"\xff\xd8") and data.endswith(b"\xff\xd9") and ZEROS not in data
        if check == "size" and not sound and hashlib.sha256(data).digest()[:16] != cache.hashes[row].tobytes():
            raise BadFile(cache.path(row), "changed since the boxes were made: same size, other contents")
        if plain:
            return data
        try:
            return pixels.to_png(data)
        except pixels.BadImage as error:
            raise BadFile(cache.path(row), str(error)) from error

    def read_many(self, rows: np.ndarray, reader: FileReader) -> list[memoryview | None]:
        """What `read` with check="size" returns of images `rows`; None for those that only `read` itself can judge."""
        out: list[memoryview | None] = [None] * len(rows)
        part = np.searchsorted(self.offsets, rows, "right") - 1
        for number in np.unique(part).tolist():
            which = np.flatnonzero(part == number)
            found = reader.read(self.parts[number][0], self._folders[number].root, rows[which] - self.offsets[number])
            for i, data in zip(which.tolist(), found, strict=True):
                out[i] = data
        return out

    def diagnose(self, i: int, data: bytes) -> str | None:
        """The reason why image i's bytes cannot be decoded as planned, or None; decodes them the slow, careful way."""
        try:
            shape = pixels.decode(data).shape[:2]
        except pixels.BadImage as error:
            return str(error)
        if shape != self.shape(i):
            return f"decodes to {shape[1]}x{shape[0]} pixels, the box file says {self.shape(i)[1]}x{self.shape(i)[0]}"
        return None

    def _row(self, i: int) -> tuple[int, int]:
        """Which of `parts` has image i, and its row there."""
        part = bisect.bisect_right(self._offsets, i) - 1
        return part, int(i) - self._offsets[part]
