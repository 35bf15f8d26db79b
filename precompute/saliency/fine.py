"""Fine-grained saliency (Montabone & Soto 2010), the kind in the paper's Appendix B: centre against surround.

On-centre and off-centre differences of the intensity to the mean of its surround, over several surrounds, added. As
published it marks edges and small things; the box of such a map is no better than a centred one.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from precompute.saliency.handmade import Handmade


class FineGrained(Handmade):
    """float32 [B, 128, 128] maps of 128×128 pictures."""

    name, side, batch = "fine-grained", 128, 16
    _radii = (3, 6, 7, 12, 14, 28)  # pixels of 128; the published 12 to 112 of VGA pictures, scaled
    settings = (("radii", list(_radii)),)

    def __call__(self, images: Tensor) -> Tensor:
        weights = torch.tensor((0.299, 0.587, 0.114), device=images.device)
        gray = (images.to(torch.float32) * weights).sum(-1)
        on, off = torch.zeros_like(gray), torch.zeros_like(gray)
        for radius in self._radii:
            size = 2 * radius + 1
            around = F.avg_pool2d(gray[:, None], size, stride=1, padding=radius, count_include_pad=False)[:, 0]
            inner = torch.ones_like(gray[:1, None])
            count = F.avg_pool2d(inner, size, stride=1, padding=radius, divisor_override=1)[:, 0]
            surround = (around * count - gray) / (count - 1)
            on += (gray - surround).clamp_min(0)
            off += (surround - gray).clamp_min(0)
        return on + off
