"""Encoders: torchvision ResNets with torchvision's key names, `fc` taken off.

Feature maps are NCHW in channels-last memory; a map's cell (row, column) sees the view around ((row + 0.5) / H,
(column + 0.5) / W).
"""

import math
import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models import get_model_builder, list_models, resnet
from torchvision.models.resnet import BasicBlock, ResNet

from precompute.base.errors import UsageError

NARROW = re.compile(r"resnet(10|18|34)w([1-9]\d{0,3})")
ONEDNN = torch.backends.mkldnn.enabled  # as it was when this process began
CIFAR = "_cifar"  # after a torchvision name: its stem is one 3x3 convolution of stride 1, without a max-pool
STRIDES = (
    "resnet18 and other torchvision names: a 7x7 stem of stride 2 and a max-pool, 32 in all; resnet18_cifar (any of "
    "them): a 3x3 stem of stride 1 without a max-pool, 8 in all; resnet18w64 (10, 18, 34; any width): a 3x3 stem of "
    "stride 2 without a max-pool, stage 4 of stride 1, 8 in all"
)
BLOCKS = {"10": [1, 1, 1, 1], "18": [2, 2, 2, 2], "34": [3, 4, 6, 3]}


class NarrowResNet(ResNet):
    """A BasicBlock ResNet of `width` instead of 64 channels, for small views: total stride 8 instead of 32.

    Same key names as torchvision's. The stem is one 3x3 convolution of stride 2 without a max-pool and stage 4 keeps
    the resolution, so a 64-pixel view gives an 8x8 map, enough to localise on, at a cost a CPU can bear.
    """

    def __init__(self, blocks: Sequence[int], width: int, num_classes: int = 1000) -> None:
        nn.Module.__init__(self)  # ResNet's own __init__ would build 64 channels
        self._norm_layer = nn.BatchNorm2d
        self.inplanes, self.dilation, self.groups, self.base_width = width, 1, 1, 64
        self.conv1 = nn.Conv2d(3, width, kernel_size=3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.Identity()
        self.layer1 = self._make_layer(BasicBlock, width, blocks[0])
        self.layer2 = self._make_layer(BasicBlock, 2 * width, blocks[1], stride=2)
        self.layer3 = self._make_layer(BasicBlock, 4 * width, blocks[2], stride=2)
        self.layer4 = self._make_layer(BasicBlock, 8 * width, blocks[3], stride=1)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(8 * width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def build_encoder(arch: str) -> ResNet:
    """A freshly initialised ResNet without its classifier. UsageError names the architectures there are.

    With fewer than 16 channels it switches oneDNN off for this process (`ONEDNN` has the former setting).
    """
    if match := NARROW.fullmatch(arch):
        encoder: nn.Module = NarrowResNet(BLOCKS[match[1]], int(match[2]))
        if int(match[2]) < 16:  # oneDNN's convolutions of few channels hang or write beyond their memory on some CPUs
            torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
    elif arch.removesuffix(CIFAR) in architectures():
        encoder = get_model_builder(arch.removesuffix(CIFAR))(weights=None)
        if arch.endswith(CIFAR):
            encoder.conv1, encoder.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
            nn.init.kaiming_normal_(encoder.conv1.weight, mode="fan_out", nonlinearity="relu")
    else:
        raise UsageError(
            f"--arch {arch}: unknown. Valid: {', '.join(architectures())}, "
            "one of them with a stem for small pictures such as resnet18_cifar, or a narrow ResNet "
            "resnet{10,18,34}wWIDTH such as resnet10w16"
        )
    assert isinstance(encoder, ResNet)
    encoder.fc = nn.Identity()  # type: ignore[assignment]
    return encoder


def architectures() -> list[str]:
    """Names of torchvision's ResNets (ResNeXt and Wide ResNet among them)."""
    return [name for name in list_models() if get_model_builder(name).__module__ == resnet.__name__]


def is_resnet(arch: str) -> bool:
    """Whether `build_encoder` knows the name."""
    return NARROW.fullmatch(arch) is not None or arch.removesuffix(CIFAR) in architectures()


def usual_size(arch: str) -> int:
    """The side of the images that an architecture is made for."""
    return 64 if NARROW.fullmatch(arch) else 32 if arch.endswith(CIFAR) else 224


def feature_maps(encoder: ResNet, images: Tensor) -> dict[int, Tensor]:
    """Images [N, 3, S, S] to the maps of stages 3 and 4, {3: [N, C3, H3, W3], 4: [N, C4, H4, W4]}."""
    x = encoder.maxpool(encoder.relu(encoder.bn1(encoder.conv1(images))))
    z3 = encoder.layer3(encoder.layer2(encoder.layer1(x)))
    return {3: z3, 4: encoder.layer4(z3)}


def feature_widths(encoder: ResNet) -> dict[int, int]:
    """Channels of stages 3 and 4."""
    first = encoder.get_submodule("layer4.0.conv1")
    assert isinstance(first, nn.Conv2d)
    return {3: first.in_channels, 4: encoder.inplanes}


def grid_of(encoder: ResNet, size: int, stage: int = 4) -> int:
    """Cells along one side of the map that a view of `size` pixels gives. Every stride rounds up."""
    strided = [encoder.maxpool, *(encoder.get_submodule(f"layer{i}.0") for i in range(1, stage + 1))]
    return -(-size // (encoder.conv1.stride[0] * math.prod(getattr(module, "stride", 1) for module in strided)))


def frozen_modules(encoder: ResNet, stages: int) -> list[nn.Module]:
    """The stem and the first `stages` stages; nothing for 0."""
    if stages == 0:
        return []
    return [encoder.conv1, encoder.bn1, *[encoder.get_submodule(f"layer{i}") for i in range(1, stages + 1)]]
