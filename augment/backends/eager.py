"""The fused backend's passes in plain torch, for machines without a compiler: one view at a time, in few passes.

Crops lie at the addresses of the backend's layout, as for the compiled passes.
"""

import ctypes

import numpy as np
import torch
from torch import Tensor

from augment.backends.torch_ops import blend, crop_resize
from augment.views import colour, geometry
from augment.views.plan import BRIGHTNESS, CONTRAST, HUE, SATURATION, Plan
from augment.views.policy import Policy, blur_radius

_LUMA = (0.2989, 0.587, 0.114)  # torchvision's


def _pixels_at(address: int, height: int, width: int) -> Tensor:
    """uint8 [height, width, 3] over memory at an address; the caller keeps the memory alive."""
    memory = (ctypes.c_uint8 * (3 * height * width)).from_address(address)
    return torch.frombuffer(memory, dtype=torch.uint8).view(height, width, 3)


def scene_or_patch(image: Tensor, job: np.void) -> None:
    """Cuts one `layout.CROP` out of uint8 [3, H, W] and resizes it to its place."""
    height, width = int(job["height"]), int(job["width"])
    crop = crop_resize(image, job["roi"], height, width).permute(1, 2, 0)
    _pixels_at(int(job["out"]), height, width).copy_(crop.flip(1) if job["flip"] else crop)


def blend_patches(plan: Plan, i: int, scenes: np.ndarray, patches: np.ndarray) -> None:
    """Lays source i's patches over what is under them, in place: then they can be pasted as they are."""
    assert plan.alpha is not None
    for v in range(plan.views):
        x0, y0, x1, y1 = plan.rects[i, v].tolist()
        if x1 > x0 and y1 > y0:
            patch = _pixels_at(int(patches[i, v]), y1 - y0, x1 - x0).numpy()
            under = _pixels_at(int(scenes[i, v]), plan.size, plan.size).numpy()[y0:y1, x0:x1]
            alpha = plan.alpha[i, v, y0:y1, x0:x1]
            if plan.flip[i, v]:  # patches are turned when they are cut, scenes are not
                under, alpha = under[:, ::-1], alpha[:, ::-1]
            patch[:] = blend(patch, under, alpha)


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
    # Planes from here on: on interleaved pixels torch's products and sums are three to eight times as slow.
    levels = canvas.permute(2, 0, 1).to(torch.float32, memory_format=torch.contiguous_format).view(3, -1)
    if policy.colour == "linear":
        m, k = colour.collapse(plan.jitter[i, v], plan.gray[i, v])
        shift = torch.from_numpy(k) @ levels.mean(1)
        levels = (torch.from_numpy(m) @ levels).add_(shift[:, None]).clamp_(0, 255)
    else:
        levels = torchvision_colour(levels, plan, i, v)
    levels = levels.view(3, size, size)
    if plan.sigma[i, v] > 0:
        levels = blur(levels, plan.sigma[i, v])
    mean, std = (torch.tensor(x, dtype=torch.float32)[:, None, None] for x in (policy.mean, policy.std))
    out.copy_(levels.mul_(1 / (255 * std)).sub_(mean / std))


def torchvision_colour(levels: Tensor, plan: Plan, i: int, v: int) -> Tensor:
    """torchvision's operations in the view's own order on [3, P] in [0, 255], clamped after each."""
    weights = torch.tensor(_LUMA, dtype=torch.float32)
    for op in plan.order[i, v].tolist() if plan.jittered[i, v] else ():
        factor = float(plan.jitter[i, v, op])
        if op == BRIGHTNESS:
            levels = levels * factor
        elif op == CONTRAST:
            # The mean luma, as the luma of the means: torch adds up one sum in as many parts as it has threads.
            levels = levels * factor + (1 - factor) * (weights @ levels.mean(1))
        elif op == SATURATION:
            levels = levels * factor + (1 - factor) * (weights @ levels)
        elif op == HUE:
            levels = hue(levels, factor)
        levels = levels.clamp_(0, 255)
    return (weights @ levels).expand(3, -1).contiguous() if plan.gray[i, v] else levels


def hue(levels: Tensor, turns: float) -> Tensor:
    """HSV's hue shifted: channel = v - range · clamp(min(k, 4 - k), 0, 1) with k = (5, 3, 1 + 6·hue) mod 6."""
    r, g, b = levels.unbind(0)
    value = levels.amax(0)
    span = value - levels.amin(0)
    inverse = span.clamp(min=1e-12).reciprocal_()
    not_red = torch.where(value == g, 2 + (b - r) * inverse, 4 + (r - g) * inverse)
    sixth = torch.where(value == r, (g - b) * inverse, not_red)
    k = torch.remainder(sixth + (6 * turns + torch.tensor((5.0, 3.0, 1.0), dtype=torch.float32))[:, None], 6)
    return value - span * torch.minimum(k, 4 - k).clamp_(0, 1)


def blur(levels: Tensor, sigma: float) -> Tensor:
    """Gaussian of window 2·ceil(3σ) + 1 over [3, S, S], reflected at the borders without the edge: down, then across.

    As sums of shifted planes: BLAS adds up in an order that depends on the number of threads.
    """
    radius = blur_radius(sigma)  # of the float32 that the plan has: in double precision 3σ may be a window more
    weight = np.exp(-0.5 * (np.arange(radius + 1) / float(sigma)) ** 2)
    weights = (weight / (2 * weight.sum() - 1)).astype(np.float32).tolist()
    for axis, border in ((1, (0, 0, radius, radius)), (2, (radius, radius))):
        size, padded = levels.shape[axis], torch.nn.functional.pad(levels, border, mode="reflect")
        levels = padded.narrow(axis, radius, size) * weights[0]
        for k in range(1, radius + 1):
            levels.add_(padded.narrow(axis, radius - k, size), alpha=weights[k])
            levels.add_(padded.narrow(axis, radius + k, size), alpha=weights[k])
    return levels
