"""Minimum barrier distance (Zhang et al., ICCV 2015): the smallest range of colour on any way to the picture's edge."""

import torch
from torch import Tensor

from precompute.saliency.colour import rgb_to_lab
from precompute.saliency.geodesic import to_unit
from precompute.saliency.handmade import Handmade

_SWEEPS = 3  # as in the paper; each goes through all rows and columns, forth and back


class MinimumBarrier(Handmade):
    """float32 [B, 48, 48] maps of 48×48 pictures: barriers of L, a and b added, times a mild centre prior."""

    name, side = "minimum-barrier", 48
    _centre = 0.5
    settings = ("sweeps", _SWEEPS), ("centre", _centre)

    def __init__(self, device: str = "cpu") -> None:
        at = (torch.arange(self.side, dtype=torch.float32, device=device) + 0.5) / self.side - 0.5
        bell = torch.exp(-(at**2) / (2 * self._centre**2))
        self._prior = bell[:, None] * bell

    def __call__(self, images: Tensor) -> Tensor:
        lab = rgb_to_lab(images).permute(0, 3, 1, 2)
        return to_unit(barriers(lab).sum(1)) * self._prior


def barriers(channels: Tensor) -> Tensor:
    """Minimum barrier distance [..., g, g] to the edge for each channel, by raster sweeps of whole rows and columns.

    Each patch remembers the range (high, low) along its best way so far.
    """
    cost = torch.full_like(channels, torch.inf)
    for edge in (cost[..., 0, :], cost[..., -1, :], cost[..., 0], cost[..., -1]):
        edge.zero_()
    high, low = channels.clone(), channels.clone()
    last = channels.shape[-1] - 1
    for _ in range(_SWEEPS):
        for dim in (-2, -1):
            for order in (range(1, last + 1), range(last - 1, -1, -1)):
                step = 1 if order.step > 0 else -1
                for i in order:
                    _relax(channels, cost, high, low, dim, i - step, i)
    return cost


def _relax(channels: Tensor, cost: Tensor, high: Tensor, low: Tensor, dim: int, source: int, target: int) -> None:
    """Offers the way through row or column `source` to its neighbour `target`."""
    here = channels.select(dim, target)
    top = torch.maximum(high.select(dim, source), here)
    bottom = torch.minimum(low.select(dim, source), here)
    offered = top - bottom
    # A source that has no way to the edge yet can offer none.
    better = (offered < cost.select(dim, target)) & torch.isfinite(cost.select(dim, source))
    for kept, value in ((cost, offered), (high, top), (low, bottom)):
        kept.select(dim, target).copy_(torch.where(better, value, kept.select(dim, target)))
