"""How well scores of a map's cells separate foreground from background."""

import torch
from torch import Tensor


def cell_auc(scores: Tensor, masks: Tensor) -> Tensor:
    """Area under the ROC of each image's cells [N]: P(foreground > background) + P(equal) / 2.

    Scores and masks are [N, H, W]; a cell is foreground when its mask is at least 0.5. nan for an image without both
    kinds of cells, or whose scores are not all finite.
    """
    scores, foreground = scores.flatten(1).float(), masks.flatten(1) >= 0.5
    n, cells = scores.shape
    ordered, order = scores.sort(1)
    # Mid-ranks: cells of equal score share the mean of their places.
    first = torch.searchsorted(ordered, ordered, right=False)
    last = torch.searchsorted(ordered, ordered, right=True)
    ranks = torch.empty_like(scores).scatter_(1, order, (first + last + 1).float() / 2)
    positive = foreground.sum(1).float()
    auc = (ranks * foreground).sum(1) - positive * (positive + 1) / 2
    pairs = positive * (cells - positive)
    return torch.where(
        (pairs > 0) & scores.isfinite().all(1),
        auc / pairs.clamp_min(1),
        torch.full((n,), float("nan"), device=auc.device),
    )
