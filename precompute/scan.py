"""The scan of the pictures: every file is read, hashed and decoded once; damaged files are named and left out."""

import contextlib
import hashlib
import os
import stat
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
from PIL import Image

from precompute.base import pixels
from precompute.base.away import Patient
from precompute.base.boxfile import BoxCache, Quarantined
from precompute.base.errors import UserError
from precompute.base.maps import find_map, fit_map
from precompute.base.members import BadMember, read_member
from precompute.base.program import to_stderr
from precompute.datasets.listing import BadRow, Listing, OtherFrame, clip_box
from precompute.kept_maps import KeptMaps
from precompute.remarks import BLACK, CLIPPED, OTHER_FRAME, OTHER_MAP, PLAIN
from precompute.saliency import Detector, make_detector
from precompute.search.forms import Form, find_boxes, quantise

UNUSABLE = "annotated boxes that make no sense (boxes come from a detector here)"
GT_CHUNK = 32  # pictures one thread takes at a time when it only decodes
_GT, _WHOLE, _DETECTED = range(3)  # where a box comes from: indices into `source_names`
Edges = tuple[float, float, float, float]


@dataclass(frozen=True)
class ScanSettings:
    """Everything that decides the rows of a box file, and nothing else."""

    truth: bool  # take the annotated box where there is one
    detector: str | None  # for the other pictures; None: the whole picture is the box
    form: Form = field(default_factory=Form)
    grid: int = 64  # side of the map that is searched
    weights: str | None = None
    device: str = "cpu"
    maps: str | None = None  # for the detector "maps": folder of a grey picture for each picture
    max_pixels: int = pixels.MAX_PIXELS
    spare: str | None = None  # without `detector`: for a picture whose annotated box is of another frame

    @cached_property
    def model(self) -> Detector | None:
        """The detector, made when first used: a scan that takes annotated boxes never loads torch."""
        if self.detector is None or self.detector == "maps":
            return None
        return make_detector(self.detector, device=self.device, weights=self.weights)

    @cached_property
    def finder(self) -> Detector | None:
        """The detector of a picture whose annotated box is of no use: the scan's own, else the spare one."""
        if self.model is not None or self.spare is None:
            return self.model
        return make_detector(self.spare, device=self.device, weights=self.weights)


class _Picture(NamedTuple):
    """A good picture: a row of the box file. `truth`: its annotated box in [0, 1]."""

    row: int  # of the listing
    size: int
    digest: bytes
    info: pixels.ImageInfo
    truth: Edges | None
    box: Edges = (0.0, 0.0, 1.0, 1.0)
    source: int = _WHOLE
    score: float = 0.0


class _Chunk(NamedTuple):
    """The result of some rows: good pictures, damaged pictures, and how often something was mended."""

    rows: list[_Picture]
    bad: list[Quarantined]
    notes: Counter[str]
    examples: dict[str, str]  # the first picture of each note


