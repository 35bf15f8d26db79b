"""Heads, and the pair of networks (online, target) that all methods are composed of."""

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.resnet import ResNet

from precompute.base.private import let_torch_keep_code_private
from trainer.model.resnets import build_encoder, feature_maps, feature_widths, frozen_modules


def mlp_head(width: int, hidden: int, dim: int) -> nn.Sequential:
    """BYOL's projector or predictor: [N, width] to [N, dim]."""
    return _head(nn.Linear, nn.BatchNorm1d, width, hidden, dim)


def conv_head(width: int, hidden: int, dim: int) -> nn.Sequential:
    """The same for each cell, as two 1x1 convolutions: [N, width, H, W] to [N, dim, H, W]."""
    return _head(functools.partial(nn.Conv2d, kernel_size=1), nn.BatchNorm2d, width, hidden, dim)


def _head(layer: Callable[..., nn.Module], norm: type[nn.Module], width: int, hidden: int, dim: int) -> nn.Sequential:
    return nn.Sequential(layer(width, hidden, bias=False), norm(hidden), nn.ReLU(inplace=True), layer(hidden, dim))


@dataclass
class Projections:
    """A network's outputs for one view. Maps are keyed by stage; a target network has no predictions."""

    z: dict[int, Tensor]  # stage 3 and 4 maps [N, C, H, W]
    features: Tensor  # [N, C4], the pooled stage 4
    projection: Tensor  # [N, d]
    prediction: Tensor | None  # [N, d]
    maps: dict[int, Tensor]  # conv projections [N, d, H, W]
    predicted_maps: dict[int, Tensor]  # conv predictions [N, d, H, W], or mask logits [N, 1, H, W] of a direct head


@dataclass(frozen=True)
class Heads:
    """The heads of a network and their widths."""

    dim: int = 256
    hidden: int = 4096
    conv_hidden: int = 512
    stages: tuple[int, ...] = (4,)  # stages with conv heads; none for methods without alignment
    predictor: str = "mlp"  # "mlp", "none", or "pairs" (where a patch lies beside another one)
    direct: bool = False  # control arm: a per-cell mask head instead of conv projection and prediction


class Network(nn.Module):
    """Encoder, projectors and (online only) predictors."""

    def __init__(self, encoder: ResNet, heads: Heads) -> None:
        super().__init__()
        widths = feature_widths(encoder)
        self.dim = heads.dim
        self.compiled: str | None = None  # a mode of torch.compile, which --compile sets
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
        trunk, heads = feature_maps, project
        if self.compiled:
            trunk, heads = (_compiled(function, self.compiled) for function in (trunk, heads))
        return heads(self, trunk(self.encoder, view), cover)

    @torch.no_grad()
    def flops(self, images: Tensor) -> float:
        """FLOPs (two per multiply-add) of a forward of `images`, counted on the meta device: nothing is computed."""
        twin = copy.deepcopy(self).to("meta").eval()
        twin.compiled = None  # operations of compiled code are not counted
        with FlopCounterMode(display=False) as counter:
            twin(images.to("meta"))
        return counter.get_total_flops()


class PairHead(nn.Module):
    """Projections [9 · N, d] of nine patches, the middle one first, to logits [8 · N, 8] of each neighbour's place."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.mlp = mlp_head(2 * dim, hidden, 8)

    def forward(self, projection: Tensor) -> Tensor:
        """The logits of all images for the first neighbour, then for the next."""
        middle, *others = projection.chunk(9)
        return self.mlp(torch.cat([torch.cat([middle, other], 1) for other in others]))


def _predictor(heads: Heads) -> nn.Module | None:
    if heads.predictor == "none":
        return None
    if heads.predictor == "pairs":
        return PairHead(heads.dim, heads.hidden)
    return mlp_head(heads.dim, heads.hidden, heads.dim)


def project(network: Network, z: dict[int, Tensor], cover: Tensor | None = None) -> Projections:
    """The heads' outputs for the maps z of stages 3 and 4. With `cover` [N, H, W], features are z4's weighted mean.

    Compiled separately from the trunk: diagnostics differentiate with respect to z, which autograd can only do if z is
    an input of the compiled heads and not a second output of one compiled graph.
    """
    if cover is None:
        features = z[4].mean((2, 3))
    else:
        features = (z[4] * cover[:, None]).sum((2, 3)) / cover.sum((1, 2))[:, None].clamp_min(1e-6)
    projection = network.projector(features)
    prediction = None if network.predictor is None else network.predictor(projection)
    maps = {int(stage): head(z[int(stage)]) for stage, head in network.conv_projector.items()}
    predicted = {int(s): head(maps.get(int(s), z[int(s)])) for s, head in network.conv_predictor.items()}
    return Projections(z, features, projection, prediction, maps, predicted)


@functools.cache
def _compiled(function: Callable[..., Any], mode: str) -> Callable[..., Any]:
    """`function` compiled by torch.compile in that mode, once for all networks."""
    import torch._dynamo.config
    import torch._functorch.config

    let_torch_keep_code_private()
    torch._functorch.config.donated_buffer = False  # diagnostics go backward through a graph that is used again
    torch._dynamo.config.recompile_limit = 64  # trainer.compare's arms follow each other in one process
    return torch.compile(function, mode=mode)


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
    """Keeps the stem and the first `stages` stages as they are: weights, and BN statistics (later copies' too).

    OpenMixup's freeze leaves the BN on batch statistics; torchvision's detection code does not.
    """
    for module in frozen_modules(network.encoder, stages):
        module.eval().requires_grad_(False)


def build_model(arch: str, heads: Heads, seed: int = 0) -> Network:
    """The online network in channels-last memory, initialised from `seed` alone (the global RNG is left as it was)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Network(build_encoder(arch), heads).to(memory_format=torch.channels_last)
