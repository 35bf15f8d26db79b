"""BASNet (Qin et al., CVPR 2019), with the published `basnet.pth` that the user points to.

The network here has plain convolutions: batch normalisation is folded into them when the weights are read. Names and
shapes are those of the published checkpoint, and a file must have exactly these.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from precompute.base.errors import UserError
from precompute.saliency.weights import fold, read_pth, sha256

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_STATISTICS = ("weight", "bias", "running_mean", "running_var")


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
            shapes |= {f"{layer.norm}.{what}": (layer.outputs,) for what in _STATISTICS}
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
            x = _pool(x)
            for k in (1, 2, 3):
                x = self._residual(f"resb{stage}_{k}", x)
            down.append(x)
        x = self._three("convbg", x)
        for stage in range(6, 0, -1):
            skip = down[stage - 1]
            x = self._three(f"conv{stage}d", torch.cat((_to(x, skip), skip), 1))
        coarse = self._plain("outconv1", x)
        return torch.sigmoid(coarse + self._refinement(coarse))

    def _refinement(self, coarse: Tensor) -> Tensor:
        """What the second, small network adds to the first one's logits."""
        x = self._plain("refunet.conv0", coarse)
        down = []
        for level in range(1, 5):
            down.append(self._conv(f"refunet.conv{level}", x))
            x = _pool(down[-1])
        x = self._conv("refunet.conv5", x)
        for level in range(4, 0, -1):
            skip = down[level - 1]
            x = self._conv(f"refunet.conv_d{level}", torch.cat((_to(x, skip), skip), 1))
        return self._plain("refunet.conv_d0", x)


def _key(name: str) -> str:
    return name.replace(".", "/")  # module names hold no dots


def _pool(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 2, stride=2, ceil_mode=True)


def _to(x: Tensor, other: Tensor) -> Tensor:
    if x.shape[2:] == other.shape[2:]:
        return x
    return F.interpolate(x, other.shape[2:], mode="bilinear", align_corners=False)


def load(path: str) -> Network:
    """The network with a checkpoint's weights. Raises UserError unless all names and shapes are BASNet's."""
    if path.lower().endswith(".onnx"):
        raise UserError(f"--weights {path}: BASNet's weights are read from .pth only")
    state = {name: value for name, value in read_pth(path).items() if not name.endswith(".num_batches_tracked")}
    wanted = published_shapes()
    differ = [f"no {name}" for name in wanted if name not in state]
    differ += [f"{name} unknown" for name in state if name not in wanted]
    differ += [
        f"{name} is {list(state[name].shape)}, not {list(shape)}"
        for name, shape in wanted.items()
        if name in state and tuple(state[name].shape) != shape
    ]
    if differ:
        more = f", and {len(differ) - 1} more differences" if len(differ) > 1 else ""
        raise UserError(f"{path}: its weights are not BASNet's: {differ[0]}{more}")
    network = Network()
    with torch.no_grad():
        for layer in layers():
            weight, bias = fold(state, layer.name, layer.norm, layer.bias)
            module = network.convolutions[_key(layer.name)]
            assert isinstance(module, nn.Conv2d)
            assert module.bias is not None
            module.weight.copy_(weight)
            module.bias.copy_(bias)
    return network.eval()


class BASNet:
    """float32 [B, 256, 256] maps of 256×256 pictures."""

    side = 256
    batch = 4  # as for U²-Net
    gamma = 0.02

    def __init__(self, device: str = "cpu", weights: str = "") -> None:
        self._network = load(weights).to(device).to(memory_format=torch.channels_last)
        self._sha256 = sha256(weights)
        if torch.device(device).type == "cuda":
            self.batch = 32
        self._mean = torch.tensor(_MEAN, device=device).view(3, 1, 1)
        self._std = torch.tensor(_STD, device=device).view(3, 1, 1)

    def describe(self) -> dict[str, Any]:
        return {"detector": "basnet", "version": 1, "side": self.side, "weights_sha256": self._sha256}

    def __call__(self, images: Tensor) -> Tensor:
        x = images.permute(0, 3, 1, 2).to(torch.float32)
        x = x / x.amax((1, 2, 3), keepdim=True).clamp_min(1)  # by the brightest value, as it was trained
        x = (x - self._mean) / self._std
        return self._network(x.contiguous(memory_format=torch.channels_last))[:, 0]
