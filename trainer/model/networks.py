"""Encoders, heads, and the pair of networks (online, target) that all methods are composed of.

Encoders are torchvision ResNets with torchvision's key names, `fc` taken off. Feature maps are NCHW in channels-last
memory; a map's cell (row, column) sees the view around ((row + 0.5) / H, (column + 0.5) / W).
"""

import copy
import functools
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import get_model_builder, list_models, resnet
from torchvision.models.resnet import BasicBlock, ResNet

from precompute.base.errors import UsageError

NARROW = re.compile(r"resnet(10|18|34)w([1-9]\d{0,3})")
ONEDNN = torch.backends.mkldnn.enabled  # as this process found it
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
    """A freshly initialised ResNet without its classifier. UserError names the architectures there are.

    Where it has fewer than 16 channels, this process goes without oneDNN from here on (`ONEDNN` puts it back).
    """
    if match := NARROW.fullmatch(arch):
        encoder: nn.Module = NarrowResNet(BLOCKS[match[1]], int(match[2]))
        if int(match[2]) < 16:  # oneDNN's convolutions of few channels hang or write beyond their memory on some CPUs
            torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
    elif arch in architectures():
        encoder = get_model_builder(arch)(weights=None)
    else:
        raise UsageError(
            f"--arch {arch}: unknown. Valid: {', '.join(architectures())}, "
            "or a narrow ResNet resnet{10,18,34}wWIDTH such as resnet10w16"
        )
    assert isinstance(encoder, ResNet)
    encoder.fc = nn.Identity()  # type: ignore[assignment]
    return encoder


def architectures() -> list[str]:
    """Names of torchvision's ResNets (ResNeXt and Wide ResNet among them)."""
    return [name for name in list_models() if get_model_builder(name).__module__ == resnet.__name__]


def feature_maps(encoder: ResNet, images: Tensor) -> dict[int, Tensor]:
    """Images [N, 3, S, S] to the maps of stages 3 and 4, {3: [N, C3, H3, W3], 4: [N, C4, H4, W4]}."""
    x = encoder.maxpool(encoder.relu(encoder.bn1(encoder.conv1(images))))
    z3 = encoder.layer3(encoder.layer2(encoder.layer1(x)))
    return {3: z3, 4: encoder.layer4(z3)}


def feature_widths(encoder: ResNet) -> dict[int, int]:
    """Channels of stages 3 and 4."""
    widths = {}
    for stage, layer in ((3, encoder.layer3), (4, encoder.layer4)):
        block = layer[-1]
        last = block.conv2 if isinstance(block, BasicBlock) else block.get_submodule("conv3")
        assert isinstance(last, nn.Conv2d)
        widths[stage] = last.out_channels
    return widths


def mlp_head(width: int, hidden: int, dim: int) -> nn.Sequential:
    """BYOL's projector or predictor: [N, width] to [N, dim]."""
    return nn.Sequential(
        nn.Linear(width, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True), nn.Linear(hidden, dim)
    )


def conv_head(width: int, hidden: int, dim: int) -> nn.Sequential:
    """The same per cell, as two 1x1 convolutions: [N, width, H, W] to [N, dim, H, W]."""
    return nn.Sequential(
        nn.Conv2d(width, hidden, 1, bias=False),
        nn.BatchNorm2d(hidden),
        nn.ReLU(inplace=True),
        nn.Conv2d(hidden, dim, 1),
    )


@dataclass
class Projections:
    """What a network makes of one view. `maps` are keyed by stage; predictions are empty for a target network."""

    z: dict[int, Tensor]  # stage 3 and 4 maps [N, C, H, W]
    features: Tensor  # [N, C4], the pooled stage 4
    projection: Tensor  # [N, d]
    prediction: Tensor | None  # [N, d]
    maps: dict[int, Tensor]  # conv projections [N, d, H, W]
    predicted_maps: dict[int, Tensor]  # conv predictions [N, d, H, W], or mask logits [N, 1, H, W] of a direct head


@dataclass(frozen=True)
class Heads:
    """Which heads a network has and how wide they are."""

    dim: int = 256
    hidden: int = 4096
    conv_hidden: int = 512
    stages: tuple[int, ...] = (4,)  # stages with conv heads; none for methods without alignment
    predictor: str = "mlp"  # "none" for MoCo and SimCLR; "pairs": where a patch lies beside another (Rel-Loc)
    direct: bool = False  # control arm: a per-cell mask head instead of conv projection and prediction


class Network(nn.Module):
    """Encoder, projectors and (online only) predictors."""

    def __init__(self, encoder: ResNet, heads: Heads) -> None:
        super().__init__()
        widths = feature_widths(encoder)
        self.compiled = False  # --compile sets it
        self.encoder = encoder
        self.projector = mlp_head(widths[4], heads.hidden, heads.dim)
        self.predictor = _predictor(heads)
        self.conv_projector, self.conv_predictor = nn.ModuleDict(), nn.ModuleDict()
        for stage in heads.stages:
            if heads.direct:
                self.conv_predictor[str(stage)] = conv_head(widths[stage], heads.conv_hidden, 1)
            else:
                self.conv_projector[str(stage)] = conv_head(widths[stage], heads.conv_hidden, heads.dim)
                self.conv_predictor[str(stage)] = conv_head(heads.dim, heads.conv_hidden, heads.dim)

    def forward(self, view: Tensor, cover: Tensor | None = None) -> Projections:
        """View [N, 3, S, S] to all projections and predictions; `cover` see `project`."""
        trunk, heads = (_compiled(feature_maps), _compiled(project)) if self.compiled else (feature_maps, project)
        return heads(self, trunk(self.encoder, view), cover)


