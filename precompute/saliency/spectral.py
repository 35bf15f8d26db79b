"""Spectral residual (Hou & Zhang, CVPR 2007): what the log spectrum has beyond its local average."""

import torch
from torch.nn import functional as F

from precompute.saliency.handmade import Handmade

_SIGMA = 3.0  # pixels of 64; the paper smooths with a Gaussian of σ 8 at 256-wide pictures or a disc of 3 at 64


class SpectralResidual(Handmade):
    """float32 [B, 64, 64] maps of 64×64 pictures."""

    name, side = "spectral-residual", 64
    settings = (("sigma", _SIGMA),)

    def __init__(self, device: str = "cpu") -> None:
        radius = int(3 * _SIGMA)
        offsets = torch.arange(-radius, radius + 1, dtype=torch.float32, device=device)
        kernel = torch.exp(-(offsets**2) / (2 * _SIGMA**2))
        self._kernel = kernel / kernel.sum()

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        gray = images.to(torch.float32).mean(-1)
        spectrum = torch.fft.fft2(gray)
        log_amplitude = torch.log(spectrum.abs() + 1e-8)
        around = F.pad(log_amplitude[:, None], (1, 1, 1, 1), mode="circular")
        residual = log_amplitude - F.avg_pool2d(around, 3, stride=1)[:, 0]
        maps = torch.fft.ifft2(torch.polar(torch.exp(residual), spectrum.angle())).abs().square()
        radius = len(self._kernel) // 2
        maps = F.pad(maps[:, None], (radius,) * 4, mode="reflect")
        maps = F.conv2d(maps, self._kernel.view(1, 1, 1, -1))
        return F.conv2d(maps, self._kernel.view(1, 1, -1, 1))[:, 0]
