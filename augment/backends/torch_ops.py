"""What the torch backends share: decoding on the host and antialiased crops."""

import numpy as np
import torch
import torch.nn.functional as F
import torchvision.io  # registers the decoders behind torch.ops.image
from torch import Tensor

from precompute import images

# torchvision >= 0.29 deprecates its Python functions in favour of torchcodec; the operators behind them are there, and
# decode in 0.75 of Pillow's time. When they go, Pillow takes over (the same pixels).
_DECODE = getattr(torch.ops.image, "decode_image", None) if torchvision.io else None
_RGB = 3  # torchvision.io.ImageReadMode.RGB


def decode(data: bytes) -> Tensor:
    """A file that every decoder takes (a plain JPEG, or PNG) to uint8 [3, H, W] in channels-last memory, oriented."""
    if _DECODE is None:
        return torch.from_numpy(images.decode(data).copy()).permute(2, 0, 1)
    encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    return _DECODE(encoded, _RGB, True)


def crop_resize(image: Tensor, roi: np.ndarray, height: int, width: int) -> Tensor:
    """The ROI (x0, y0, x1, y1) of uint8 [3, H, W], resized bilinearly with antialiasing, as Pillow's `resize` does.

    uint8 [3, height, width]. Raises ValueError where the ROI leaves the image, which then is not the planned one.
    """
    x0, y0, x1, y1 = roi.tolist()
    if x1 > image.shape[2] or y1 > image.shape[1]:
        raise ValueError(f"ROI {roi.tolist()} leaves an image of {image.shape[2]}x{image.shape[1]} pixels")
    crop = image[None, :, y0:y1, x0:x1]
    return F.interpolate(crop, size=(height, width), mode="bilinear", antialias=True)[0]


def empty_views(count: int, size: int, dtype: torch.dtype, device: torch.device | None = None) -> Tensor:
    """[count, 3, size, size] in channels-last memory, not filled."""
    return torch.empty((count, size, size, 3), dtype=dtype, device=device).permute(0, 3, 1, 2)
