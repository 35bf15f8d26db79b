"""Robust background detection (Zhu et al., CVPR 2014): parts hardly connected to the edge are foreground."""

import torch
from torch import Tensor

from precompute.saliency.colour import rgb_to_lab
from precompute.saliency.geodesic import distances, neighbour_steps
from precompute.saliency.handmade import Handmade

_FAR = 1e6


class RobustBackground(Handmade):
    """float32 [B, 24, 24] maps of 24×24 pictures: boundary connectivity, weighted contrast, least squares."""

    name, side = "robust-background", 24
    batch = 4  # its all-pairs distances take 1.3 MB a picture, and there are many passes over them
    _colour, _place, _bound = 10.0, 0.25, 1.0  # σ of colour distance, of place, of connectivity: the paper's
    settings = ("colour", _colour), ("place", _place), ("bound", _bound)

    def __init__(self, device: str = "cpu") -> None:
        g = self.side
        at = (torch.arange(g, dtype=torch.float32, device=device) + 0.5) / g
        squares = (at[:, None] - at) ** 2
        apart = (squares[:, None, :, None] + squares[None, :, None, :]).reshape(g * g, g * g)
        self._near = torch.exp(-apart / (2 * self._place**2))
        self._neighbour = (apart < 2.5 / g**2) & (apart > 0)
        edge = torch.zeros(g, g, dtype=torch.bool, device=device)
        edge[0], edge[-1], edge[:, 0], edge[:, -1] = True, True, True, True
        self._edge = edge.flatten()

    def __call__(self, images: Tensor) -> Tensor:
        return torch.stack([self._one(lab) for lab in rgb_to_lab(images)])

    def _one(self, lab: Tensor) -> Tensor:
        g, n = self.side, self.side**2
        across, down = neighbour_steps(lab[None])
        start = torch.full((n, n), _FAR, device=lab.device).fill_diagonal_(0).view(n, g, g)
        geodesic = distances(start, across, down).view(n, n)
        similar = torch.exp(-(geodesic**2) / (2 * self._colour**2))
        connectivity = similar[:, self._edge].sum(1) / similar.sum(1).sqrt()  # Eq. 4
        background = 1 - torch.exp(-(connectivity**2) / (2 * self._bound**2))  # Eq. 6
        flat = lab.view(n, 3)
        colour = (flat[:, None] - flat).square().sum(-1).sqrt()
        contrast = (colour * self._near * background).sum(1)  # Eq. 7
        foreground = contrast / contrast.max().clamp_min(1e-6)
        # Eq. 9: the smooth map that agrees with both, a linear system. μ = 0.1 joins small steps in even regions.
        smooth = (torch.exp(-(colour**2) / (2 * self._colour**2)) + 0.1) * self._neighbour
        system = torch.diag(background + foreground + smooth.sum(1)) - smooth
        return torch.linalg.solve(system, foreground).view(g, g)
