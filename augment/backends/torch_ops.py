"""What the torch backends share: decoding on the host and antialiased crops."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from precompute.base import pixels

_RGB = 3  # torchvision.io.ImageReadMode.RGB


def _find_decoder() -> Any:
    """torchvision's `decode_image` operator, or None.

    Its library is loaded by itself: `import torchvision` takes five CPU seconds, and its Python functions are
    deprecated since 0.29 (for torchcodec). When the operator goes, Pillow takes over: the same pixels in 1.3 to 1.5
    times the time.
    """
    spec = importlib.util.find_spec("torchvision")
    folders = spec.submodule_search_locations or [] if spec else []
    for library in sorted(path for folder in folders for path in Path(folder).glob("image*.so")):
        try:
            torch.ops.load_library(str(library))
            return torch.ops.image.decode_image
        except (OSError, RuntimeError, AttributeError):
            continue
    return None


_DECODE = _find_decoder()


def decode(data: bytes) -> Tensor:
    """A file that every decoder takes (a plain JPEG, or PNG) to uint8 [3, H, W] in channels-last memory, oriented."""
    if _DECODE is None:
        return torch.from_numpy(pixels.decode(bytes(data)).copy()).permute(2, 0, 1)
    encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    return _DECODE(encoded, _RGB, True)


def crop_resize(image: Tensor, roi: np.ndarray, height: int, width: int) -> Tensor:
    """The ROI (x0, y0, x1, y1) of uint8 [3, H, W], resized bilinearly with antialiasing, as Pillow's `resize` does.

    uint8 [3, height, width]. Raises ValueError where the ROI leaves the image, which then is not the planned one.
    """
    x0, y0, x1, y1 = roi.tolist()
    if not (0 <= x0 < x1 <= image.shape[2] and 0 <= y0 < y1 <= image.shape[1]):
        raise ValueError(f"ROI {roi.tolist()} leaves an image of {image.shape[2]}x{image.shape[1]} pixels")
    crop = image[None, :, y0:y1, x0:x1]
    return F.interpolate(crop, size=(height, width), mode="bilinear", antialias=True)[0]


def blend(patch: np.ndarray, scene: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """uint8 [h, w, 3]: alpha · patch + (1 - alpha) · scene, to the nearest level; alpha uint8 [h, w] of 255."""
    a = alpha[..., None].astype(np.int32)
    return ((a * patch + (255 - a) * scene + 127) // 255).astype(np.uint8)
