"""The judge: one view after the other, NumPy and Pillow, float64, written straight from the definitions.

A pure function of a plan and the decoded images (uint8 [H, W, 3]). Nothing of the package's pixel code is used.
"""

import colorsys
import math

import numpy as np
from PIL import Image

from augment.views.plan import Plan
from augment.views.policy import Policy


def views(plan: Plan, images: list[np.ndarray], policy: Policy) -> np.ndarray:
    """Finished views, normalised, float64 [B, V, 3, size, size]."""
    out = [[view(plan, images, policy, i, v) for v in range(plan.views)] for i in range(len(plan))]
    return np.moveaxis(np.array(out), -1, 2)


def view(plan: Plan, images: list[np.ndarray], policy: Policy, i: int, v: int) -> np.ndarray:
    """One finished view, float64 [size, size, 3]."""
    pixels = composed(plan, images, i, v).astype(np.float64)
    if plan.flip[i, v]:
        pixels = pixels[:, ::-1]
    if plan.jittered[i, v]:
        for op in plan.order[i, v]:
            pixels = jitter(pixels, int(op), float(plan.jitter[i, v, op]), policy.colour)
    if plan.gray[i, v]:
        pixels = np.repeat(luma(pixels)[..., None], 3, axis=-1)
    pixels = pixels.clip(0, 255)
    if plan.sigma[i, v] > 0:
        pixels = blurred(pixels, float(plan.sigma[i, v]))
    return (pixels / 255 - policy.mean) / policy.std


def composed(plan: Plan, images: list[np.ndarray], i: int, v: int) -> np.ndarray:
    """The background with the patch on it, uint8 [size, size, 3]."""
    background = images[plan.background_slot[i, v]]
    canvas = resized(background, plan.scene[i, v], (plan.size, plan.size))
    x0, y0, x1, y1 = plan.rects[i, v].tolist()
    if x1 > x0 and y1 > y0:
        patch = resized(images[plan.source_slot[i]], plan.patch[i, v], (x1 - x0, y1 - y0))
        if plan.alpha is not None:
            alpha = plan.alpha[i, v, y0:y1, x0:x1, None] / 255
            patch = np.rint(alpha * patch + (1 - alpha) * canvas[y0:y1, x0:x1])
        canvas[y0:y1, x0:x1] = patch
    return canvas


def resized(image: np.ndarray, roi: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Crop, then Pillow's antialiased bilinear resize to (width, height)."""
    return np.array(Image.fromarray(image).crop(tuple(roi.tolist())).resize(size, Image.Resampling.BILINEAR))


def luma(pixels: np.ndarray) -> np.ndarray:
    return pixels @ (0.299, 0.587, 0.114)


def jitter(pixels: np.ndarray, op: int, factor: float, colour: str) -> np.ndarray:
    """One operation on pixels in [0, 255]; clamped to that range in torchvision's meaning only."""
    if op == 0:
        out = pixels * factor
    elif op == 1:
        out = factor * pixels + (1 - factor) * luma(pixels).mean()
    elif op == 2:
        out = factor * pixels + (1 - factor) * luma(pixels)[..., None]
    elif colour == "linear":
        yiq = np.array(((0.299, 0.587, 0.114), (0.596, -0.274, -0.322), (0.211, -0.523, 0.312)))
        y, i, q = np.moveaxis(pixels @ yiq.T, -1, 0)
        turned = (i + 1j * q) * np.exp(-2j * np.pi * factor)
        out = np.stack((y, turned.real, turned.imag), axis=-1) @ np.linalg.inv(yiq).T
    else:
        out = hsv_turned(pixels, factor)
    return out if colour == "linear" else out.clip(0, 255)


def hsv_turned(pixels: np.ndarray, turns: float) -> np.ndarray:
    """The hue shifted, pixel by pixel, by the standard library's conversions."""
    flat = []
    for r, g, b in pixels.reshape(-1, 3) / 255:
        h, s, value = colorsys.rgb_to_hsv(r, g, b)
        flat.append(colorsys.hsv_to_rgb((h + turns) % 1.0, s, value))
    return np.array(flat).reshape(pixels.shape) * 255


def blurred(pixels: np.ndarray, sigma: float) -> np.ndarray:
    """A Gaussian of window 2·ceil(3σ) + 1 along both axes, borders reflected without repeating the edge."""
    radius = math.ceil(3 * sigma)
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    weights /= weights.sum()
    for axis in (0, 1):
        padding = [(0, 0)] * 3
        padding[axis] = (radius, radius)
        padded = np.pad(pixels, padding, mode="reflect")
        length = pixels.shape[axis]
        pixels = sum(w * padded.take(range(t, t + length), axis=axis) for t, w in enumerate(weights))
    return pixels
