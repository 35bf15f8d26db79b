"""The fused backend on CUDA: DALI decodes on the device, Triton kernels do everything else."""

import importlib
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from augment.backends.dali import Decoder
from augment.backends.dali_runs import LANES
from augment.backends.decoded import DecodedCache, Picture, kept_rois
from augment.backends.layout import CROP, lay_out, leaves
from augment.backends.protocol import Backend
from augment.request import Making
from augment.views import colour, geometry
from augment.views.plan import Plan
from augment.views.policy import Policy, blur_radius

BLUR_TILE = 64  # side of what a program composes, colours and blurs
# Rows and columns of pixels that the threads of another program have at a time.
ROWS, COLUMNS = 16, 32
CHUNK = {"ROWS": ROWS, "COLUMNS": COLUMNS}
_ALIGNED = 16  # bytes: what Triton's wide loads ask for
# Of every launch: a product and its sum become one operation. Triton's default changes with its version, and with it
# the views' last bits.
FUSION = {"enable_fp_fusion": True}


class FusedCudaBackend(Backend):
    """Decoded pictures stay where DALI put them; the kernels take them by address."""

    name = "fused"

    def __init__(self, policy: Policy, making: Making, batch: int, cache: DecodedCache | None = None) -> None:
        self.policy, self._cache = policy, cache
        self.device, self.dtype = torch.device(making.device), making.dtype
        self._decoder = Decoder(self.device, making.workers or 1, batch + 2 * policy.group)
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
        cache = self._cache
        # Since `begin`, the cache may have got some of the images. All that were begun must be finished, so the
        # decoder's key is the entry with their list, not the plan.
        entry = next((entry for entry in self._begun if entry[0] is plan), None)
        if entry is None:
            entry = plan, self._missing(plan)
        else:
            self._begun.remove(entry)
        new = entry[1]
        decoded = self._decoder.decode([files[slot] for slot in new], entry) if new else []
        if cache is None:
            pictures = [Picture(image) for image in decoded]
        else:
            rows = plan.images.tolist()
            made = zip(new, decoded, strict=True)
            kept = {slot: cache.keep(rows[slot], image, self._resized) for slot, image in made}
            pictures = [kept.get(slot) or cache.get(row) for slot, row in enumerate(rows)]
        views = make_views(self.policy, plan, [p for p in pictures if p is not None], self.device, self.dtype)
        if decoded:
            self._decoder.keep(decoded)
        return views

    def _missing(self, plan: Plan) -> list[int]:
        """The plan's images that must be decoded."""
        return [slot for slot, row in enumerate(plan.images.tolist()) if not self.holds(row)]

    def holds(self, row: int) -> bool:
        """See `augment.backends.protocol.Backend`."""
        return self._cache is not None and row in self._cache

    def _resized(self, image: Tensor, roi: np.ndarray, width: int, height: int) -> Tensor:
        job = np.zeros(1, CROP)
        job["roi"], job["width"], job["height"] = roi, width, height
        out = torch.empty((height, width, 3), dtype=torch.uint8, device=self.device)
        cut_crops([Picture(image)], job, np.zeros(1, np.int64), out)
        return out

    def reset(self) -> None:
        """Frees the decoder's threads and memory; the next batch builds a new one."""
        self._begun.clear()
        self._decoder.close()

    close = reset


