"""The fused backend on CUDA: DALI decodes on the device, Triton kernels do everything else."""

import importlib
import itertools
from collections import deque
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from augment.backends.addressed import Addressed, KeptOnDevice
from augment.backends.dali import Decoder
from augment.backends.dali_runs import LANES
from augment.backends.decoded import DecodedCache, Picture
from augment.backends.decoding import USUAL, Decoding
from augment.backends.layout import lay_out, view_table
from augment.backends.protocol import Backend
from augment.request import Making
from augment.views.plan import Plan
from augment.views.policy import Policy, blur_radius

BLUR_TILE = 64  # side of what a program composes, colours and blurs
# Rows and columns of pixels that the threads of another program have at a time.
ROWS, COLUMNS = 16, 32
CHUNK = {"ROWS": ROWS, "COLUMNS": COLUMNS}
_ALIGNED = 16  # bytes: what Triton's wide loads ask for
_KINDS = (torch.uint8, torch.int32, torch.int64, torch.float16, torch.float32)
_TYPES = {torch.empty(0, dtype=kind).numpy().dtype: kind for kind in _KINDS}
# Of every launch: a product and its sum become one operation. Triton's default changes with its version, and with it
# the views' last bits.
FUSION = {"enable_fp_fusion": True}


class FusedCudaBackend(Backend):
    """Decoded pictures stay where DALI put them; the kernels take them by address."""

    name, buffers = "fused", True

    def __init__(
        self,
        policy: Policy,
        making: Making,
        batch: int,
        cache: DecodedCache | None = None,
        decoding: Decoding = USUAL,
    ) -> None:
        self.policy, self.dtype, self.device = policy, making.dtype, torch.device(making.device)
        self._kept = None if cache is None else KeptOnDevice(cache, self.device)
        self._decoder = Decoder(self.device, making.workers or 1, batch + 2 * policy.group, decoding)
        # Plans and their images that are being decoded (may be none): as many as the decoder works on at once.
        self._begun: deque[tuple[Plan, list[int]]] = deque(maxlen=LANES["cuda"])

    def begin(self, plan: Plan, files: Sequence[bytes]) -> None:
        """See `augment.backends.protocol.Backend`."""
        entry = plan, self._missing(plan)
        self._begun.append(entry)
        if new := entry[1]:
            self._decoder.begin(entry, [files[slot] for slot in new])

    def render(self, plan: Plan, files: Sequence[bytes]) -> tuple[Tensor, ...]:
        """See `augment.backends.protocol.Backend`."""
        # Since `begin`, the cache may have got some of the images. All that were begun must be finished, so the
        # decoder's key is the entry with their list, not the plan.
        entry = next((entry for entry in self._begun if entry[0] is plan), None)
        if entry is None:
            entry = plan, self._missing(plan)
        else:
            self._begun.remove(entry)
        new = entry[1]
        decoded = self._decoder.listed([files[slot] for slot in new], entry) if new else None
        try:
            images = None if decoded is None else Addressed.whole(decoded)
            pictures, memory = self._pictures(plan, new, images)
            views = make_views(self.policy, plan, pictures, self.device, self.dtype)
            del memory  # the kernels that read it are in the stream
            return views
        finally:  # also after an error: the crops that the cache keeps may have yet to be cut
            if decoded is not None:
                self._decoder.keep(decoded)

    def _pictures(self, plan: Plan, new: Sequence[int], images: Addressed | None) -> tuple[Addressed, Tensor | None]:
        """The plan's pictures, those at `new` out of `images`, and memory that some of them lie in."""
        if self._kept is None:
            assert images is not None
            return images, None
        made, memory = (None, None) if images is None else self.keep(plan.images[new], images)
        return self._kept.pictures(plan.images, new, made), memory

    def keep(self, rows: np.ndarray, images: Addressed) -> tuple[Addressed, Tensor]:
        """The cache's pictures of different rows, cut from their whole images: see `KeptOnDevice.add`."""
        assert self._kept is not None
        return self._kept.add(rows, images, cut_crops)

    def _missing(self, plan: Plan) -> list[int]:
        """The plan's images that must be decoded."""
        return list(range(len(plan.images))) if self._kept is None else self._kept.missing(plan.images)

    def holds(self, row: int) -> bool:
        """See `augment.backends.protocol.Backend`."""
        return self._kept is not None and row in self._kept

    def reset(self) -> None:
        """Frees the decoder's threads and memory; the next batch builds a new one."""
        self._begun.clear()
        self._decoder.close()

    close = reset


