"""The `linear` meaning of colour jitter: one affine map a view, the same on every backend.

Brightness, contrast, saturation, hue (a rotation about the gray axis in YIQ) and gray are affine in RGB, and the
contrast's centre (the mean luma of the view) is linear in the view's mean colour. So they collapse into

    y = M · x + K · mean(x)        M, K: 3 × 3, a view's own; nothing is clamped in between, y is clamped to [0, 255]

The order drawn for a view does not matter: brightness and contrast are multiples of the identity, saturation and hue
turn and stretch the plane of I and Q and leave luma alone, so all of them commute, and the contrast turns about the
same luma, (1 - contrast) · brightness · luma(mean), wherever it stands.

Against torchvision: brightness, saturation, contrast and gray agree wherever nothing clamps; the hue keeps luma, while
torchvision's keeps HSV's value (a mean difference of some levels at a shift of 0.1).
"""

import numpy as np

from augment.views.plan import BRIGHTNESS, CONTRAST, HUE, SATURATION
from augment.views.policy import Policy

LUMA = np.array((0.299, 0.587, 0.114))  # ITU-R BT.601
_YIQ = np.array((LUMA, (0.596, -0.274, -0.322), (0.211, -0.523, 0.312)))
_TO_LUMA = np.ones((3, 1)) * LUMA  # a colour to its gray
_TO_CHROMA = np.eye(3) - _TO_LUMA
_QUARTER = np.linalg.inv(_YIQ)[:, 1:] @ np.array(((0.0, -1.0), (1.0, 0.0))) @ _YIQ[1:]  # a quarter turn of chroma
CONSTANTS = np.concatenate((LUMA, *(matrix.reshape(9) for matrix in (_TO_LUMA, _TO_CHROMA, _QUARTER))))


def denormalise(
    views: np.ndarray, mean: tuple[float, ...] = Policy.mean, std: tuple[float, ...] = Policy.std
) -> np.ndarray:
    """Normalised views [..., 3, S, S] as pictures, uint8 [..., S, S, 3]."""
    pixels = np.moveaxis(views, -3, -1) * np.asarray(std, np.float32) + np.asarray(mean, np.float32)
    return (pixels * 255).round().clip(0, 255).astype(np.uint8)


def collapse(jitter: np.ndarray, gray: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """M and K, float32 [..., 3, 3] each, of y = M·x + K·mean(x).

    `jitter` [..., 4] factors and hue shift, `gray` bool [...] as in `augment.views.plan.Plan`.
    """
    # The nine numbers of a matrix in the first axis: NumPy is slow where the last axis is short.
    rows = np.ascontiguousarray(jitter.reshape(-1, 4).T, np.float64)
    brightness, contrast, saturation, hue = (rows[op] for op in (BRIGHTNESS, CONTRAST, SATURATION, HUE))
    angle = angles(hue)
    turned = np.cos(angle) * _TO_CHROMA.reshape(9, 1) + np.sin(angle) * _QUARTER.reshape(9, 1)
    turned *= np.where(gray.reshape(-1), 0.0, saturation)
    turned += _TO_LUMA.reshape(9, 1)
    turned *= brightness * contrast
    m = turned.astype(np.float32).T.reshape(*gray.shape, 3, 3)
    k = (brightness * (1 - contrast) * LUMA[:, None]).astype(np.float32).T.reshape(*gray.shape, 1, 3)
    return m, k.repeat(3, axis=-2)


def angles(hue: np.ndarray) -> np.ndarray:
    """The turn of chroma, radians in float64, of a shift of the hue in turns."""
    # Red, yellow, green lie clockwise in the plane of I and Q, so a positive shift of the hue turns that way.
    return -2 * np.pi * hue.astype(np.float64)
