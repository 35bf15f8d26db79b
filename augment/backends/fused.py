"""The fastest backend on a CPU: decodes an image, cuts its crops while its pixels are in cache, then finishes views.

The passes are C++ (`crops.cpp`, `views.cpp`); without a compiler they are plain torch (`eager`).
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Barrier

import numpy as np
import torch
from torch import Tensor

from augment.backends import native
from augment.backends.decoded import DecodedCache, Picture, kept_rois
from augment.backends.eager import blend_patches, finish_view, scene_or_patch
from augment.backends.layout import CROP, lay_out
from augment.backends.protocol import Backend
from augment.backends.recycled import Recycled
from augment.backends.threads import share_out
from augment.backends.torch_ops import decode
from augment.request import Making
from augment.views import colour, geometry
from augment.views.plan import Plan
from augment.views.policy import Policy, blur_radius

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
        self.name = "fused" if compiled else "eager"
        self._library = native.load(making.say) if compiled else None
        # Each worker limits torch to its one thread. On some builds that setting is the whole process's, so all workers
        # start here, behind a barrier, and the caller's setting is restored once.
        threads = torch.get_num_threads()
        self._threads = ThreadPoolExecutor(self.workers, thread_name_prefix="augment-fused", initializer=_alone)
        begun = Barrier(self.workers)
        list(self._threads.map(lambda _: begun.wait(timeout=60), range(self.workers)))
        torch.set_num_threads(threads)
        self._share_out = partial(share_out, self._threads, self.workers)
        self._buffer = np.empty(0, np.uint8)  # of every batch: fresh pages cost more than the pixels
        self._memory = Recycled(self.dtype)

    def render(self, plan: Plan, files: Sequence[bytes]) -> tuple[Tensor, ...]:
        """See `augment.backends.protocol.Backend`."""
        return self.finish(plan, *self.cut(plan, files))

    def cut(self, plan: Plan, files: Sequence[bytes]) -> tuple[np.ndarray, Sequence[Picture]]:
        """Decodes and cuts: the crops, uint8 [bytes] as `layout.lay_out` describes them, used again by the next call.

        And the pictures that views take their scenes from, where these are kept and not among the crops.
        """
        kept = None if self._cache is None else self._pictures(plan, files, self._cache)
        exist = self._cache is not None and self._cache.keeps_scenes
        layout = lay_out(plan, shared=self.policy.scene == "whole", scenes_exist=exist)
        if len(self._buffer) < layout.total:
            self._buffer = np.empty(layout.total + layout.total // 8, np.uint8)
        crops = layout.crops.copy()
        crops["out"] += np.uint64(self._buffer.ctypes.data)
        jobs = np.split(crops, np.searchsorted(layout.slot, np.arange(1, len(plan.images))))  # of each image
        if kept is None:
            self._share_out(self._decode_and_cut, list(zip(files, jobs, strict=True)))
        else:
            self._share_out(self._cut, list(zip(kept, jobs, strict=True)))
        return self._buffer[: layout.total], kept if kept and exist else ()

    def finish(self, plan: Plan, crops: np.ndarray, kept: Sequence[Picture] = ()) -> tuple[Tensor, ...]:
        """Views as `render` returns them, of what `cut` returned, here or in another process.

        Pastes, colours, blurs and normalises. Transparent patches are blended in place: `crops` must then be writable.
        """
        layout = lay_out(plan, shared=self.policy.scene == "whole", scenes_exist=len(kept) > 0)
        if len(crops) != layout.total:
            raise ValueError(f"{len(crops)} bytes of crops: the plan asks for {layout.total}")
        scenes, patches = ((crops.ctypes.data + x).astype(np.uint64) for x in (layout.scenes, layout.patches))
        if kept:
            address = [0 if picture.scene is None else picture.scene.data_ptr() for picture in kept]
            scenes = np.array(address, np.uint64)[plan.background_slot]
        if plan.alpha is not None:
            self._share_out(blend_patches, [(plan, i, scenes, patches) for i in range(len(plan))])
        views = tuple(self._memory.take((len(plan), plan.size, plan.size, 3)) for _ in range(plan.views))
        runs = [r for r in np.array_split(np.arange(len(plan)), self.workers * 2) if len(r)]
        tasks = [(plan, v, run, scenes, patches, views[v]) for v in range(plan.views) for run in runs]
        self._share_out(self._view, tasks)
        return views

    def holds(self, row: int) -> bool:
        """See `augment.backends.protocol.Backend`."""
        return self._cache is not None and row in self._cache

    def close(self) -> None:
        """Ends the threads, frees the cache."""
        self._threads.shutdown(cancel_futures=True)
        if self._cache is not None:
            self._cache.clear()

    def _pictures(self, plan: Plan, files: Sequence[bytes], cache: DecodedCache) -> list[Picture]:
        """The pictures of all images of the plan; decodes those that are not kept yet."""

        def make(row: int, data: bytes) -> Picture:
            return cache.get(row) or cache.keep(row, _decoded(data), self._resized)

        return self._share_out(make, list(zip(plan.images.tolist(), files, strict=True)))

    def _resized(self, image: Tensor, roi: np.ndarray, width: int, height: int) -> Tensor:
        """uint8 [height, width, 3]: the ROI of an image, resized."""
        out = torch.empty((height, width, 3), dtype=torch.uint8)
        job = np.zeros(1, CROP)
        job["roi"], job["width"], job["height"], job["out"] = roi, width, height, out.data_ptr()
        self._cut(Picture(image), job)
        return out

    def _decode_and_cut(self, data: bytes, jobs: np.ndarray) -> None:
        """While the picture is in the processor's cache."""
        if len(jobs):
            self._cut(Picture(_decoded(data)), jobs)

    def _cut(self, picture: Picture, jobs: np.ndarray) -> None:
        """Resizes crops (ROIs in the image's pixels) to their places."""
        if not len(jobs):
            return
        image = picture.pixels
        jobs["roi"] = rois = kept_rois(jobs["roi"], picture.corner, picture.scale)
        # The compiled pass trusts these numbers.
        if rois.min() < 0 or (rois.max(axis=0)[2:] > image.shape[1::-1]).any() or (rois[:, 2:] <= rois[:, :2]).any():
            raise ValueError(f"an ROI leaves an image of {image.shape[1]}x{image.shape[0]} pixels")
        if self._library is not None:
            self._library.crops(image.data_ptr(), 3 * image.shape[1], len(jobs), jobs.ctypes.data)
            return
        for job in jobs:
            scene_or_patch(image.permute(2, 0, 1), job)

    def _view(self, plan: Plan, v: int, run: np.ndarray, scenes: np.ndarray, patches: np.ndarray, out: Tensor) -> None:
        """Makes view v of the sources `run`."""
        if self._library is None:
            for i in run.tolist():
                finish_view(self.policy, plan, i, v, int(scenes[i, v]), int(patches[i, v]), out[i])
            return
        jobs = np.zeros(len(run), native.VIEW)
        jobs["scene"], jobs["patch"] = scenes[run, v], patches[run, v]
        jobs["out"] = out.data_ptr() + run.astype(np.uint64) * (out.stride(0) * out.element_size())
        jobs["rect"] = geometry.flip_rects(plan.rects[run, v], plan.flip[run, v], plan.size)
        for name in ("flip", "gray", "jittered", "order", "jitter", "sigma"):
            jobs[name] = getattr(plan, name)[run, v]
        jobs["radius"] = [blur_radius(s) for s in plan.sigma[run, v]]
        jobs["matrix"], jobs["offset"] = colour.collapse(plan.jitter[run, v], plan.gray[run, v])
        scale = (1 / (255 * np.array(self.policy.std))).astype(np.float32)
        shift = (-np.array(self.policy.mean) / self.policy.std).astype(np.float32)
        linear = int(self.policy.colour == "linear")
        self._library.views(
            len(jobs), jobs.ctypes.data, plan.size, linear, scale.ctypes.data, shift.ctypes.data, _DTYPES[self.dtype]
        )
