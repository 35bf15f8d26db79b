"""Geodesic saliency (Wei et al., ECCV 2012), alone and sharpened by a colour model. No weights.

A place is salient if it cannot be reached from the picture's edge without crossing a strong change of colour. Patches
are the pixels of a picture squashed to 24×24; steps between neighbours cost their distance in L*a*b*, less the
picture's average smallest step (so that texture is crossed for free).
"""

import torch
from torch import Tensor

from precompute.saliency.colour import rgb_to_lab
from precompute.saliency.handmade import Handmade

_FAR = 1e6


def neighbour_steps(lab: Tensor) -> tuple[Tensor, Tensor]:
    """Costs [B, g, g - 1] of steps to the right and [B, g - 1, g] downwards, for lab [B, g, g, 3]."""
    across = (lab[:, :, 1:] - lab[:, :, :-1]).square().sum(-1).sqrt()
    down = (lab[:, 1:] - lab[:, :-1]).square().sum(-1).sqrt()
    nearest = torch.full(lab.shape[:3], _FAR, device=lab.device)
    nearest[:, :, 1:] = across
    nearest[:, :, :-1] = torch.minimum(nearest[:, :, :-1], across)
    nearest[:, 1:] = torch.minimum(nearest[:, 1:], down)
    nearest[:, :-1] = torch.minimum(nearest[:, :-1], down)
    free = nearest.flatten(1).mean(1).view(-1, 1, 1)
    return (across - free).clamp_min(0), (down - free).clamp_min(0)


def distances(start: Tensor, across: Tensor, down: Tensor) -> Tensor:
    """Shortest distances [..., g, g] over the grid from `start` (0 at sources, large elsewhere), by relaxation.

    A fixed number of sweeps (2g, more than any path that occurs in practice has turns) keeps pictures of a batch
    independent of each other. `across`, `down` must broadcast against `start`.
    """
    reached = start.clone()
    for _ in range(2 * start.shape[-1]):
        reached[..., 1:] = torch.minimum(reached[..., 1:], reached[..., :-1] + across)
        reached[..., :-1] = torch.minimum(reached[..., :-1], reached[..., 1:] + across)
        reached[..., 1:, :] = torch.minimum(reached[..., 1:, :], reached[..., :-1, :] + down)
        reached[..., :-1, :] = torch.minimum(reached[..., :-1, :], reached[..., 1:, :] + down)
    return reached


def from_the_edge(lab: Tensor) -> Tensor:
    """Geodesic distance [B, g, g] of every patch to the picture's edge."""
    start = torch.full(lab.shape[:3], _FAR, device=lab.device)
    for edge in (start[:, 0], start[:, -1], start[:, :, 0], start[:, :, -1]):
        edge.zero_()
    return distances(start, *neighbour_steps(lab))


def to_unit(maps: Tensor) -> Tensor:
    """Each map [B, g, g] scaled to [0, 1]; a constant map becomes 0."""
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / (high - low).clamp_min(1e-6)


class Geodesic(Handmade):
    """float32 [B, 24, 24] maps of 24×24 pictures."""

    name, side = "geodesic", 24

    def __call__(self, images: Tensor) -> Tensor:
        return from_the_edge(rgb_to_lab(images))


class GeodesicColour(Handmade):
    """Geodesic saliency with a centre prior, multiplied by how much each patch's colour belongs to what it marks.

    The posterior of "foreground" for a patch is a kernel estimate over all patches, near in colour and place, weighted
    by their saliency. Chosen on 330 real photographs (the table: precompute/README.md).
    """

    name, side, batch = "geodesic-colour", 24, 16
    _centre, _colour, _place, _floor = 0.35, 5.0, 0.25, 0.3
    settings = ("centre", _centre), ("colour", _colour), ("place", _place), ("floor", _floor)

    def __init__(self, device: str = "cpu") -> None:
        at = (torch.arange(self.side, dtype=torch.float32, device=device) + 0.5) / self.side
        bell = torch.exp(-((at - 0.5) ** 2) / (2 * self._centre**2))
        self._prior = bell[:, None] * bell
        rows, columns = torch.meshgrid(at, at, indexing="ij")
        self._places = torch.stack((rows, columns), -1).view(-1, 2) / self._place

    def __call__(self, images: Tensor) -> Tensor:
        lab = rgb_to_lab(images)
        marked = to_unit(from_the_edge(lab)) * self._prior
        return self._posterior(lab, marked) * (self._floor + marked)

    def _posterior(self, lab: Tensor, marked: Tensor) -> Tensor:
        """[B, g, g] in [0, 1]: share of the kernel-weighted evidence that is foreground."""
        features = torch.cat((lab.flatten(1, 2) / self._colour, self._places.expand(len(lab), -1, -1)), 2)
        # The evidence is gathered from blocks of 2×2 patches: a quarter of the kernel, and hardly other boxes.
        grid = (self.side // 2, 2, self.side // 2, 2)
        sources = features.view(len(lab), *grid, -1).mean((2, 4)).flatten(1, 2)
        weights = marked.view(len(lab), *grid).mean((2, 4)).flatten(1)
        out = torch.empty_like(marked)
        # Picture by picture: the kernel stays in the cache, and no sum depends on the rest of the batch.
        for i, (feature, source, weight) in enumerate(zip(features, sources, weights, strict=True)):
            half = feature.square().sum(1)[:, None] / 2 + source.square().sum(1) / 2
            # exp(-|f - f'|² / 2) by a single matrix product; rounding may lift an exponent just above 0
            kernel = torch.addmm(half, feature, source.T, beta=-1).clamp_(max=0).exp_()
            inside, everything = (kernel @ torch.stack((weight, torch.ones_like(weight)), 1)).unbind(1)
            outside = (everything - inside) / (1 - weight).sum().clamp_min(1e-6)
            inside = inside / weight.sum().clamp_min(1e-6)
            out[i] = (inside / (inside + outside + 1e-9)).view(marked.shape[1:])
        return out
