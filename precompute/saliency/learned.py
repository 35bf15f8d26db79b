"""The common parts of learned detectors: networks of plain convolutions with published weights."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from precompute.saliency.weights import sha256

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pictures in [0, 1]


class LearnedDetector:
    """A network float32 [B, 3, side, side] -> [B, 1, side, side] as a detector."""

    side: int
    batch = 4  # threads work on batches side by side, so larger ones would only cost memory
    gamma = 0.02

    def __init__(self, network: nn.Module, name: str, device: str, weights: str) -> None:
        self.name, self._sha256 = name, sha256(weights)
        self._network = network.to(device).to(memory_format=torch.channels_last)
        if torch.device(device).type == "cuda":
            self.batch = 32
        self._mean, self._std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (MEAN, STD))

    def describe(self) -> dict[str, Any]:
        return {"detector": self.name, "version": 1, "side": self.side, "weights_sha256": self._sha256}

    def normalise(self, x: Tensor) -> Tensor:
        """float32 [B, 3, side, side] in 0-255 as the network was trained on it."""
        raise NotImplementedError

    def __call__(self, images: Tensor) -> Tensor:
        x = self.normalise(images.permute(0, 3, 1, 2).to(torch.float32))
        return self._network(x.contiguous(memory_format=torch.channels_last))[:, 0]


def fill(convolutions: Iterable[nn.Module], tensors: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Copies a weight and a bias into each convolution."""
    for module, (weight, bias) in zip(convolutions, tensors, strict=True):
        module.load_state_dict({"weight": weight, "bias": bias})


def pool(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 2, stride=2, ceil_mode=True)


def resize_as(x: Tensor, other: Tensor) -> Tensor:
    if x.shape[2:] == other.shape[2:]:
        return x
    return F.interpolate(x, other.shape[2:], mode="bilinear", align_corners=False)