class Scan:
    """Turns ranges of rows into box files; `workers` threads decode, detect and search side by side.

    Results depend neither on the number of threads nor on how the rows are split into ranges of whole chunks.
    """

    def __init__(self, listing: Listing, settings: ScanSettings, workers: int, keep: KeptMaps | None = None) -> None:
        """`keep`: where the maps of a detector go."""
        self.listing, self.settings, self.workers, self._keep = listing, settings, workers, keep
        self._stop = threading.Event()
        self._folder = Patient(listing.root, to_stderr)

    def run(self, start: int, stop: int, on_done: Callable[[int], object] = lambda count: None) -> BoxCache:
        """Rows start to stop (exclusive) as a box file of their own. `on_done(n)`: n more pictures are through."""
        step = self._chunk_length()
        chunks = [range(a, min(a + step, stop)) for a in range(start, stop, step)]
        whole = _Chunk([], [], Counter(), {})
        with ThreadPoolExecutor(self.workers) as pool:
            try:
                for rows, done in zip(chunks, pool.map(self._chunk, chunks), strict=True):
                    whole.rows.extend(done.rows)
                    whole.bad.extend(done.bad)
                    whole.notes.update(done.notes)
                    whole.examples.update(done.examples | whole.examples)
                    on_done(len(rows))
            except BaseException:  # Ctrl-C, or a defect in a thread: the other threads stop at their next picture
                self._stop.set()
                self._folder.close()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return self._table(whole)

    def _chunk_length(self) -> int:
        if self.settings.detector is None or (self.settings.truth and self.listing.every_has_box):
            return GT_CHUNK  # no picture is searched
        model = self.settings.model  # made here, before there are threads
        return GT_CHUNK if model is None else model.batch

    def _chunk(self, rows: Sequence[int]) -> _Chunk:
        out = _Chunk([], [], Counter(), {})
        unboxed, small = [], []
        for row in rows:
            if self._stop.is_set():
                break
            notes: Counter[str] = Counter()
            try:
                picture, small_rgb = self._picture(row, notes)
            except (BadRow, pixels.BadImage) as error:
                out.bad.append(Quarantined(self.listing.paths[row], str(error)))
                continue
            finally:
                out.notes.update(notes)
                out.examples.update(dict.fromkeys(notes, self.listing.paths[row]) | out.examples)
            if small_rgb is not None:
                unboxed.append(picture)
                small.append(small_rgb)
            elif picture.truth is not None:
                out.rows.append(picture._replace(box=picture.truth, source=_GT, score=1.0))
            else:
                out.rows.append(picture)
        if small:
            out.rows.extend(self._detect(unboxed, np.stack(small)))
            out.rows.sort()  # by `row`, which no two share
        return out

    def _picture(self, row: int, notes: Counter[str]) -> tuple[_Picture, np.ndarray | None]:
        """Reads and checks a picture; its small version (or its ready map) only where a map must give the box."""
        path = self.listing.paths[row]
        data = self._folder.read(path, lambda: read_picture(self.listing, row))
        banner, limit = self.listing.banner, self.settings.max_pixels
        box = truth = model = small = None
        with self._unusable(notes):
            box = self.listing.box(row)
        searched = self.settings.detector is not None and not (self.settings.truth and box is not None)
        if searched and (model := self.settings.model) is not None:
            info, small = pixels.thumbnail(data, model.side, banner=banner, max_pixels=limit)
        else:
            info = pixels.check(data, max_pixels=limit)
            if info.height <= banner:
                raise pixels.BadImage(f"{info.height} rows, all of them within the banner of {banner}")
            if searched:
                small = self._ready_map(row, info, notes)
        if box is not None:
            try:
                with self._unusable(notes):
                    truth, clipped = clip_box(box, info.width, info.height - banner, info.orientation)
                    notes.update([CLIPPED] if clipped else [])
            except OtherFrame:
                # A fault of the annotation, not of the picture: its box comes from a detector, if there is one.
                notes[OTHER_FRAME] += 1
                if self.settings.truth and (model := self.settings.finder) is not None:
                    info, small = pixels.thumbnail(data, model.side, banner=banner, max_pixels=limit)
        if info.brightest < 16:
            notes[BLACK] += 1
        elif info.contrast < 8:
            notes[PLAIN] += 1
        if not info.plain:
            notes["pictures in other formats than plain JPEG"] += 1
        if info.note:
            notes[info.note] += 1
        return _Picture(row, len(data), hashlib.sha256(data).digest()[:16], info, truth), small

    @contextlib.contextmanager
    def _unusable(self, notes: Counter[str]) -> Iterator[None]:
        """An annotated box that makes no sense is a fault only if boxes come from the annotation, else a note."""
        try:
            yield
        except BadRow:
            if self.settings.truth:
                raise
            notes[UNUSABLE] += 1

    def _ready_map(self, row: int, info: pixels.ImageInfo, notes: Counter[str]) -> np.ndarray:
        """The map uint8 [grid, grid] that lies ready for a picture; all 0 (no box) where there is none."""
        grid, banner = self.settings.grid, self.listing.banner
        empty = np.zeros((grid, grid), np.uint8)
        path = find_map(self.settings.maps or "", self.listing.paths[row])
        if path is None:
            notes["pictures without a map: the whole picture is their box"] += 1
            return empty
        try:
            header, values = pixels.read(read_file(path))
        except pixels.BadImage as error:
            raise pixels.BadImage(f"its map {path}: {error}") from error
        if header.note:
            notes[f"maps: {header.note}"] += 1
        # The banner is no part of a map: it was made for the picture as a person sees it.
        fitted = fit_map(values[..., 0], info.width, info.height - banner, info.orientation)
        if fitted is None:
            notes[OTHER_MAP] += 1
            return empty
        return np.asarray(Image.fromarray(fitted).resize((grid, grid), Image.Resampling.BILINEAR, reducing_gap=2.0))

    def _detect(self, pictures: list[_Picture], small: np.ndarray) -> list[_Picture]:
        """Boxes of one batch of small pictures uint8 [B, side, side, 3], or of ready maps uint8 [B, grid, grid]."""
        model, grid, form = self.settings.finder, self.settings.grid, self.settings.form
        if model is not None and self.settings.detector is None:
            form = Form("tempered", model.gamma)
        maps = quantise(small if model is None else detect_maps(model, small, grid, self.settings.device))
        rects = find_boxes(maps, form)
        out = []
        for picture, grid_map, (x0, y0, x1, y1) in zip(pictures, maps, rects.tolist(), strict=True):
            if self._keep is not None:
                self._keep.write(self.listing.paths[picture.row], grid_map)
            if x1:  # else an empty map
                score = int(grid_map[y0:y1, x0:x1].sum(dtype=np.int64)) / ((x1 - x0) * (y1 - y0)) / 255
                box = (x0 / grid, y0 / grid, x1 / grid, y1 / grid)
                picture = picture._replace(box=box, source=_DETECTED, score=score)
            out.append(picture)
        return out

    def _table(self, whole: _Chunk) -> BoxCache:
        listing, pictures = self.listing, whole.rows
        index = np.array([p.row for p in pictures], np.int64)
        truths = offsets = packed = None
        if listing.members:
            places = [(-1, 0) if (m := listing.member(p.row)) is None else (m.offset, m.packed) for p in pictures]
            offsets, packed = np.ascontiguousarray(np.array(places, np.int64).reshape(-1, 2).T)
        if listing.has_boxes and self.settings.detector:
            truths = np.array([p.truth or (np.nan,) * 4 for p in pictures], np.float32).reshape(-1, 4)
        # The spare detector is named only where it was needed: most files of annotated boxes know none.
        searched = self.settings.detector or (any(p.source == _DETECTED for p in pictures) and self.settings.spare)
        return BoxCache(
            dataset=listing.dataset,
            class_names=listing.class_names,
            split_names=listing.split_names,
            source_names=("gt", "whole", searched) if searched else ("gt", "whole"),
            paths=np.array([listing.paths[i].encode() for i in index], np.bytes_),
            file_sizes=np.array([p.size for p in pictures], np.int64),
            hashes=np.frombuffer(b"".join(p.digest for p in pictures), np.uint8).reshape(-1, 16),
            widths=np.array([p.info.width for p in pictures], np.int32),
            heights=np.array([p.info.height - listing.banner for p in pictures], np.int32),
            banners=np.full(len(pictures), listing.banner, np.int16),
            labels=listing.labels[index],
            splits=listing.splits[index],
            boxes=np.array([p.box for p in pictures], np.float32).reshape(-1, 4),
            sources=np.array([p.source for p in pictures], np.uint8),
            scores=np.array([p.score for p in pictures], np.float32),
            plain=np.array([p.info.plain for p in pictures], bool),
            truths=truths,
            offsets=offsets,
            packed=packed,
            quarantine=tuple(whole.bad),
            provenance={"notes": dict(whole.notes), "examples": whole.examples},
        )


