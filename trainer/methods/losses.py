"""Eqs 3-7 of CVSA (arXiv 2106.15788) and the contrastive losses of the baselines.

Maps are [N, d, H, W]; masks and correspondence maps [N, H, W] in [0, 1]. Everything here is computed in float32
whatever autocast says: raw dot products in bfloat16 err by 0.011 in C.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.methods.loss_presets import CELLS, REDUCTIONS, LossPreset
from trainer.parallel.collectives import gather, rank


def negative_cosine(prediction: Tensor, projection: Tensor) -> Tensor:
    """D(p, h) of Eq. 6, mean over the batch: [N, d] twice to a scalar in [-1, 1]."""
    with torch.autocast(prediction.device.type, enabled=False):
        return -F.cosine_similarity(full(prediction), full(projection), dim=1).mean()


def attention(query: Tensor, key: Tensor, scaling: LossPreset) -> Tensor:
    """Eq. 3 with its scale: p_conv(q) [N, d, H, W] and h_conv(k) to [N, H·W of q, H·W of k].

    The exponent "-1" printed in the paper is the transpose. "raw" is its letter; with d = 256 it saturates the sigmoid.
    """
    with torch.autocast(query.device.type, enabled=False):
        q, k = full(query).flatten(2), full(key).flatten(2)
        if scaling.scale == "cosine":
            q, k = F.normalize(q, dim=1), F.normalize(k, dim=1)
            factor = 1 / scaling.temperature
        elif scaling.scale == "sqrt":
            factor = q.shape[1] ** -0.5
        elif scaling.scale == "raw":
            factor = 1.0
        else:
            raise ValueError(f"Unknown value {scaling.scale!r} for scale. Valid values are raw, sqrt, cosine.")
        return q.transpose(1, 2) @ k * factor


def correspondence(query: Tensor, key: Tensor, scaling: LossPreset) -> Tensor:
    """Eq. 4, C = max over the positions of k of σ(A): [N, H, W] of q, in (0, 1).

    σ is monotone, so the maximum is taken first: H·W sigmoids instead of (H·W)².
    """
    a = attention(query, key, scaling).amax(2)
    return torch.sigmoid(a).view(-1, *query.shape[2:])


def relative_correspondence(query: Tensor, key: Tensor, own: Tensor, scaling: LossPreset) -> Tensor:
    """How much better a cell fits its pair's keys than those of other images: [K, N, H, W] of q. Not in the paper.

    R = max A(q, k) - log mean over the other k' of exp max A(q, k'), with A of Eq. 3 and the maxima of Eq. 4: above 0
    where the pair's keys fit better. `key` [N, d, H, W] is of N images, 2 or more. Row r of `own` [K, N] is one way to
    pair them: view n of q with `key[own[r, n]]`. The other k' are all keys but that one.
    """
    with torch.autocast(query.device.type, enabled=False):
        each = torch.stack([attention(query, k, scaling).amax(2) for k in key.split(1)], 2)  # [N, cells, N keys]
        excess = []
        for row in own:
            paired = row[:, None, None].expand(*each.shape[:2], 1)
            others = each.scatter(2, paired, -torch.inf).logsumexp(2) - math.log(len(key) - 1)
            excess.append((each.gather(2, paired)[..., 0] - others).view(-1, *query.shape[2:]))
        return torch.stack(excess)


def alignment_loss(correspondence: Tensor, mask: Tensor, reduction: str = "sum") -> Tensor:
    """One of the two terms of Eq. 5, ‖δ(M) - C‖², mean over the batch: [N, H, W] twice to a scalar.

    `reduction` is over the cells of one map: "sum" is the letter and localises better, "mean" is H·W times weaker,
    "scaled" is the sum times 36 / (H·W), so the sum itself on 6×6 cells.
    """
    squares = (mask.to(correspondence) - correspondence).square().flatten(1)
    if reduction == "sum":
        return squares.sum(1).mean()
    if reduction == "mean":
        return squares.mean()
    if reduction == "scaled":
        return squares.sum(1).mean() * (CELLS / squares.shape[1])
    raise ValueError(f"Unknown value {reduction!r} for reduction. Valid values are {', '.join(REDUCTIONS)}.")


def info_nce(
    query: Tensor, positive: Tensor, negatives: Tensor, temperature: float, own_negative: Tensor | None = None
) -> Tensor:
    """MoCo's loss: query and positive [N, d], negatives [K, d] to a scalar; all are normalised here.

    `own_negative` [N, d]: one more negative for each query alone.
    """
    with torch.autocast(query.device.type, enabled=False):
        q, p, n = (F.normalize(full(x), dim=1) for x in (query, positive, negatives))
        paired = [p] if own_negative is None else [p, F.normalize(full(own_negative), dim=1)]
        logits = torch.cat([*((q * x).sum(1, keepdim=True) for x in paired), q @ n.T], 1) / temperature
        return F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.long, device=q.device))


def in_batch_nce(prediction: Tensor, projection: Tensor, temperature: float) -> Tensor:
    """MoCo v3's loss of one direction: predictions [n, d] against the target's projections [n, d] of all ranks.

    Row i's positive is projection i, all others are negatives; the mean over the ranks is the loss of the whole batch.
    """
    with torch.autocast(prediction.device.type, enabled=False):
        p, z = (F.normalize(full(x), dim=1) for x in (prediction, projection))
        positives = torch.arange(len(p), device=p.device) + rank() * len(p)
        return F.cross_entropy(p @ gather(z).T / temperature, positives)


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """SimCLR's loss over both views, [N, d] each: every other view of the batch is a negative."""
    with torch.autocast(first.device.type, enabled=False):
        z = F.normalize(torch.cat([full(first), full(second)]), dim=1)
        logits = (z @ z.T / temperature).fill_diagonal_(float("-inf"))
        n = len(first)
        partner = torch.arange(2 * n, device=z.device).roll(n)
        return F.cross_entropy(logits, partner)


def bilinear_masks(rects: Tensor, size: int, grid: int) -> Tensor:
    """The letter of Eq. 5's δ: binary masks resized by `F.interpolate` without antialias, [N, 4] to [N, grid, grid].

    Samples four pixels of each cell, so it errs by up to 0.7 in a cell and loses small objects;
    `augment.views.geometry.masks` is exact. `rects` are x0, y0, x1, y1 in view pixels, end-exclusive.
    """
    centres = torch.arange(size, device=rects.device)
    x0, y0, x1, y1 = (c[:, None] for c in rects.unbind(1))
    inside_x, inside_y = (centres >= x0) & (centres < x1), (centres >= y0) & (centres < y1)
    mask = (inside_y[:, :, None] & inside_x[:, None, :]).float()
    return F.interpolate(mask[:, None], size=(grid, grid), mode="bilinear", align_corners=False)[:, 0]


def full(x: Tensor) -> Tensor:
    """At least float32 (float64 stays, for tests)."""
    return x if x.dtype == torch.float64 else x.float()
