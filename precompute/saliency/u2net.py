"""U²-Net and its small form U²-Netp (Qin et al., Pattern Recognition 2020), with weights the user points to.

The network here has plain convolutions: batch normalisation is folded into them when the weights are read. Names
follow the published checkpoints, so that `.pth` files load by name and `.onnx` files in the order of execution.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from precompute.base.errors import UserError
from precompute.base.weights import differences, require_plain
from precompute.saliency.learned import LearnedDetector, fill, pool, resize_as
from precompute.saliency.weights import STATISTICS, fold, read_onnx, read_pth

# (name, height, input, middle, output); height 4 with dilation instead of pooling is written as -4
_FULL = (
    ("stage1", 7, 3, 32, 64), ("stage2", 6, 64, 32, 128), ("stage3", 5, 128, 64, 256), ("stage4", 4, 256, 128, 512),
    ("stage5", -4, 512, 256, 512), ("stage6", -4, 512, 256, 512), ("stage5d", -4, 1024, 256, 512),
    ("stage4d", 4, 1024, 128, 256), ("stage3d", 5, 512, 64, 128), ("stage2d", 6, 256, 32, 64),
    ("stage1d", 7, 128, 16, 64),
)  # fmt: skip
_SMALL = tuple(
    (name, height, 3 if name == "stage1" else 128 if name.endswith("d") else 64, 16, 64)
    for name, height, *_ in _FULL
)  # fmt: skip


class Block(nn.Module):
    """Residual U-block of `height` levels: [B, i, H, W] -> [B, o, H, W]."""

    def __init__(self, height: int, inputs: int, middle: int, outputs: int) -> None:
        super().__init__()
        self.levels, self.dilated = abs(height), height < 0
        self.rebnconvin = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.rebnconv1 = nn.Conv2d(outputs, middle, 3, padding=1)
        for level in range(2, self.levels + 1):
            # The deepest level widens its view by dilation, for it has no level below to do so.
            step = 2 ** (level - 1) if self.dilated else 2 if level == self.levels else 1
            self.add_module(f"rebnconv{level}", nn.Conv2d(middle, middle, 3, padding=step, dilation=step))
        for level in range(self.levels - 1, 0, -1):
            step = 2 ** (level - 1) if self.dilated else 1
            out = outputs if level == 1 else middle
            self.add_module(f"rebnconv{level}d", nn.Conv2d(2 * middle, out, 3, padding=step, dilation=step))

    def _conv(self, name: str, x: Tensor) -> Tensor:
        return F.relu_(self.get_submodule(name)(x))

    def forward(self, x: Tensor) -> Tensor:
        x = self._conv("rebnconvin", x)
        down = [self._conv("rebnconv1", x)]
        for level in range(2, self.levels):
            source = down[-1] if self.dilated else pool(down[-1])
            down.append(self._conv(f"rebnconv{level}", source))
        up = self._conv(f"rebnconv{self.levels}", down[-1])
        for level in range(self.levels - 1, 0, -1):
            skip = down[level - 1]
            up = self._conv(f"rebnconv{level}d", torch.cat((resize_as(up, skip), skip), 1))
        return up + x


class Network(nn.Module):
    """float32 [B, 3, H, W], normalised -> [B, 1, H, W] in (0, 1)."""

    def __init__(self, small: bool) -> None:
        super().__init__()
        plan = _SMALL if small else _FULL
        for name, *shape in plan:
            self.add_module(name, Block(*shape))
        widths = [plan[i][4] for i in (10, 9, 8, 7, 6, 5)]  # stage1d ... stage5d, stage6
        for i, width in enumerate(widths, 1):
            self.add_module(f"side{i}", nn.Conv2d(width, 1, 3, padding=1))
        self.outconv = nn.Conv2d(6, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        down = [self.get_submodule("stage1")(x)]
        for level in range(2, 7):
            down.append(self.get_submodule(f"stage{level}")(pool(down[-1])))
        maps = [down[5]]
        for level in range(5, 0, -1):
            skip = down[level - 1]
            maps.insert(0, self.get_submodule(f"stage{level}d")(torch.cat((resize_as(maps[0], skip), skip), 1)))
        sides = [self.get_submodule(f"side{i}")(m) for i, m in enumerate(maps, 1)]
        return torch.sigmoid(self.outconv(torch.cat([resize_as(side, sides[0]) for side in sides], 1)))

    def convolutions(self) -> Iterator[tuple[str, nn.Conv2d]]:
        """In order of execution; modules are added in it."""
        yield from ((name, m) for name, m in self.named_modules() if isinstance(m, nn.Conv2d))


def published_shapes(network: Network) -> dict[str, tuple[int, ...]]:
    """Every tensor of the published checkpoint but the counters of batches (`num_batches_tracked`)."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, module in network.convolutions():
        conv, norm = names(name)
        shapes |= {f"{conv}.weight": tuple(module.weight.shape), f"{conv}.bias": (module.out_channels,)}
        if norm is not None:
            shapes |= {f"{norm}.{what}": (module.out_channels,) for what in STATISTICS}
    return shapes


def names(convolution: str) -> tuple[str, str | None]:
    """What the published checkpoint calls a convolution and its batch normalisation."""
    return (
        (f"{convolution}.conv_s1", f"{convolution}.bn_s1") if convolution.startswith("stage") else (convolution, None)
    )


def load(path: str) -> tuple[Network, str]:
    """The network that fits the file, and its name. Raises UserError where neither fits."""
    from_onnx = path.lower().endswith(".onnx")
    state = {} if from_onnx else read_pth(path, "stage1.rebnconvin.conv_s1.weight")
    ordered = read_onnx(path) if from_onnx else []
    for kind, small in (("u2netp", True), ("u2net", False)):
        with torch.device("meta"):  # the large one is not filled with random numbers to be told apart
            network = Network(small)
        convolutions = [module for _, module in network.convolutions()]
        if not from_onnx:
            if differences(state, published_shapes(network)):
                continue
            require_plain(state, path)
            ordered = [fold(state, *names(name)) for name, _ in network.convolutions()]
        if [weight.shape for weight, _ in ordered] == [module.weight.shape for module in convolutions]:
            network.to_empty(device="cpu")
            fill(convolutions, ordered)
            return network.eval(), kind
    raise UserError(f"{path}: its weights are neither U²-Net's nor U²-Netp's (BASNet's: --source basnet)")


class U2Net(LearnedDetector):
    """float32 [B, 320, 320] maps of 320×320 pictures."""

    side = 320

    def __init__(self, device: str = "cpu", weights: str = "") -> None:
        super().__init__(*load(weights), device, weights)

    def normalise(self, x: Tensor) -> Tensor:
        return (x - self._mean * 255) / (self._std * 255)