def put(device: torch.device, **arrays: np.ndarray) -> dict[str, Tensor]:
    """Copies NumPy arrays to the device as tensors, all in one copy.

    The copy goes through pinned memory, which torch reuses only when the copy is over. A copy from pageable memory
    would wait for the kernels before it.
    """
    ends = np.cumsum([-(-array.nbytes // _ALIGNED) * _ALIGNED for array in arrays.values()])
    packed = torch.empty(int(ends[-1]), dtype=torch.uint8, pin_memory=device.type == "cuda")
    starts = dict(zip(arrays, [0, *ends.tolist()], strict=False))
    for name, array in arrays.items():
        packed.numpy()[starts[name] : starts[name] + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view("u1")
    there = packed.to(device, non_blocking=True)
    return {
        name: there[starts[name] : starts[name] + a.nbytes].view(torch.from_numpy(a[:0]).dtype).view(a.shape)
        for name, a in arrays.items()
    }


def cut_crops(pictures: Sequence[Picture], crops: np.ndarray, slot: np.ndarray, out: Tensor) -> None:
    """Cuts `crops` (layout.CROP, ROIs in pixels of the image) of `pictures[slot]` into `out`, a buffer of bytes.

    Raises ValueError where a crop leaves its picture.
    """
    if not len(crops):
        return
    kernels: Any = importlib.import_module("augment.backends.triton_kernels")
    sides = np.array([picture.pixels.shape[:2] for picture in pictures])[slot]
    corner, scale = (np.array([getattr(picture, name) for picture in pictures])[slot] for name in ("corner", "scale"))
    roi = kept_rois(crops["roi"], corner, scale)
    if leaves(roi, sides[:, ::-1]):
        raise ValueError("an ROI leaves its image: the plan was drawn for another one")
    address = np.array([picture.pixels.data_ptr() for picture in pictures], np.int64)[slot]
    shape = np.stack((crops["width"], crops["height"]), axis=1)
    first = pictures[0].pixels
    job = put(
        out.device,
        offset=address - first.data_ptr(),
        stride=3 * sides[:, 1],
        roi=roi,
        shape=shape,
        flip=crops["flip"],
        place=crops["out"].astype(np.int64),
    )
    across, down = shape.max(axis=0).tolist()
    grid = (_tiles(across, COLUMNS), _tiles(down, ROWS), len(shape))
    kernels.crop_kernel[grid](first, **job, out=out, **CHUNK, **FUSION)


def make_views(
    policy: Policy, plan: Plan, pictures: Sequence[Picture], device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, ...]:
    """Views from decoded images on `device`, one picture for each of the plan's images.

    On CUDA the kernels may not have run when this returns: the images must live until they have (see `dali_runs.Lane`).
    """
    kernels: Any = importlib.import_module("augment.backends.triton_kernels")
    exist = all(picture.scene is not None for picture in pictures)
    layout = lay_out(plan, shared=policy.scene == "whole", scenes_exist=exist)
    size, count = plan.size, plan.background_slot.size
    cuts = torch.empty(layout.total, dtype=torch.uint8, device=device)
    cut_crops(pictures, layout.crops, layout.slot, cuts)
    scenes = layout.scenes
    if exist:  # as offsets from `cuts`, wherever they are
        address = [0 if picture.scene is None else picture.scene.data_ptr() for picture in pictures]
        scenes = np.array(address, np.int64)[plan.background_slot] - cuts.data_ptr()
    m, k = colour.collapse(plan.jitter, plan.gray)
    of_views = {  # [B, V, ...]
        **{name: getattr(plan, name).astype(np.int32) for name in ("flip", "jittered", "order", "gray")},
        "scene": scenes,
        "patch": layout.patches,
        "rect": geometry.flip_rects(plan.rects, plan.flip, size),
        "jitter": plan.jitter,
        "matrix": m,
        "offset": k,
        **({} if plan.alpha is None else {"alpha": plan.alpha}),
    }
    scale, shift = 1 / (255 * np.array(policy.std)), -np.array(policy.mean) / policy.std
    sigma = plan.sigma.T.reshape(-1)
    plain, blurred = (np.flatnonzero(which).astype(np.int32) for which in (sigma <= 0, sigma > 0))
    radius = np.ceil(3 * sigma[blurred].astype(np.float64)).astype(np.int32)
    reach = int(radius.max(initial=0))
    chunks = 1 if blur_radius(policy.blur_sigma[1]) <= BLUR_TILE // 4 else 1 + _tiles(2 * reach, BLUR_TILE)
    given = put(
        device,
        plain=plain,
        blurred=blurred,
        radius=radius,
        weights=_weights(sigma[blurred], radius, chunks),
        scale=scale.astype(np.float32),
        shift=shift.astype(np.float32),
        **{name: np.swapaxes(x, 0, 1).reshape(count, *x.shape[2:]) for name, x in of_views.items()},  # V runs of B
    )
    sums = torch.zeros((count, 3), dtype=torch.int64, device=device)
    out = torch.empty((count, size, size, 3), dtype=dtype, device=device)
    linear, columns = policy.colour == "linear", _tiles(size, COLUMNS)
    canvas = (cuts, given.get("alpha"), *(given[name] for name in ("scene", "patch", "rect", "flip")))
    jitter = [given[name] for name in ("jittered", "order", "jitter")]
    to = *(given[name] for name in ("gray", "matrix", "offset")), out, given["scale"], given["shift"], size
    kernels.mean_kernel[columns, count](*canvas, *jitter, sums, size, LINEAR=linear, **CHUNK, **FUSION)
    if len(plain):
        grid = columns, len(plain)
        kernels.view_kernel[grid](given["plain"], *canvas, sums, *jitter, *to, LINEAR=linear, **CHUNK, **FUSION)
    if len(blurred):
        side = _tiles(size, BLUR_TILE - 2 * reach if chunks == 1 else BLUR_TILE)
        grid = side, side, len(blurred)
        kernels.blur_kernel[grid](
            given["blurred"], given["radius"], given["weights"], *canvas, sums, *jitter, *to, LINEAR=linear,
            CHUNKS=chunks, TILE=BLUR_TILE, num_warps=8, **FUSION,
        )  # fmt: skip
    return tuple(view.permute(0, 3, 1, 2) for view in out.view(plan.views, len(plan), size, size, 3))


def _weights(sigma: np.ndarray, radius: np.ndarray, chunks: int) -> np.ndarray:
    """The blurs' weights as `blur_kernel` reads them, float16 [n, BLUR_TILE · (chunks + 1)]."""
    distance = np.arange(BLUR_TILE * chunks) - radius[:, None]
    weights = np.exp(-0.5 * (distance / sigma[:, None].astype(np.float64)) ** 2) * (distance <= radius[:, None])
    table = np.zeros((len(sigma), BLUR_TILE * (chunks + 1)), np.float16)
    table[:, BLUR_TILE:] = weights / weights.sum(axis=1, keepdims=True)
    return table


def _tiles(pixels: int, side: int) -> int:
    return -(-pixels // side)
