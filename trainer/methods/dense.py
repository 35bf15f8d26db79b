"""The dense loss: InfoNCE between cells of two views that show the same point of the object.

For a cell i of q with prediction p_i, whose middle lies at the point u_i of k, with K the target's normalised map of k,
sampled bilinearly and normalised again at u_i, and all cells j of all images n of the batch as negatives, but those of
the own k that lie nearer to u_i than one cell:

    L = -mean over i of log( exp(p_i·K(u_i)/τ) / (exp(p_i·K(u_i)/τ) + Σ_nj exp(p_i·K_nj/τ)) )

The mean is over the cells whose point both views show, of the whole batch.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from trainer.methods.base import Match
from trainer.methods.losses import full
from trainer.model.matched import middles
from trainer.parallel.collectives import gather, own_rows, rank, world

NEAR = 1.0  # cells: closer ones of the own image are no negatives
# Similarities in one part, 128 MiB (its backward holds several such tables): with more (512 views of 7×7 cells have 630
# million) they are computed in parts, and once more in the backward. The loss stays the same.
MOST_SIMILARITIES = 2**25


def dense_nce(prediction: Tensor, keys: Tensor, match: Match, temperature: float) -> Tensor:
    """The loss as a scalar, in float32 at least, whatever autocast says.

    prediction, keys: [n, d, H, W] of q (online) and k (target); `match`: where q's cells lie in k. Keys of all ranks
    are negatives, and the mean over the ranks is the loss of the whole batch.
    """
    with torch.autocast(prediction.device.type, enabled=False):
        p = F.normalize(full(prediction).flatten(2).transpose(1, 2), dim=-1)  # [n, cells, d]
        maps = F.normalize(full(keys), dim=1)
        points, weight = match.points.flatten(1, 2).to(p), match.same.flatten(1)
        similar = (p * F.normalize(sampled(maps, points), dim=-1)).sum(-1)
        own = torch.arange(len(p), device=p.device)[:, None].expand_as(weight)  # whose cell it is
        centres = middles(maps.shape[2:], maps.device).flatten(0, 1)
        count = gather(weight.sum(dtype=p.dtype)[None]).mean().clamp_min(1)  # of cells, per rank
        # On a CPU a shape may depend on values, which saves arithmetic; elsewhere the host would wait for it.
        chosen: Any = weight.flatten().nonzero()[:, 0] if p.device.type == "cpu" else slice(None)
        every = gather(maps.flatten(2).transpose(1, 2).contiguous())  # [ranks · n, cells, d]
        losses = _in_parts(
            p.flatten(0, 1)[chosen], similar.flatten()[chosen], every, own.flatten()[chosen] + rank() * len(p),
            points.flatten(0, 1)[chosen], centres, temperature,
        )  # fmt: skip
        return (losses * weight.flatten()[chosen]).sum() / count


def sampled(maps: Tensor, points: Tensor) -> Tensor:
    """Maps [n, d, H, W] at points [n, P, 2] (x, y in cells): [n, P, d], bilinear, constant beyond the outer middles."""
    height, width = maps.shape[2:]
    at = torch.stack((points[..., 0] * (2 / width), points[..., 1] * (2 / height)), -1) - 1
    found = F.grid_sample(maps, at[:, :, None], padding_mode="border", align_corners=False)
    return found[..., 0].transpose(1, 2)


def wrong_cells(match: Match) -> Match:
    """The same cells with each other's points, shuffled within each image: a control that knows the object alone.

    Drawn for the global batch from the CPU's generator: every rank seeds it equally, and a checkpoint holds it.
    """
    points, hidden = match.points.flatten(1, 2), ~match.same.flatten(1)
    draw = own_rows(torch.rand(world() * len(points), points.shape[1])).to(points.device, non_blocking=True)
    # Those that show the object, in order and in any order; the others come last in both.
    to, source = hidden.byte().argsort(dim=1, stable=True), (draw + 2 * hidden).argsort(dim=1)
    to, source = (order[:, :, None].expand_as(points) for order in (to, source))
    moved = torch.empty_like(points).scatter_(1, to, points.gather(1, source))
    return Match(moved.view_as(match.points), match.same)


def _in_parts(
    p: Tensor, similar: Tensor, every: Tensor, own: Tensor, points: Tensor, centres: Tensor, temperature: float
) -> Tensor:
    """The loss of every cell [Q], in as many parts as memory asks for."""
    rows = max(1, MOST_SIMILARITIES // every[..., 0].numel())
    if len(p) <= rows:
        return _losses(p, similar, every, own, points, centres, temperature)
    parts = zip(*(x.split(rows) for x in (p, similar, own, points)), strict=True)
    return torch.cat([
        checkpoint(_losses, q, s, every, o, u, centres, temperature, use_reentrant=False, preserve_rng_state=False)
        for q, s, o, u in parts
    ])  # fmt: skip


def _losses(
    p: Tensor, similar: Tensor, every: Tensor, own: Tensor, points: Tensor, centres: Tensor, temperature: float
) -> Tensor:
    """Of cells p [Q, d] with their positives' similarities [Q]: all keys [N, cells, d] are negatives but the near ones.

    own [Q]: the image in `every` that the points [Q, 2] of these cells are in, among the centres [cells, 2] of its own.
    """
    near = (points[:, None] - centres).norm(dim=-1) < NEAR  # [Q, cells]
    logits = (p @ every.flatten(0, 1).T).view(len(p), *every.shape[:2]) / temperature
    row = torch.arange(len(p), device=p.device)
    logits = logits.index_put((row, own), logits[row, own].masked_fill(near, -torch.inf))
    both = torch.cat([similar[:, None] / temperature, logits.flatten(1)], 1)
    return both.logsumexp(1) - both[:, 0]
