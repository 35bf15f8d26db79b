"""The pass over the pictures: every file is read, hashed and decoded once; what is damaged is named and left out."""

import hashlib
import os
import stat
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from itertools import repeat
from typing import NamedTuple

import numpy as np

from precompute.base import pixels
from precompute.base.boxfile import BoxCache, Quarantined
from precompute.datasets.base import BadRow, Box, Listing, clip_box
from precompute.saliency import Detector, make_detector
from precompute.search.box_path import box_paths, stack_paths
from precompute.search.forms import Form, cut, find_boxes, quantise

UNUSABLE = "annotated boxes that make no sense (boxes come from a detector here)"
GT_CHUNK = 32  # pictures one thread takes at a time when it only decodes


@dataclass(frozen=True)
class Settings:
    """What decides the rows of a box file (and nothing that does not)."""

    truth: bool  # take the annotated box where there is one
    detector: str | None  # for the others; None: the whole picture
    form: Form = field(default_factory=Form)
    grid: int = 64  # side of the map that is searched
    weights: str | None = None
    device: str = "cpu"
    maps: str | None = None  # for the detector "maps": folder of a grey picture for each picture
    store_path: bool = False  # keep the boxes of every γ (`box_path`)
    max_pixels: int = pixels.MAX_PIXELS

    @property
    def source_names(self) -> tuple[str, ...]:
        return ("gt", "whole") if self.detector is None else ("gt", "whole", self.detector)

    @cached_property
    def model(self) -> Detector | None:
        """The detector, made when first used: a pass over annotated boxes never loads torch."""
        if self.detector is None or self.detector == "maps":
            return None
        return make_detector(self.detector, device=self.device, weights=self.weights)


class _Picture(NamedTuple):
    """A good picture before its box is known."""

    row: int
    size: int
    digest: bytes
    info: pixels.ImageInfo
    truth: tuple[float, float, float, float] | None


