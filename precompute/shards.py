"""Interrupted work resumes: finished ranges of rows lie as small box files beside the output until they are merged.

A shard is immutable: written beside its name, synced, renamed. Its folder's name is a hash of everything its rows
depend on (settings, paths, sizes, times of change, annotations), so other settings or changed files never meet it.
Any process may make any shard; two processes that make the same shard write the same bytes.
"""

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from precompute.base.boxfile import COLUMNS, FURTHER, BoxCache, write
from precompute.base.errors import UserError
from precompute.datasets.listing import Box, Listing


def size_and_time(path: Path) -> tuple[int, int]:
    """A file's size in bytes and its time of change in ns; -1, -1 where it is missing."""
    try:
        status = os.stat(path)
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns


def fingerprint(listing: Listing) -> tuple[str, str]:
    """Two hashes of the pictures: of paths and sizes, for the box file; of the times of change too, for shards.

    Annotation files that belong to one picture count as well.
    """
    lasting, passing = hashlib.sha256(), hashlib.sha256()
    archives: dict[str, tuple[int, int]] = {}
    for i, path in enumerate(listing.paths):
        if (member := listing.member(i)) is not None:
            if member.archive not in archives:
                archives[member.archive] = size_and_time(listing.root / member.archive)
            lasting.update(f"{path}\0{member.size}\0{member.offset}\0{member.packed}\n".encode())
            passing.update(f"{archives[member.archive]}\n".encode())
            continue
        for file in (path, listing.annotation_path(i)):
            if file is not None:
                size, changed = size_and_time(listing.root / file)
                lasting.update(f"{file}\0{size}\n".encode())
                passing.update(f"{changed}\n".encode())
    passing.update(lasting.digest())
    return lasting.hexdigest(), passing.hexdigest()


def annotations(listing: Listing, version: int = 2) -> str:
    """A hash of what the set's own files say: classes, labels, splits, boxes with their sizes, and their faults.

    Version 1, of older box files, leaves out sizes and the contents of files that only one picture's box is read from.
    """
    boxes = listing.boxes or ()
    faults = [(i, box) for i, box in enumerate(boxes) if isinstance(box, str)]
    edges = np.array([box.edges if isinstance(box, Box) else (math.nan,) * 4 for box in boxes], np.float64)
    about = [listing.class_names, listing.split_names, faults, listing.banner]
    about += [[(bad.path, bad.reason) for bad in listing.quarantine], sorted(listing.notes.items())]
    digest = hashlib.sha256(json.dumps(about).encode())
    for column in (listing.labels, listing.splits):
        digest.update(column.tobytes())
    digest.update(b"none" if listing.boxes is None else edges.tobytes())
    if version == 1:
        return digest.hexdigest()
    digest.update(json.dumps([[box.size, box.same_shape] for box in boxes if isinstance(box, Box)]).encode())
    for file in map(listing.annotation_path, range(len(listing))):
        if file is not None:
            digest.update(_contents(listing.root / file))
    return f"{version}:{digest.hexdigest()}"


def _contents(path: Path) -> bytes:
    """A hash of a file's contents; empty where it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).digest()
    except OSError:
        return b""


class Shards:
    """The shards of one box file: rows k·length to (k+1)·length of the listing are shard k."""

    def __init__(self, out: Path, key: str, rows: int, length: int) -> None:
        """`length` 0: 4096 rows, fewer in small sets, so that several processes have something to do."""
        length = length or min(4096, 64 * max(1, rows // (64 * 16)))
        self.key = key[:16]
        self.home = out.parent / f".{out.name}.shards"
        self.folder = self.home / f"{self.key}.{length}"
        self.rows = rows
        self.length = length

    def __len__(self) -> int:
        return -(-self.rows // self.length)

    def span(self, k: int) -> tuple[int, int]:
        return k * self.length, min((k + 1) * self.length, self.rows)

    def prepare(self) -> None:
        """Makes the folder. Raises OSError where it cannot be made or written: before the work and not after it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=self.folder):
            pass

    def path(self, k: int) -> Path:
        return self.folder / f"{k:06d}.h5"

    def load(self, k: int) -> BoxCache | None:
        """Shard k, or None where it is not there or not whole (it is then made again)."""
        try:
            return BoxCache.open(self.path(k))
        except UserError:
            return None

    def store(self, k: int, shard: BoxCache) -> None:
        try:
            write(self.path(k), shard)
        except FileNotFoundError:  # another run finished the same file just now and tidied up
            write(self.path(k), shard)

    def remove(self) -> None:
        shutil.rmtree(self.home, ignore_errors=True)

    def tidy(self) -> None:
        """Removes what a run left that was killed between the finished file and the end; other runs' shards stay."""
        for folder in self.home.glob(f"{self.key}.*"):
            shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # none there, or not empty
            self.home.rmdir()


def merge(listing: Listing, shards: list[BoxCache], provenance: dict[str, Any]) -> BoxCache:
    """The box file of all shards, in their order. Raises UserError where no picture is left."""
    quarantine = [*listing.quarantine, *(bad for shard in shards for bad in shard.quarantine)]
    if not sum(map(len, shards)):
        first = {bad.reason: bad for bad in reversed(quarantine)}  # of each reason
        counts = Counter(bad.reason for bad in quarantine).most_common(5)
        reasons = "\n".join(f"{count} x {reason} (such as {first[reason].path})" for reason, count in counts)
        raise UserError(f"not one usable picture below {listing.root}:\n{reasons}")
    notes, examples = Counter(listing.notes), {}
    for shard in shards:
        notes.update(shard.provenance.get("notes", {}))
        examples |= shard.provenance.get("examples", {}) | examples
    names = (name for name in (*COLUMNS, *FURTHER) if getattr(shards[0], name) is not None)
    columns = {name: np.concatenate([getattr(shard, name) for shard in shards]) for name in names}
    provenance = provenance | {"notes": dict(notes), "examples": examples}
    sources = max((shard.source_names for shard in shards), key=len)  # a spare detector is named where it was needed
    return dataclasses.replace(
        shards[0], source_names=sources, quarantine=tuple(quarantine), provenance=provenance, **columns
    )
