"""CIE L*a*b* of sRGB pixels: distances in it are about as large as they look."""

import torch
from torch import Tensor

_TO_XYZ = (  # IEC 61966-2-1, each row already divided by the white point D65
    (0.4124564 / 0.95047, 0.3575761 / 0.95047, 0.1804375 / 0.95047),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339 / 1.08883, 0.1191920 / 1.08883, 0.9503041 / 1.08883),
)


def rgb_to_lab(images: Tensor) -> Tensor:
    """uint8 or float [..., 3] in 0-255 -> float32 [..., 3]: L in 0-100, a and b about -100 to 100."""
    rgb = images.to(torch.float32) / 255
    linear = torch.where(rgb > 0.04045, ((rgb + 0.055) / 1.055).pow(2.4), rgb / 12.92)
    matrix = torch.tensor(_TO_XYZ, device=images.device)
    # Three explicit products instead of a matrix product: the latter's order of summation depends on the batch.
    x, y, z = ((linear * row).sum(-1) for row in matrix)
    f = [torch.where(v > 0.008856, v.clamp_min(1e-8).pow(1 / 3), 7.787 * v + 16 / 116) for v in (x, y, z)]
    return torch.stack((116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])), -1)