def put(device: torch.device, **arrays: np.ndarray) -> dict[str, Tensor]:
    """Copies NumPy arrays to the device as flat tensors, padded to multiples of 16 bytes, all in one copy.

    The copy goes through pinned memory, which torch reuses only when the copy is over. A copy from pageable memory
    would wait for the kernels before it.
    """
    flat = [np.ascontiguousarray(array).reshape(-1) for array in arrays.values()]
    ends = list(itertools.accumulate(-(-array.nbytes // _ALIGNED) * _ALIGNED for array in flat))
    packed = torch.empty(ends[-1], dtype=torch.uint8, pin_memory=device.type == "cuda")
    host = packed.numpy()
    for array, start in zip(flat, (0, *ends), strict=False):
        host[start : start + array.nbytes] = array.view(np.uint8)
    there = packed.to(device, non_blocking=True)
    return {
        name: there[start:end].view(_TYPES[array.dtype])
        for name, array, start, end in zip(arrays, flat, (0, *ends), ends, strict=False)
    }


def cut_crops(pictures: Addressed, crops: np.ndarray, slot: np.ndarray, out: Tensor) -> None:
    """Cuts `crops` (layout.CROP, ROIs in pixels of the image) of the pictures `slot` to places counted from `out`.

    Raises ValueError where a crop leaves its picture.
    """
    if not len(crops):
        return
    kernels: Any = importlib.import_module("augment.backends.triton_kernels")
    jobs = put(out.device, jobs=pictures.jobs(crops, slot, out).view(np.int32))["jobs"]
    grid = (_tiles(int(crops["width"].max()), COLUMNS), _tiles(int(crops["height"].max()), ROWS), len(crops))
    # Pictures are found from `out`, whose address is a multiple of 16, so that there is one kernel for all batches.
    kernels.crop_kernel[grid](jobs, jobs.view(torch.int64), out, **CHUNK, **FUSION)


def make_views(
    policy: Policy, plan: Plan, pictures: Addressed | Sequence[Picture], device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, ...]:
    """Views from decoded images on `device`, one picture for each of the plan's images.

    On CUDA the kernels may not have run when this returns: the images must live until they have (see `dali_runs.Lane`).
    """
    if not isinstance(pictures, Addressed):
        pictures = Addressed.of(pictures)
    layout = lay_out(plan, shared=policy.scene == "whole", scenes_exist=pictures.scene is not None)
    cuts = torch.empty(layout.total, dtype=torch.uint8, device=device)
    cut_crops(pictures, layout.crops, layout.slot, cuts)
    scenes = layout.scenes
    if pictures.scene is not None:  # as offsets from `cuts`, wherever they are
        scenes = pictures.scene[plan.background_slot] - cuts.data_ptr()
    return finish_views(policy, plan, cuts, scenes, layout.patches, dtype)


def finish_views(
    policy: Policy, plan: Plan, cuts: Tensor, scenes: np.ndarray, patches: np.ndarray, dtype: torch.dtype
) -> tuple[Tensor, ...]:
    """Views from crops (uint8, flat, on the device); `scenes` and `patches`, int64 [B, V], are places in `cuts`."""
    kernels: Any = importlib.import_module("augment.backends.triton_kernels")
    size, shape, device = plan.size, plan.background_slot.shape, cuts.device
    table = view_table(plan, scenes.view(np.uint64), patches)
    table["out"] = np.arange(plan.sigma.size).reshape(shape[::-1]).T * (3 * size * size)  # V runs of B
    table = table.reshape(-1)
    sigma, radius = table["sigma"], table["radius"]
    blurred = sigma > 0
    plain, soft = (np.flatnonzero(which).astype(np.int32) for which in (~blurred, blurred))
    reach = int(radius[soft].max(initial=0))
    chunks = 1 if blur_radius(policy.blur_sigma[1]) <= BLUR_TILE // 4 else 1 + _tiles(2 * reach, BLUR_TILE)
    given = put(
        device,
        jobs=table.view(np.int32),
        plain=plain,
        blurred=soft,
        weights=_weights(sigma[soft], radius[soft], chunks),
        levels=_levels(policy.mean, policy.std),
        **({} if plan.alpha is None else {"alpha": plan.alpha}),
    )
    jobs = given["jobs"]
    sums = torch.zeros((table.size, 3), dtype=torch.int64, device=device)
    out = torch.empty((table.size, size, size, 3), dtype=dtype, device=device)
    linear, columns = policy.colour == "linear", _tiles(size, COLUMNS)
    canvas = jobs, jobs.view(torch.float32), jobs.view(torch.int64), cuts, given.get("alpha"), sums
    kernels.mean_kernel[columns, table.size](*canvas, size, LINEAR=linear, **CHUNK, **FUSION)
    to = given["levels"], out, size
    if len(plain):
        kernels.view_kernel[columns, len(plain)](given["plain"], *canvas, *to, LINEAR=linear, **CHUNK, **FUSION)
    if len(soft):
        side = _tiles(size, BLUR_TILE - 2 * reach if chunks == 1 else BLUR_TILE)
        kernels.blur_kernel[side, side, len(soft)](
            given["blurred"], given["weights"], *canvas, *to, LINEAR=linear, CHUNKS=chunks, TILE=BLUR_TILE,
            num_warps=8, **FUSION,
        )  # fmt: skip
    return tuple(view.permute(0, 3, 1, 2) for view in out.view(*shape[::-1], size, size, 3))


@cache
def _levels(mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """Factors of levels from 0 to 1 that normalise them, and what is added: float32 [6]."""
    scale = np.float32(255) * (1 / (255 * np.array(std))).astype(np.float32)
    return np.concatenate((scale, (-np.array(mean) / std).astype(np.float32)))


def _weights(sigma: np.ndarray, radius: np.ndarray, chunks: int) -> np.ndarray:
    """The blurs' weights as `blur_kernel` reads them, float16 [n, BLUR_TILE · (chunks + 1)]."""
    # No further than the widest blur: a multiple of 8, with which NumPy adds the same numbers in the same order.
    room = min(-(-(2 * int(radius.max(initial=0)) + 1) // 8) * 8, BLUR_TILE * chunks)
    distance = np.arange(room, dtype=np.float64) - radius[:, None]
    weights = np.exp(-0.5 * (distance / sigma[:, None]) ** 2)
    weights *= distance <= radius[:, None]
    table = np.zeros((len(sigma), BLUR_TILE * (chunks + 1)), np.float16)
    table[:, BLUR_TILE : BLUR_TILE + room] = weights / weights.sum(axis=1, keepdims=True)
    return table


def _tiles(pixels: int, side: int) -> int:
    return -(-pixels // side)