def detect_maps(model: Detector, small: np.ndarray, grid: int, device: str) -> np.ndarray:
    """Maps float32 [B, grid, grid] of small pictures uint8 [B, side, side, 3]."""
    import torch
    from torch.nn import functional as F

    with torch.inference_mode():
        maps = model(torch.from_numpy(small).to(device))
        if not maps.isfinite().all():  # else every box would be the whole picture
            raise UserError(
                f"{model.describe().get('detector', type(model).__name__)}: its maps hold NaN or infinity. "
                "Its weights are damaged; take another file or another --source"
            )
        if maps.shape[1:] != (grid, grid):
            maps = F.interpolate(maps[:, None], (grid, grid), mode="bilinear", antialias=True)[:, 0]
        return maps.cpu().numpy()


def read_picture(listing: Listing, row: int) -> bytes:
    """A picture's bytes, from its file or from its archive. Raises BadImage where they cannot be read."""
    root, member = listing.root, listing.member(row)
    if member is None:
        return read_file(os.path.join(root, listing.paths[row]))
    archive = os.path.join(root, member.archive) if member.archive else str(root)
    try:
        return read_member(archive, *member[1:])
    except (OSError, BadMember) as error:
        reason = str(error) if isinstance(error, BadMember) else f"cannot be read: {error.strerror or error}"
        raise pixels.BadImage(reason) from error


def read_file(path: str) -> bytes:
    """A regular file's bytes. Raises BadImage where it cannot be read: no file is worth the end of a long run."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a folder, or a pipe, which might block for ever
            raise pixels.BadImage("not a regular file")
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        dangling = os.path.islink(path) and isinstance(error, FileNotFoundError)
        reason = "a link to nothing" if dangling else error.strerror or str(error)
        raise pixels.BadImage(f"cannot be read: {reason}") from error
