"""How well boxes agree with the truth, always beside what a fixed box in the middle would reach; proportions."""

import numpy as np


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes [N, 4] and [N, 4] (or [4]), pair by pair; 0 where both are empty."""
    low = np.maximum(a[..., :2], b[..., :2])
    high = np.minimum(a[..., 2:], b[..., 2:])
    inter = np.clip(high - low, 0, None).prod(-1)
    union = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - inter
    return np.divide(inter, union, out=np.zeros_like(inter), where=union > 0)


def centred(width: float, height: float) -> np.ndarray:
    return np.array([(1 - width) / 2, (1 - height) / 2, (1 + width) / 2, (1 + height) / 2])


def best_centred(truths: np.ndarray) -> tuple[np.ndarray, float]:
    """The fixed centred box [4] with the best mean IoU over `truths` [N, 4], and that mean.

    It is fitted to these very truths, so it is a generous baseline: what a detector does not beat is worth nothing.
    """
    sides = np.arange(0.3, 1.001, 0.05)
    scores = [(float(iou(truths, centred(w, h)).mean()), w, h) for w in sides for h in sides]
    score, width, height = max(scores)
    return centred(width, height), score


def agreement(boxes: np.ndarray, truths: np.ndarray) -> dict[str, float | int]:
    """Mean IoU and share with IoU ≥ 0.5 over the pictures that have a truth (no NaN), and the centred box's."""
    known = ~np.isnan(truths[:, 0])
    boxes, truths = boxes[known].astype(np.float64), truths[known].astype(np.float64)
    if not len(truths):
        return {"pictures": 0}
    facts: dict[str, float | int] = {"pictures": len(truths)}
    for name, overlap in (("", iou(boxes, truths)), ("centred_", iou(truths, best_centred(truths)[0]))):
        facts[f"{name}mean_iou"] = float(overlap.mean())
        facts[f"{name}iou_at_least_half"] = float((overlap >= 0.5).mean())
    return facts


def alike(wide: int, high: int, width: int, height: int) -> bool:
    """Whether pictures of wide × high and width × height pixels have the same proportions, up to rounding to pixels."""
    return min(wide, high) > 0 and abs(width * high - height * wide) <= max(width, height, wide, high)
