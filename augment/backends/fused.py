"""The fastest backend on a CPU: decodes an image, cuts its crops while its pixels are in cache, then finishes views.

The passes are C++ (`crops.cpp`, `views.cpp`); without a compiler they are plain torch (`eager`).
"""

import ctypes
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from threading import Barrier

import numpy as np
import torch
from torch import Tensor

from augment.backends import jpeg, native
from augment.backends.decoded import DecodedCache, Picture, RecentPictures, kept_rois
from augment.backends.eager import blend_patches, finish_view, scene_or_patch
from augment.backends.layout import Layout, lay_out, view_table
from augment.backends.protocol import Backend
from augment.backends.recycled import Given, Recycled
from augment.backends.threads import share_out
from augment.backends.torch_ops import decode
from augment.request import Making
from augment.views.plan import Plan
from augment.views.policy import Policy

_PATIENCE = 10.0  # seconds that another process may take to decode a picture that this one needs
_DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}


def _decoded(data: bytes) -> Tensor:
    """uint8 [H, W, 3], packed: as the decoder leaves it."""
    return decode(data).permute(1, 2, 0).contiguous()


def _alone() -> None:
    """Limits torch to the calling thread. The first call sets the thread up, which would undo the limit later."""
    torch.get_num_threads()
    torch.set_num_threads(1)


