"""The share of foreground in the patches that SaliencySwap would cut, for sets that come with masks."""

import contextlib
import math

import numpy as np

from precompute.base.boxfile import BoxCache
from precompute.base.boxmath import best_centred, centred
from precompute.datasets.listing import BadRow, Listing
from precompute.datasets.masks import extent

_LAMBDA = 0.5  # a patch covers U(λ, 1) of its box, aspect 3/4 to 4/3 in pixels
_RRC = 0.2  # MoCo v2's crop, the baseline: U(0.2, 1) of the whole picture
_DRAWS = 8  # patches a picture


def draw_patch(rng: np.random.Generator, box: np.ndarray, width: int, height: int, least: float) -> tuple[int, ...]:
    """torchvision's RandomResizedCrop inside a box (in [0, 1]) of a picture: x0, y0, x1, y1 in pixels."""
    left, top = int(box[0] * width), int(box[1] * height)
    w_box, h_box = max(1, round((box[2] - box[0]) * width)), max(1, round((box[3] - box[1]) * height))
    for _ in range(10):
        area = rng.uniform(least, 1) * w_box * h_box
        aspect = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= w_box and 0 < h <= h_box:
            x, y = left + int(rng.integers(w_box - w + 1)), top + int(rng.integers(h_box - h + 1))
            return x, y, x + w, y + h
    # The fallback: the box, cut to the nearest allowed aspect.
    w, h = min(w_box, round(h_box * 4 / 3)), min(h_box, round(w_box * 4 / 3))
    x, y = left + (w_box - w) // 2, top + (h_box - h) // 2
    return x, y, x + w, y + h


def foreground(cache: BoxCache, listing: Listing, most: int = 500) -> dict[str, dict[str, float]]:
    """Mean share of foreground in patches, and share of patches with a quarter of it or more, by kind of box.

    Kinds: these boxes, the masks' own boxes, the best fixed centred box, and RandomResizedCrop of the whole picture.
    Empty where the set has no masks. At most `most` pictures, spread over the set; always the same patches.
    """
    row_of = {path: i for i, path in enumerate(listing.paths)}
    rows = np.unique(np.linspace(0, len(cache) - 1, min(most, len(cache))).round().astype(int)).tolist()
    masks, boxes, truths = [], [], []
    for i in rows:
        path = cache.path(i)
        with contextlib.suppress(BadRow):
            if path in row_of and (mask := listing.mask(row_of[path])) is not None:
                truths.append(extent(mask, path).edges / np.tile(mask.shape[::-1], 2))
                masks.append(mask)
                boxes.append(cache.boxes[i].astype(np.float64))
    if not masks:
        return {}
    middle, _ = best_centred(np.array(truths))
    return {
        "these boxes": _shares(masks, boxes, _LAMBDA),
        "true boxes": _shares(masks, truths, _LAMBDA),
        "best centred box": _shares(masks, [middle] * len(masks), _LAMBDA),
        "RandomResizedCrop": _shares(masks, [centred(1, 1)] * len(masks), _RRC),
    }


def _shares(masks: list[np.ndarray], boxes: list[np.ndarray], least: float) -> dict[str, float]:
    shares = []
    for i, (mask, box) in enumerate(zip(masks, boxes, strict=True)):
        rng = np.random.default_rng(i)
        for _ in range(_DRAWS):
            x0, y0, x1, y1 = draw_patch(rng, box, mask.shape[1], mask.shape[0], least)
            shares.append(mask[y0:y1, x0:x1].mean())
    values = np.array(shares)
    return {"mean": float(values.mean()), "quarter_or_more": float((values >= 0.25).mean()), "pictures": len(masks)}
