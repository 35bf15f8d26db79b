"""BASNet (Qin et al., CVPR 2019), with the published `basnet.pth` that the user points to.

The network here has plain convolutions: batch normalisation is folded into them when the weights are read. Names and
shapes are those of the published checkpoint, and a file must have exactly these.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from precompute.base.errors import UserError
from precompute.base.weights import differences, require_plain
from precompute.saliency.learned import LearnedDetector, fill, pool, resize_as
from precompute.saliency.weights import STATISTICS, fold, read_pth


class Layer(NamedTuple):
    """A convolution of the checkpoint; `norm`: its batch normalisation's name. Padding keeps the size at stride 1."""

    name: str
    norm: str | None
    inputs: int
    outputs: int
    kernel: int = 3
    stride: int = 1
    dilation: int = 1
    bias: bool = True


def layers() -> Iterator[Layer]:
    """All convolutions. Those of the side outputs that only training looks at are in it."""
    yield Layer("inconv", "inbn", 3, 64)
    inputs = 64
    for stage, (blocks, width) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512)), 1):  # ResNet-34's
        for k in range(blocks):
            name, stride = f"encoder{stage}.{k}", 2 if stage > 1 and k == 0 else 1
            yield from _block(name, inputs, width, stride)
            if stride > 1:
                yield Layer(f"{name}.downsample.0", f"{name}.downsample.1", inputs, width, 1, stride, bias=False)
            inputs = width
    for stage in (5, 6):
        for k in (1, 2, 3):
            yield from _block(f"resb{stage}_{k}", 512, 512, 1)
    for part in ("1", "m", "2"):
        yield Layer(f"convbg_{part}", f"bnbg_{part}", 512, 512, dilation=2)
    widths = {6: (512, 512), 5: (512, 512), 4: (512, 256), 3: (256, 128), 2: (128, 64), 1: (64, 64)}
    for stage, (width, outputs) in widths.items():
        deep = 2 if stage == 6 else 1  # dilation, but for the first
        yield Layer(f"conv{stage}d_1", f"bn{stage}d_1", 2 * width, width)
        yield Layer(f"conv{stage}d_m", f"bn{stage}d_m", width, width, dilation=deep)
        yield Layer(f"conv{stage}d_2", f"bn{stage}d_2", width, outputs, dilation=deep)
    yield Layer("outconvb", None, 512, 1)
    for stage, (_, outputs) in widths.items():
        yield Layer(f"outconv{stage}", None, outputs, 1)
    yield Layer("refunet.conv0", None, 1, 64)
    for level in range(1, 6):
        yield Layer(f"refunet.conv{level}", f"refunet.bn{level}", 64, 64)
    for level in range(4, 0, -1):
        yield Layer(f"refunet.conv_d{level}", f"refunet.bn_d{level}", 128, 64)
    yield Layer("refunet.conv_d0", None, 64, 1)


def _block(name: str, inputs: int, outputs: int, stride: int) -> Iterator[Layer]:
    """A residual block of two convolutions."""
    yield Layer(f"{name}.conv1", f"{name}.bn1", inputs, outputs, stride=stride, bias=False)
    yield Layer(f"{name}.conv2", f"{name}.bn2", outputs, outputs, bias=False)


def published_shapes() -> dict[str, tuple[int, ...]]:
    """Every tensor of the published checkpoint but the counters of batches (`num_batches_tracked`)."""
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in layers():
        shapes[f"{layer.name}.weight"] = (layer.outputs, layer.inputs, layer.kernel, layer.kernel)
        if layer.bias:
            shapes[f"{layer.name}.bias"] = (layer.outputs,)
        if layer.norm is not None:
            shapes |= {f"{layer.norm}.{what}": (layer.outputs,) for what in STATISTICS}
    return shapes


class Network(nn.Module):
    """float32 [B, 3, H, W], normalised, H and W multiples of 32 -> [B, 1, H, W] in (0, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.ModuleDict()
        for layer in layers():
            padding = layer.dilation * (layer.kernel // 2)
            shape = (layer.inputs, layer.outputs, layer.kernel, layer.stride, padding, layer.dilation)
            self.convolutions[_key(layer.name)] = nn.Conv2d(*shape)

    def _plain(self, name: str, x: Tensor) -> Tensor:
        return self.convolutions[_key(name)](x)

    def _conv(self, name: str, x: Tensor) -> Tensor:
        return F.relu_(self._plain(name, x))

    def _residual(self, name: str, x: Tensor) -> Tensor:
        y = self._plain(f"{name}.conv2", self._conv(f"{name}.conv1", x))
        down = f"{name}.downsample.0"
        return F.relu_(y + (self._plain(down, x) if _key(down) in self.convolutions else x))

    def _three(self, name: str, x: Tensor) -> Tensor:
        for part in ("1", "m", "2"):
            x = self._conv(f"{name}_{part}", x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        x = self._conv("inconv", x)
        down = []
        for stage, blocks in enumerate((3, 4, 6, 3), 1):
            for k in range(blocks):
                x = self._residual(f"encoder{stage}.{k}", x)
            down.append(x)
        for stage in (5, 6):
            x = pool(x)
            for k in (1, 2, 3):
                x = self._residual(f"resb{stage}_{k}", x)
            down.append(x)
        x = self._three("convbg", x)
        for stage in range(6, 0, -1):
            skip = down[stage - 1]
            x = self._three(f"conv{stage}d", torch.cat((resize_as(x, skip), skip), 1))
        coarse = self._plain("outconv1", x)
        return torch.sigmoid(coarse + self._refinement(coarse))

    def _refinement(self, coarse: Tensor) -> Tensor:
        """The second, small network: its output is added to the logits of the first."""
        x = self._plain("refunet.conv0", coarse)
        down = []
        for level in range(1, 5):
            down.append(self._conv(f"refunet.conv{level}", x))
            x = pool(down[-1])
        x = self._conv("refunet.conv5", x)
        for level in range(4, 0, -1):
            skip = down[level - 1]
            x = self._conv(f"refunet.conv_d{level}", torch.cat((resize_as(x, skip), skip), 1))
        return self._plain("refunet.conv_d0", x)


def _key(name: str) -> str:
    return name.replace(".", "/")  # module names hold no dots


def load(path: str) -> Network:
    """The network with a checkpoint's weights. Raises UserError unless all names and shapes are BASNet's."""
    if path.lower().endswith(".onnx"):
        raise UserError(f"--weights {path}: BASNet's weights are read from .pth only")
    state = read_pth(path, "inconv.weight")
    if differ := differences(state, published_shapes()):
        raise UserError(f"{path}: its weights are not BASNet's: {differ}")
    require_plain(state, path)
    network = Network()
    ordered = list(layers())
    convolutions = (network.convolutions[_key(layer.name)] for layer in ordered)
    fill(convolutions, (fold(state, layer.name, layer.norm, layer.bias) for layer in ordered))
    return network.eval()


class BASNet(LearnedDetector):
    """float32 [B, 256, 256] maps of 256×256 pictures."""

    side = 256

    def __init__(self, device: str = "cpu", weights: str = "") -> None:
        super().__init__(load(weights), "basnet", device, weights)

    def normalise(self, x: Tensor) -> Tensor:
        x = x / x.amax((1, 2, 3), keepdim=True).clamp_min(1)  # by the brightest value
        return (x - self._mean) / self._std
