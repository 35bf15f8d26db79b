"""The fused backend on CUDA: DALI decodes on the device, Triton kernels do everything else."""

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from augment import colour, geometry
from augment.backends.layout import lay_out
from augment.plan import Plan
from augment.policy import Policy, blur_radius

BLOCK = 256  # pixels of one program


class FusedCudaBackend:
    """Decoded pictures stay where DALI put them; the kernels take them by address."""

    name = "fused"

    def __init__(self, policy: Policy, device: torch.device, dtype: torch.dtype, workers: int, batch: int) -> None:
        from augment.backends.dali import Decoder

        self.policy, self.device, self.dtype = policy, device, dtype
        self._decoder = Decoder(device, workers, batch + 2 * policy.group)

    def render(self, plan: Plan, files: Sequence[bytes]) -> tuple[Tensor, ...]:
        """See `augment.backends.Backend`."""
        images = self._decoder.decode(files)
        views = make_views(self.policy, plan, images, self.device, self.dtype)
        self._decoder.held.keep(images)
        return views

    def reset(self) -> None:
        """The next batch builds a new decoder."""
        self._decoder.close()

    def close(self) -> None:
        """Frees the decoder's threads and memory."""
        self._decoder.close()


def make_views(
    policy: Policy, plan: Plan, images: Sequence[Tensor], device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, ...]:
    """Views from decoded images, uint8 [H, W, 3] each, packed, on `device`.

    On CUDA the kernels may not have run when this returns: the images must live until they have (see `dali.Held`).
    """
    kernels: Any = importlib.import_module("augment.backends.triton_kernels")
    layout, size, count = lay_out(plan, shared=policy.scene == "whole"), plan.size, plan.background_slot.size
    sides = np.array([image.shape[:2] for image in images])
    if (layout.crops["roi"][:, 2:] > sides[layout.slot][:, ::-1]).any():
        raise ValueError("an ROI leaves its image, which is not the one that the plan was drawn for")
    address = np.array([image.data_ptr() for image in images], np.int64)

    def put(values: np.ndarray, kind: type = np.int32) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values, kind)).to(device, non_blocking=True)

    cuts = torch.empty(layout.total, dtype=torch.uint8, device=device)
    shape = np.stack((layout.crops["width"], layout.crops["height"]), axis=1)
    kernels.crop_kernel[(len(shape), _programs(int(shape.prod(axis=1).max())))](
        images[0], put(address[layout.slot] - address[0], np.int64), put(3 * sides[layout.slot, 1], np.int64),
        put(layout.crops["roi"]), put(shape), put(layout.crops["flip"]), put(layout.crops["out"], np.int64), cuts,
        BLOCK=BLOCK,
    )  # fmt: skip
    by_view = lambda x: np.swapaxes(x, 0, 1).reshape(count, *x.shape[2:])  # noqa: E731 - [B, V] to V runs of B
    place = [put(by_view(x), np.int64) for x in (layout.scenes, layout.patches)]
    rects = put(by_view(geometry.flip_rects(plan.rects, plan.flip, size)))
    m, k = colour.collapse(plan.jitter, plan.order, plan.gray)
    floats = {n: put(by_view(x), np.float32) for n, x in (("m", m), ("k", k), ("j", plan.jitter), ("s", plan.sigma))}
    radius = np.vectorize(blur_radius, otypes=[np.int32])(plan.sigma)
    ints = {n: put(by_view(getattr(plan, n))) for n in ("flip", "jittered", "order", "gray")} | {
        "radius": put(by_view(radius))
    }
    scale = put(1 / (255 * np.array(policy.std)), np.float32)
    shift = put(-np.array(policy.mean) / policy.std, np.float32)
    sums = torch.zeros((count, 3), dtype=torch.int64, device=device)
    half = torch.empty((count if radius.any() else 0, size, size, 3), device=device)
    out = torch.empty((count, size, size, 3), dtype=dtype, device=device)
    grid, linear = (count, _programs(size * size)), policy.colour == "linear"
    canvas = (cuts, *place, rects, ints["flip"])
    drawn = (ints["jittered"], ints["order"], floats["j"])
    kernels.mean_kernel[grid](*canvas, *drawn, sums, size, LINEAR=linear, BLOCK=BLOCK)
    kernels.view_kernel[grid](
        *canvas, sums, *drawn, ints["gray"], floats["m"], floats["k"], ints["radius"], floats["s"], half, out, scale,
        shift, size, LINEAR=linear, BLOCK=BLOCK,
    )  # fmt: skip
    if len(half):
        kernels.across_kernel[grid](half, ints["radius"], floats["s"], out, scale, shift, size, BLOCK=BLOCK)
    return tuple(view.permute(0, 3, 1, 2) for view in out.view(plan.views, len(plan), size, size, 3))


def _programs(pixels: int) -> int:
    return -(-pixels // BLOCK)