class PairHead(nn.Module):
    """Projections of nine patches, [9 · N, d] (the middle one first), to where each neighbour lies: [8 · N, 8]."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.mlp = mlp_head(2 * dim, hidden, 8)

    def forward(self, projection: Tensor) -> Tensor:
        """Logits of the eight places, all images of the first neighbour first."""
        middle, *others = projection.chunk(9)
        return self.mlp(torch.cat([torch.cat([middle, other], 1) for other in others]))


def _predictor(heads: Heads) -> nn.Module | None:
    if heads.predictor == "none":
        return None
    if heads.predictor == "pairs":
        return PairHead(heads.dim, heads.hidden)
    return mlp_head(heads.dim, heads.hidden, heads.dim)


def project(network: Network, z: dict[int, Tensor], cover: Tensor | None = None) -> Projections:
    """What the heads make of the maps of stages 3 and 4; with `cover` [N, H, W], features are its weighted mean.

    Apart from the trunk, because the graph is cut between them: diagnoses ask for gradients at z, and of a network that
    is compiled in one piece z would be a result beside the others and not their origin.
    """
    if cover is None:
        features = z[4].mean((2, 3))
    else:
        features = (z[4] * cover[:, None]).sum((2, 3)) / cover.sum((1, 2))[:, None].clamp_min(1e-6)
    projection = network.projector(features)
    maps = {int(stage): head(z[int(stage)]) for stage, head in network.conv_projector.items()}
    predicted = {int(s): head(maps.get(int(s), z[int(s)])) for s, head in network.conv_predictor.items()}
    return Projections(
        z=z,
        features=features,
        projection=projection,
        prediction=None if network.predictor is None else network.predictor(projection),
        maps=maps,
        predicted_maps=predicted,
    )


@functools.cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` by torch.compile: once, for all networks."""
    import torch._dynamo.config
    import torch._functorch.config

    torch._functorch.config.donated_buffer = False  # diagnoses go backward through a graph that is used again
    torch._dynamo.config.recompile_limit = 64  # trainer.compare's arms follow each other in one process
    return torch.compile(function)


def target_of(online: Network) -> Network:
    """A copy without predictors and without gradients, to be moved by `ema_update`.

    Its BN layers use the statistics of their own batch (as in BYOL), so it stays in training mode.
    """
    target = copy.deepcopy(online)
    target.predictor, target.conv_predictor = None, nn.ModuleDict()
    return target.requires_grad_(False)


@torch.no_grad()
def ema_update(target: nn.Module, online: nn.Module, momentum: float) -> None:
    """target = momentum · target + (1 - momentum) · online, in place, in a few launches.

    In place, because rebinding `.data` (as solo-learn and OpenMixup do) breaks CUDA graphs. Parameters only: BN
    statistics of the target are its own. Parameters that `online` alone has (predictors) are left out.
    """
    source = dict(online.named_parameters())
    pairs = [(p, source[name]) for name, p in target.named_parameters()]
    torch._foreach_lerp_([p for p, _ in pairs], [q for _, q in pairs], 1 - momentum)


def freeze_stages(network: Network, stages: int) -> None:
    """Keeps the stem and the first `stages` stages as they are: no gradients; see `train_mode` for their BN."""
    for module in frozen_modules(network.encoder, stages):
        module.requires_grad_(False)


def train_mode(network: Network, frozen: int) -> Network:
    """Training mode, except for the BN of frozen stages, which keeps its statistics (in online and target alike).

    OpenMixup's freeze leaves those on batch statistics; torchvision's detection code and METHOD.md do not.
    """
    network.train()
    for module in frozen_modules(network.encoder, frozen):
        module.eval()
    return network


def frozen_modules(encoder: ResNet, stages: int) -> Iterable[nn.Module]:
    """The stem and the first `stages` stages; nothing for 0."""
    if stages == 0:
        return []
    return [encoder.conv1, encoder.bn1, *[encoder.get_submodule(f"layer{i}") for i in range(1, stages + 1)]]


def build_model(arch: str, heads: Heads, seed: int = 0) -> Network:
    """The online network in channels-last memory, initialised from `seed` alone (the global RNG is left as it was)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Network(build_encoder(arch), heads).to(memory_format=torch.channels_last)


@torch.no_grad()
def grid_of(encoder: ResNet, size: int, stage: int = 4) -> int:
    """Cells along one side of the map that a view of `size` pixels gives."""
    meta = copy.deepcopy(encoder).to("meta").eval()
    return feature_maps(meta, torch.empty(1, 3, size, size, device="meta"))[stage].shape[-1]
