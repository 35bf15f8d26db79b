"""The `linear` meaning of colour jitter: one affine map a view, the same on every backend.

Brightness, contrast, saturation, hue (a rotation about the gray axis in YIQ) and gray are affine in RGB, and the
contrast's centre (the mean luma of the view) is linear in the view's mean colour. So any order of them collapses into

    y = M · x + K · mean(x)        M, K: 3 × 3, a view's own; nothing is clamped in between, y is clamped to [0, 255]

Against torchvision: brightness, saturation, contrast and gray agree wherever nothing clamps; the hue keeps luma, while
torchvision's keeps HSV's value (a mean difference of some levels at a shift of 0.1).
"""

import numpy as np

from augment.plan import BRIGHTNESS, CONTRAST, SATURATION

LUMA = np.array((0.299, 0.587, 0.114))  # ITU-R BT.601
_YIQ = np.array((LUMA, (0.596, -0.274, -0.322), (0.211, -0.523, 0.312)))
_RGB = np.linalg.inv(_YIQ)


def collapse(jitter: np.ndarray, order: np.ndarray, gray: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """M and K, float32 [..., 3, 3] each, of y = M·x + K·mean(x).

    `jitter` [..., 4] factors and hue shift, `order` [..., 4], `gray` bool [...] as in `augment.plan.Plan`.
    """
    jitter = jitter.astype(np.float64)
    shape = jitter.shape[:-1]
    m = np.broadcast_to(np.eye(3), (*shape, 3, 3)).copy()
    k = np.zeros((*shape, 3, 3))
    matrices = np.stack([_matrix(op, jitter[..., op]) for op in range(4)], axis=-3)  # [..., 4, 3, 3]
    to_luma = np.ones((3, 1)) * LUMA
    for step in range(4):
        op = order[..., step].astype(np.int64)
        a = np.take_along_axis(matrices, op[..., None, None, None], axis=-3)[..., 0, :, :]
        # Contrast turns about the luma of the mean at this point, which is (M + K)·mean so far.
        centre = np.where(op == CONTRAST, 1 - jitter[..., CONTRAST], 0.0)[..., None, None] * (to_luma @ (m + k))
        m, k = a @ m, a @ k + centre
    to_gray = np.where(gray[..., None, None], to_luma, np.eye(3))
    return (to_gray @ m).astype(np.float32), (to_gray @ k).astype(np.float32)


def _matrix(op: int, factor: np.ndarray) -> np.ndarray:
    """The 3 × 3 part [..., 3, 3] of one operation."""
    factor = factor[..., None, None]
    if op in (BRIGHTNESS, CONTRAST):
        return factor * np.eye(3)
    if op == SATURATION:
        return factor * np.eye(3) + (1 - factor) * (np.ones((3, 1)) * LUMA)
    # Red, yellow, green lie clockwise in the plane of I and Q, so a positive shift of the hue turns that way.
    angle = -2 * np.pi * factor[..., 0, 0]
    turn = np.zeros((*angle.shape, 3, 3))
    turn[..., 0, 0] = 1
    turn[..., 1, 1] = turn[..., 2, 2] = np.cos(angle)
    turn[..., 1, 2], turn[..., 2, 1] = -np.sin(angle), np.sin(angle)
    return _RGB @ turn @ _YIQ