class Pass:
    """Turns ranges of rows into box files; `workers` threads decode, detect and search side by side.

    Results depend neither on the number of threads nor on how the rows are split into ranges of whole chunks.
    """

    def __init__(self, listing: Listing, settings: Settings, workers: int) -> None:
        self.listing = listing
        self.settings = settings
        self.workers = workers
        self._stop = threading.Event()
        self._model_lock = threading.Lock()

    def run(self, start: int, stop: int, on_done: Callable[[int], None] = lambda count: None) -> BoxCache:
        """Rows start to stop (exclusive) as a box file of their own. `on_done(n)`: n more pictures are through."""
        step = self._chunk_length()
        chunks = [range(a, min(a + step, stop)) for a in range(start, stop, step)]
        rows: list[tuple] = []
        bad: list[Quarantined] = []
        notes: dict[str, int] = {}
        with ThreadPoolExecutor(self.workers) as pool:
            try:
                for chunk, (good, faulty, mended) in zip(chunks, pool.map(self._chunk, chunks), strict=True):
                    rows += good
                    bad += faulty
                    for what, count in mended.items():
                        notes[what] = notes.get(what, 0) + count
                    on_done(len(chunk))
            except BaseException:  # Ctrl-C, or a defect in one thread: the others stop at their next picture
                self._stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return self._table(rows, bad, notes)

    def _chunk_length(self) -> int:
        if self.settings.detector is None or (self.settings.truth and self.listing.every_has_box):
            return GT_CHUNK
        with self._model_lock:
            model = self.settings.model
        return GT_CHUNK if model is None else model.batch

    def _chunk(self, rows: Sequence[int]) -> tuple[list[tuple], list[Quarantined], dict[str, int]]:
        notes: dict[str, int] = {}
        good, bad, unboxed, small = [], [], [], []
        for row in rows:
            if self._stop.is_set():
                break
            try:
                picture, small_rgb = self._one(row, notes)
            except (BadRow, pixels.BadImage) as error:
                bad.append(Quarantined(self.listing.paths[row], str(error)))
                continue
            if small_rgb is None:
                box, source, score = picture.truth, 0, 1.0
                if box is None:
                    box, source, score = (0.0, 0.0, 1.0, 1.0), 1, 0.0
                good.append((picture, box, source, score, None))
            else:
                unboxed.append(picture)
                small.append(small_rgb)
        if small:
            good += self._detect(unboxed, np.stack(small))
            good.sort(key=lambda item: item[0].row)
        return good, bad, notes

    def _one(self, row: int, notes: dict[str, int]) -> tuple[_Picture, np.ndarray | None]:
        """Reads and judges one picture; its small version only where a detector must find the box."""
        data = read_file(os.path.join(self.listing.root, self.listing.paths[row]))
        banner = self.listing.banner
        box = self._box_or_none(row, notes)
        rgb = None
        if self.settings.detector is None or (self.settings.truth and box is not None):
            info = pixels.check(data, max_pixels=self.settings.max_pixels)
            if info.height <= banner:
                raise pixels.BadImage(f"{info.height} rows, all of them within the banner of {banner}")
        else:
            with self._model_lock:
                model = self.settings.model
            if model is None:
                info, rgb = self._given_map(row, data, notes)
            else:
                info, rgb = pixels.thumbnail(data, model.side, banner=banner, max_pixels=self.settings.max_pixels)
        truth = None
        if box is not None:
            try:
                truth, clipped = clip_box(box, info.width, info.height - banner)
                if clipped:
                    _count(notes, "annotated boxes clipped to their pictures")
            except BadRow:
                if self.settings.truth:
                    raise
                _count(notes, UNUSABLE)
        if not info.plain:
            _count(notes, "pictures in other formats than plain JPEG")
        return _Picture(row, len(data), hashlib.sha256(data).digest()[:16], info, truth), rgb

    def _box_or_none(self, row: int, notes: dict[str, int]) -> Box | None:
        """The annotated box. One that makes no sense is a fault only where boxes come from the annotation."""
        try:
            return self.listing.box(row)
        except BadRow:
            if self.settings.truth:
                raise
            _count(notes, UNUSABLE)
            return None

    def _given_map(self, row: int, data: bytes, notes: dict[str, int]) -> tuple[pixels.ImageInfo, np.ndarray]:
        """The map uint8 [grid, grid] that lies ready for a picture; all 0 (no box) where there is none."""
        info = pixels.check(data, max_pixels=self.settings.max_pixels)
        path = map_path(self.settings.maps or "", self.listing.paths[row])
        if path is not None:
            try:
                # The banner is no part of a map: it was made for the picture as a person sees it.
                return info, pixels.thumbnail(read_file(path), self.settings.grid)[1][..., 0]
            except pixels.BadImage as error:
                raise pixels.BadImage(f"its map {path}: {error}") from error
        _count(notes, "pictures without a map: the whole picture is their box")
        return info, np.zeros((self.settings.grid, self.settings.grid), np.uint8)

    def _detect(self, pictures: list[_Picture], small: np.ndarray) -> list[tuple]:
        """Boxes of one batch of small pictures, uint8 [B, side, side, 3]."""
        model = self.settings.model
        if model is None:
            maps = quantise(small)
        else:
            maps = quantise(detect_maps(model, small, self.settings.grid, self.settings.device))
        found = find_boxes(maps, self.settings.form, self.settings.device)
        grid = self.settings.grid
        paths = zip(*box_paths(maps, cut(maps)), strict=True) if self.settings.store_path else repeat(None)
        out = []
        for picture, one, (x0, y0, x1, y1), usable, path in zip(
            pictures, maps, found.rects.tolist(), found.usable, paths, strict=False
        ):
            if usable:
                score = int(one[y0:y1, x0:x1].sum(dtype=np.int64)) / ((x1 - x0) * (y1 - y0)) / 255
                out.append((picture, (x0 / grid, y0 / grid, x1 / grid, y1 / grid), 2, score, path))
            else:
                out.append((picture, (0.0, 0.0, 1.0, 1.0), 1, 0.0, path))
        return out

    def _table(self, rows: list[tuple], bad: Iterable[Quarantined], notes: dict[str, int]) -> BoxCache:
        listing = self.listing
        pictures = [picture for picture, *_ in rows]
        index = np.array([p.row for p in pictures], np.int64)
        paths = [listing.paths[i].encode() for i in index]
        width_of_path = max((len(p) for p in paths), default=1)
        none = (np.nan,) * 4
        extras = {}
        if listing.has_boxes and self.settings.detector:
            extras["truths"] = np.array([p.truth or none for p in pictures], np.float32).reshape(-1, 4)
        if self.settings.store_path:
            extras |= stack_paths([path for *_, path in rows], self.settings.grid)
        return BoxCache(
            dataset=listing.dataset,
            class_names=listing.class_names,
            split_names=listing.split_names,
            source_names=self.settings.source_names,
            paths=np.array(paths, dtype=f"S{width_of_path}"),
            file_sizes=np.array([p.size for p in pictures], np.int64),
            hashes=np.frombuffer(b"".join(p.digest for p in pictures), np.uint8).reshape(-1, 16),
            widths=np.array([p.info.width for p in pictures], np.int32),
            heights=np.array([p.info.height - listing.banner for p in pictures], np.int32),
            banners=np.full(len(pictures), listing.banner, np.int16),
            labels=listing.labels[index],
            splits=listing.splits[index],
            boxes=np.array([box for _, box, *_ in rows], np.float32).reshape(-1, 4),
            sources=np.array([source for _, _, source, *_ in rows], np.uint8),
            scores=np.array([score for *_, score, _ in rows], np.float32),
            plain=np.array([p.info.plain for p in pictures], bool),
            quarantine=tuple(bad),
            provenance={"notes": notes},
            extras=extras,
        )


def detect_maps(model: Detector, small: np.ndarray, grid: int, device: str) -> np.ndarray:
    """Maps float32 [B, grid, grid] of small pictures uint8 [B, side, side, 3]."""
    import torch
    from torch.nn import functional as F

    with torch.inference_mode():
        maps = model(torch.from_numpy(small).to(device))
        if maps.shape[1:] != (grid, grid):
            maps = F.interpolate(maps[:, None], (grid, grid), mode="bilinear", antialias=True)[:, 0]
        return maps.cpu().numpy()


def map_candidates(folder: str, path: str) -> tuple[str, str]:
    """Names a ready map of the picture `path` may have."""
    return os.path.join(folder, f"{os.path.splitext(path)[0]}.png"), os.path.join(folder, f"{path}.png")


def map_path(folder: str, path: str) -> str | None:
    return next((name for name in map_candidates(folder, path) if os.path.exists(name)), None)


def read_file(path: str) -> bytes:
    """A regular file's bytes. Raises BadImage for what cannot be read: no path is worth the end of a long run."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a folder, or a pipe, on which reading would wait for ever
            raise pixels.BadImage("not a regular file")
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        dangling = os.path.islink(path) and isinstance(error, FileNotFoundError)
        reason = "a link to nothing" if dangling else error.strerror or str(error)
        raise pixels.BadImage(f"cannot be read: {reason}") from error


def _count(notes: dict[str, int], what: str) -> None:
    notes[what] = notes.get(what, 0) + 1
