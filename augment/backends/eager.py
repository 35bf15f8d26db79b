"""The fused backend's passes in plain torch, for machines without a compiler: one view at a time, few passes over it.

Crops lie at addresses that the backend has laid out, as for the compiled passes.
"""

import ctypes

import numpy as np
import torch
from torch import Tensor

from augment import colour, geometry
from augment.backends.torch_ops import crop_resize
from augment.plan import BRIGHTNESS, CONTRAST, HUE, SATURATION, Plan
from augment.policy import Policy, blur_radius

_LUMA = (0.2989, 0.587, 0.114)  # torchvision's


def _pixels_at(address: int, height: int, width: int) -> Tensor:
    """uint8 [height, width, 3] over memory that somebody else keeps alive."""
    memory = (ctypes.c_uint8 * (3 * height * width)).from_address(address)
    return torch.frombuffer(memory, dtype=torch.uint8).view(height, width, 3)


def scene_or_patch(image: Tensor, job: np.void) -> None:
    """Cuts one `native.CROP` out of uint8 [3, H, W] and resizes it to its place."""
    height, width = int(job["height"]), int(job["width"])
    crop = crop_resize(image, job["roi"], height, width).permute(1, 2, 0)
    _pixels_at(int(job["out"]), height, width).copy_(crop.flip(1) if job["flip"] else crop)


def finish_view(policy: Policy, plan: Plan, i: int, v: int, scene: int, patch: int, out: Tensor) -> None:
    """Composes, colours, blurs and normalises view v of source i into `out` [3, S, S] (channels-last memory)."""
    size = plan.size
    x0, y0, x1, y1 = geometry.flip_rects(plan.rects[i, v], plan.flip[i, v], size).tolist()
    covered = x1 - x0 == size and y1 - y0 == size
    if covered:
        canvas = _pixels_at(patch, size, size)
    else:
        background = _pixels_at(scene, size, size)
        canvas = background.flip(1) if plan.flip[i, v] else background.clone()
        if x1 > x0 and y1 > y0:
            canvas[y0:y1, x0:x1] = _pixels_at(patch, y1 - y0, x1 - x0)
    levels = canvas.reshape(-1, 3).float()
    if policy.colour == "linear":
        m, k = colour.collapse(plan.jitter[i, v], plan.order[i, v], plan.gray[i, v])
        levels = torch.addmm(torch.from_numpy(k) @ levels.mean(0), levels, torch.from_numpy(m).T).clamp_(0, 255)
    else:
        levels = torchvision_colour(levels, plan, i, v)
    if plan.sigma[i, v] > 0:
        levels = blur(levels.view(size, size, 3), float(plan.sigma[i, v]))
    scale = 1 / (255 * torch.tensor(policy.std))
    shift = -torch.tensor(policy.mean) / torch.tensor(policy.std)
    flat = out.permute(1, 2, 0).view(-1, 3)
    if flat.dtype == torch.float32:
        torch.addcmul(shift, levels.view(-1, 3), scale, out=flat)
    else:
        flat.copy_(torch.addcmul(shift, levels.view(-1, 3), scale))


def torchvision_colour(levels: Tensor, plan: Plan, i: int, v: int) -> Tensor:
    """torchvision's operations in the view's own order on [P, 3] in [0, 255], clamped after each."""
    weights = torch.tensor(_LUMA)
    for op in plan.order[i, v].tolist() if plan.jittered[i, v] else ():
        factor = float(plan.jitter[i, v, op])
        if op == BRIGHTNESS:
            levels = levels * factor
        elif op == CONTRAST:
            levels = levels * factor + (1 - factor) * (levels @ weights).mean()
        elif op == SATURATION:
            levels = levels * factor + (1 - factor) * (levels @ weights)[:, None]
        elif op == HUE:
            levels = hue(levels, factor)
        levels = levels.clamp_(0, 255)
    return (levels @ weights)[:, None].expand(-1, 3).contiguous() if plan.gray[i, v] else levels


def hue(levels: Tensor, turns: float) -> Tensor:
    """HSV's hue shifted: channel = v - range · clamp(min(k, 4 - k), 0, 1) with k = (5, 3, 1 + 6·hue) mod 6."""
    r, g, b = levels.unbind(1)
    value = levels.amax(1)
    span = value - levels.amin(1)
    inverse = span.clamp(min=1e-12).reciprocal_()
    sixth = torch.where(
        value == r,
        (g - b) * inverse,
        torch.where(value == g, 2 + (b - r) * inverse, 4 + (r - g) * inverse),
    )
    k = torch.remainder(sixth[:, None] + (6 * turns + torch.tensor((5.0, 3.0, 1.0))), 6)
    return value[:, None] - span[:, None] * torch.minimum(k, 4 - k).clamp_(0, 1)


def blur(levels: Tensor, sigma: float) -> Tensor:
    """Gaussian of window 2·ceil(3σ) + 1 over [S, S, 3], by two products with a banded matrix that knows the borders."""
    size = levels.shape[0]
    band = _band(size, sigma)
    down = band @ levels.view(size, -1)
    return torch.matmul(band, down.view(size, size, 3))


def _band(size: int, sigma: float) -> Tensor:
    """float32 [size, size]: row i holds the weights of output i, reflected at the borders without the edge."""
    radius = blur_radius(sigma)
    offset = np.arange(-radius, radius + 1)
    weight = np.exp(-0.5 * (offset / sigma) ** 2)
    column = np.abs(np.arange(size)[:, None] + offset)
    column = np.where(column >= size, 2 * size - 2 - column, column)
    band = np.zeros((size, size), np.float32)
    np.add.at(band, (np.arange(size)[:, None], column), (weight / weight.sum()).astype(np.float32))
    return torch.from_numpy(band)