class FusedBackend(Backend):
    """A pool of threads that decode images, cut the crops that views need, and finish views."""

    def __init__(
        self, policy: Policy, making: Making, cache: DecodedCache | None = None, *, compiled: bool = True
    ) -> None:
        """`compiled`: the C++ passes; `cache`: where pictures are kept. Raises `native.NotBuilt` without a compiler."""
        self.policy, self.dtype, self.workers, self._cache = policy, making.dtype, making.workers or 1, cache
        self.name, self.buffers = "fused" if compiled else "eager", compiled
        self._library = native.load(making.say) if compiled else None
        self._jpeg = jpeg.find(self._library, making.say)
        if self._jpeg is not None:
            self._jpeg.scaled = compiled and making.decode == "scaled"
        # Each worker limits torch to its one thread. On some builds that setting is the whole process's, so all workers
        # start here, behind a barrier, and the caller's setting is restored once.
        threads = torch.get_num_threads()
        self._threads = ThreadPoolExecutor(self.workers, thread_name_prefix="augment-fused", initializer=_alone)
        begun = Barrier(self.workers)
        list(self._threads.map(lambda _: begun.wait(timeout=60), range(self.workers)))
        torch.set_num_threads(threads)
        self._share_out = partial(share_out, self._threads, self.workers, here=compiled)
        self._buffer = np.empty(0, np.uint8)  # of every batch: fresh pages cost more than the pixels
        self._memory: Recycled | Given = Recycled(self.dtype)
        std = np.array(policy.std)
        self._levels = (1 / (255 * std)).astype(np.float32), (-np.array(policy.mean) / std).astype(np.float32)
        self._latest: tuple[Plan, bool, Layout] | None = None  # see `_layout`
        self._decoded = 0  # pictures of the last batch that the cache did not have

    def render(self, plan: Plan, files: Sequence[bytes]) -> tuple[Tensor, ...]:
        """See `augment.backends.protocol.Backend`."""
        return self.finish(plan, *self.cut(plan, files))

    @contextmanager
    def into(self, views: Sequence[Tensor]) -> Iterator[None]:
        """See `augment.backends.protocol.Backend`."""
        kept, self._memory = self._memory, Given(views)
        try:
            yield
        finally:
            self._memory = kept

    def cut(self, plan: Plan, files: Sequence[bytes]) -> tuple[np.ndarray, Sequence[Picture]]:
        """Decodes and cuts: the crops, uint8 [bytes] as `layout.lay_out` describes them, used again by the next call.

        And the pictures that views take their scenes from, where these are kept and not among the crops.
        """
        kept = None if self._cache is None else self._pictures(plan.images.tolist(), files, self._cache)
        exist = self._cache is not None and self._cache.keeps_scenes
        layout = self._layout(plan, exist)
        if len(self._buffer) < layout.total:
            self._buffer = np.empty(layout.total + layout.total // 8, np.uint8)
        crops = layout.crops.copy()
        crops["out"] += np.uint64(self._buffer.ctypes.data)
        first = np.searchsorted(layout.slot, np.arange(len(plan.images) + 1))  # crop of each image
        if kept is None:
            self._decode_and_cut(files, first, crops)
        elif self._library is None:
            self._share_out(self._cut, list(zip(kept, np.split(crops, first[1:-1]), strict=True)))
        else:
            self._cut_kept(self._library, kept, first.astype(np.int64), crops)
        return self._buffer[: layout.total], kept if kept and exist else ()

    def finish(self, plan: Plan, crops: np.ndarray, kept: Sequence[Picture] = ()) -> tuple[Tensor, ...]:
        """Views as `render` returns them, of what `cut` returned, here or in another process.

        Pastes, colours, blurs and normalises. Transparent patches are blended in place, in a copy where `crops` must
        not be written to.
        """
        if plan.alpha is not None and not crops.flags.writeable:
            crops = crops.copy()
        layout = self._layout_of(plan, crops, len(kept) > 0)
        scenes, patches = ((crops.ctypes.data + x).astype(np.uint64) for x in (layout.scenes, layout.patches))
        if kept:
            address = [0 if picture.scene is None else picture.scene.data_ptr() for picture in kept]
            scenes = np.array(address, np.uint64)[plan.background_slot]
        if plan.alpha is not None:
            self._share_out(blend_patches, [(plan, i, scenes, patches) for i in range(len(plan))])
        views = tuple(self._memory.take((len(plan), plan.size, plan.size, 3)) for _ in range(plan.views))
        if self._library is None:
            at = [(i, v, int(scenes[i, v]), int(patches[i, v]), views[v][i]) for i, v in np.ndindex(scenes.shape)]
            self._share_out(partial(finish_view, self.policy, plan), at)
        else:
            self._finish(plan, scenes, patches, views)
        return views

    def holds(self, row: int) -> bool:
        """See `augment.backends.protocol.Backend`. Recent pictures may be dropped before they are needed."""
        return self._cache is not None and not isinstance(self._cache, RecentPictures) and row in self._cache

    def decoded(self, files: Sequence[bytes]) -> int:
        """See `augment.backends.protocol.Backend`."""
        return len(files) if self._cache is None else self._decoded

    def close(self) -> None:
        """Ends the threads, frees the cache."""
        self._threads.shutdown(cancel_futures=True)
        if self._cache is not None:
            self._cache.clear()

    def keep(self, rows: Sequence[int], files: Sequence[bytes]) -> int:
        """Decodes rows of the cache that are not there yet; returns how many. Raises as `render` does."""
        if self._cache is not None:
            self._pictures(rows, files, self._cache)
        return self._decoded

    def _layout_of(self, plan: Plan, crops: np.ndarray, scenes_exist: bool = False) -> Layout:
        """The layout of these crops. ValueError where they are not the plan's."""
        layout = self._layout(plan, scenes_exist)
        if len(crops) != layout.total:
            raise ValueError(f"{len(crops)} bytes of crops: the plan asks for {layout.total}")
        return layout

    def _layout(self, plan: Plan, scenes_exist: bool) -> Layout:
        """Of a plan; that of the latest is known, since `finish` follows `cut`."""
        known = self._latest
        if known is None or known[0] is not plan or known[1] != scenes_exist:
            layout = lay_out(plan, shared=self.policy.scene == "whole", scenes_exist=scenes_exist)
            self._latest = known = plan, scenes_exist, layout
        return known[2]

    def _pictures(self, rows: Sequence[int], files: Sequence[bytes], cache: DecodedCache) -> list[Picture]:
        """The pictures of different rows; decodes those that are not kept yet, or waits for who does it."""
        pictures: dict[int, Picture] = {}
        self._decoded, left, until = 0, list(range(len(rows))), time.monotonic() + _PATIENCE
        while left:
            pictures |= {rows[i]: kept for i in left if (kept := cache.get(rows[i])) is not None}
            left = [i for i in left if rows[i] not in pictures]
            alone = time.monotonic() > until  # who decodes them was stopped: this process does without
            new = list(itertools.islice((i for i in left if alone or cache.begin(rows[i])), cache.chunk))
            if new:
                pictures |= self._decode([rows[i] for i in new], [files[i] for i in new], cache)
                self._decoded, until = self._decoded + len(new), time.monotonic() + _PATIENCE
            elif left:
                time.sleep(0.001)
        if isinstance(cache, RecentPictures):
            cache.used_now(rows)
        return [pictures[row] for row in rows]

    def _decode(self, rows: Sequence[int], files: Sequence[bytes], cache: DecodedCache) -> dict[int, Picture]:
        """Decodes rows, and adds them to the cache."""
        made, crops = cache.blank(rows)
        try:
            self._decode_and_cut(files, np.arange(len(rows) + 1) * crops.shape[1], crops.reshape(-1))
            for row, picture in zip(rows, made, strict=True):
                cache.add(row, picture)
        finally:
            for row in rows:
                cache.end(row)
        return dict(zip(rows, made, strict=True))

    def _decode_and_cut(self, files: Sequence[bytes], first: np.ndarray, crops: np.ndarray) -> None:
        """Decodes files, and cuts picture i's crops[first[i] : first[i + 1]] while it is in the processor's cache."""
        left, pictures = np.arange(len(files)), {}
        if self._jpeg is not None and self._library is not None:
            left = self._jpeg.cut(files, first, crops, self._all_threads)
        elif self._jpeg is not None:
            pictures = self._jpeg.parts(files, first, crops, self._all_threads)

        def decode_and_cut(i: int) -> None:
            if len(jobs := crops[first[i] : first[i + 1]]):
                self._cut(pictures.get(i) or Picture(_decoded(files[i])), jobs)

        self._share_out(decode_and_cut, [(i,) for i in left.tolist()])

    def _all_threads(self, work: Callable[[], None]) -> None:
        self._share_out(work, [()] * self.workers)

    def _cut(self, picture: Picture, jobs: np.ndarray) -> None:
        """Resizes crops (ROIs in the image's pixels) to their places."""
        if not len(jobs):
            return
        image = picture.pixels
        jobs["roi"] = kept_rois(jobs["roi"], picture.corner, picture.scale)
        if self._library is None:
            for job in jobs:
                scene_or_patch(image.permute(2, 0, 1), job)
        elif self._library.crops(image.data_ptr(), image.shape[1], image.shape[0], len(jobs), jobs.ctypes.data):
            raise ValueError(f"an ROI leaves an image of {image.shape[1]}x{image.shape[0]} pixels")

    def _cut_kept(
        self, library: ctypes.CDLL, pictures: Sequence[Picture], first: np.ndarray, crops: np.ndarray
    ) -> None:
        """Picture i's crops[first[i] : first[i + 1]], as `_cut`, in one call a thread."""
        of = np.repeat(np.arange(len(pictures)), np.diff(first))
        corner, scale = np.array([p.corner for p in pictures]), np.array([p.scale for p in pictures])
        crops["roi"] = kept_rois(crops["roi"], corner[of], scale[of])
        pixels = np.array([p.pixels.data_ptr() for p in pictures], np.uint64)
        height, width = np.array([p.pixels.shape[:2] for p in pictures], np.int32).T.copy()
        at = (x.ctypes.data for x in (pixels, width, height, first, crops))
        batch = native.PictureBatch(*at, len(pictures), 0, -1)
        self._all_threads(partial(library.crops_of, ctypes.addressof(batch)))
        if (left := batch.left) >= 0:
            raise ValueError(f"an ROI leaves an image of {width[left]}x{height[left]} pixels")

    def _finish(self, plan: Plan, scenes: np.ndarray, patches: np.ndarray, views: Sequence[Tensor]) -> None:
        """Makes the views by the compiled pass."""
        jobs = view_table(plan, scenes, patches)
        places = np.arange(len(plan), dtype=np.uint64) * (views[0].stride(0) * views[0].element_size())
        jobs["out"] = places[:, None] + np.array([view.data_ptr() for view in views], np.uint64)
        first, count = jobs.ctypes.data, jobs.size
        parts = min(4 * self.workers, count)
        runs = [count * part // parts for part in range(parts + 1)]
        tasks = [(first + start * jobs.itemsize, end - start, plan.size) for start, end in itertools.pairwise(runs)]
        self._share_out(self._finish_run, tasks)

    def _finish_run(self, first: int, count: int, size: int) -> None:
        """Makes `count` views from the address `first` of their `native.VIEW`s on."""
        assert self._library is not None
        scale, shift = (levels.ctypes.data for levels in self._levels)
        linear = int(self.policy.colour == "linear")
        self._library.views(count, first, size, linear, scale, shift, _DTYPES[self.dtype])
