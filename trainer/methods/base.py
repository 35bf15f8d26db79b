"""The training methods as compositions of the same parts: networks, heads and losses.

    byol    online predictor chases an EMA target, both directions (Eq. 6)
    cvsa    byol + alignment of the correspondence maps with the masks (Eq. 7), or one of its control arms
    mocov2  InfoNCE against a queue of the EMA target's keys, one direction
    simclr  NT-Xent between both views, no target

and, each in a file of its own: instloc, looc (mocov2 with the pasted instance's features; with two embeddings), and
rotpred, relloc (pretext.py).

A method yields its loss in parts whose graphs are independent (Eqs 5 and 6 separate by online view, since every view
has its own BN statistics): the loop runs `backward` on one part before the next part's forward is made, which gives
the same gradient at half the activation memory.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from trainer.config.run import LossPreset
from trainer.methods.losses import alignment_loss, correspondence, info_nce, negative_cosine, nt_xent
from trainer.methods.registry import METHODS, QUEUE_MOMENTUM
from trainer.model.networks import Network, Projections, ema_update, target_of
from trainer.parallel.distributed import gather, of_others

Masks = Sequence[
    dict[int, Tensor]
]  # per view and stage: [N, H, W], share of each cell that the pasted rectangle covers


@dataclass
class Part:
    """One independent part of a step's loss, with what a log line or a diagnosis wants to look at."""

    loss: Tensor
    terms: dict[str, Tensor]  # scalars with graph, by name; their values add up over the parts of a step
    online: Projections
    keys: Projections | None = None
    maps: dict[int, Tensor] = field(default_factory=dict)  # correspondence maps C [N, H, W] by stage
    masks: dict[int, Tensor] = field(default_factory=dict)


class Method(nn.Module):
    """Online network (and target) with a loss. `forward_online` runs it, through DDP's wrapper where there is one."""

    target: Network | None
    passes = 1  # independent parts of a step's loss
    target_views = 2  # views of a source that the target sees in a step

    def __init__(self, online: Network, has_target: bool) -> None:
        super().__init__()
        self.online = online
        self.target = target_of(online) if has_target else None
        self._forward_online: list[nn.Module] = [online]  # in a list: DDP's wrapper is no part of the state

    def run_online_by(self, module: nn.Module) -> None:
        """Lets `module` (DDP, a compiled network) run the online network."""
        self._forward_online[0] = module

    @contextmanager
    def synchronised(self, sync: bool) -> Iterator[None]:
        """Within it, DDP averages gradients over the processes only if `sync`: once a step is enough."""
        wrapper = self._forward_online[0]
        with nullcontext() if sync or not isinstance(wrapper, DistributedDataParallel) else wrapper.no_sync():
            yield

    def forward_online(self, view: Tensor, cover: Tensor | None = None) -> Projections:
        """The online network's projections of `view` [N, 3, S, S], with graph; `cover` see `model.project`."""
        return self._forward_online[0](view, cover)

    def sees(self, image: Tensor) -> Tensor:
        """What the online network is given of a source in one step, for a view [1, 3, S, S] (to count arithmetic)."""
        return torch.cat([image, image])

    @torch.no_grad()
    def keys(self, views: Sequence[Tensor]) -> list[Projections]:
        """The target's projections of every view; no gradient ever reaches it."""
        assert self.target is not None
        return [self.target(view) for view in views]

    def parts(self, views: Sequence[Tensor], masks: Masks) -> Iterator[Part]:
        """The step's loss, part by part."""
        raise NotImplementedError

    def after_step(self, momentum: float) -> None:
        """Moves the target after the optimizer's step."""
        if self.target is not None:
            ema_update(self.target, self.online, momentum)

    def momentum(self, scheduled: float) -> float:
        """The target's momentum for this step; MoCo keeps a constant one."""
        return scheduled


class Byol(Method):
    """Both directions of Eq. 6, and of Eq. 5 where an alignment is given."""

    passes = 2

    def __init__(self, online: Network, alignment: "Alignment | None" = None) -> None:
        super().__init__(online, has_target=True)
        self.alignment = alignment

    def parts(self, views: Sequence[Tensor], masks: Masks) -> Iterator[Part]:
        """Two parts: q against the target's k, then k against the target's q."""
        keys = self.keys(views)
        for this, other in ((0, 1), (1, 0)):
            out = self.forward_online(views[this])
            assert out.prediction is not None
            cont = 0.5 * negative_cosine(out.prediction, keys[other].projection)
            part = Part(cont, {"contrastive": cont}, out, keys[other])
            if self.alignment is not None:
                self.alignment.add_to(part, masks[this])
            yield part


@dataclass(frozen=True)
class Alignment:
    """Eq. 5 for one online view, with the control arms that show what it buys.

    shuffled-masks  every view gets the mask of another sample: what is left is the mean mask, a centre prior
    rolled-keys     every view is held against another sample's keys: no cross-view correspondence can be used
    direct-head     a per-cell mask head of the same depth and no keys at all
    """

    settings: LossPreset
    control: str = "none"

    def add_to(self, part: Part, masks: dict[int, Tensor]) -> None:
        """Adds the weighted alignment term to `part.loss` (Eq. 7), and the maps to look at."""
        total = part.loss.new_zeros(())
        for stage in part.online.predicted_maps:
            mask = of_others(masks[stage]) if self.control == "shuffled-masks" else masks[stage]
            c = self.correspondence(part.online, part.keys, stage)
            total = total + alignment_loss(c, mask, self.settings.reduction)
            part.maps[stage], part.masks[stage] = c, masks[stage]
        part.terms["alignment"] = total
        part.loss = part.loss + self.settings.weight * total

    def correspondence(self, online: Projections, keys: Projections | None, stage: int) -> Tensor:
        """C of the online view at one stage: [N, H, W]."""
        predicted = online.predicted_maps[stage]
        if self.control == "direct-head":
            return torch.sigmoid(predicted[:, 0].float())
        assert keys is not None
        key = of_others(keys.maps[stage]) if self.control == "rolled-keys" else keys.maps[stage]
        return correspondence(predicted, key, self.settings)


class MocoV2(Method):
    """Temperature 0.2, momentum 0.999, a queue of 65,536 keys (He et al. 2020, Chen et al. 2020)."""

    queue: Tensor
    target_views = 1

    def __init__(self, online: Network, dim: int, queue: int = 65536, temperature: float = 0.2) -> None:
        super().__init__(online, has_target=True)
        self.temperature = temperature
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("queue", F.normalize(torch.randn(queue, dim, generator=generator), dim=1))

    def parts(self, views: Sequence[Tensor], masks: Masks) -> Iterator[Part]:
        """One part; the keys enter the queue afterwards."""
        key = self.key(views[1])
        yield self.contrast(self.forward_online(views[0]), key)
        self.enqueue(key)

    def sees(self, image: Tensor) -> Tensor:
        """One view."""
        return image

    @torch.no_grad()
    def key(self, view: Tensor, cover: Tensor | None = None) -> Tensor:
        """The target's projections [N, d] of a view."""
        assert self.target is not None
        return self.target(view, cover).projection

    def contrast(self, out: Projections, key: Tensor) -> Part:
        """InfoNCE of the online projections against their keys and the queue."""
        loss = info_nce(out.projection, key, self.queue, self.temperature)
        return Part(loss, {"contrastive": loss}, out)

    @torch.no_grad()
    def enqueue(self, keys: Tensor) -> None:
        """The oldest keys make room; no pointer, so no host sync and nothing more to checkpoint."""
        new = gather(F.normalize(keys.float(), dim=1))
        self.queue = torch.cat([new, self.queue])[: len(self.queue)]

    def momentum(self, scheduled: float) -> float:
        """Constant."""
        return QUEUE_MOMENTUM


class SimClr(Method):
    """Both views in one forward (their BN statistics are shared, as in the original), temperature 0.2 as MoCo v2's."""

    def __init__(self, online: Network, temperature: float = 0.2) -> None:
        super().__init__(online, has_target=False)
        self.temperature = temperature

    def parts(self, views: Sequence[Tensor], masks: Masks) -> Iterator[Part]:
        """One part."""
        out = self.forward_online(torch.cat(list(views)))
        first, second = out.projection.chunk(2)
        loss = nt_xent(gather(first, differentiable=True), gather(second, differentiable=True), self.temperature)
        yield Part(loss, {"contrastive": loss}, out)


def build_method(
    name: str, online: Network, dim: int, alignment: Alignment | None = None, queue: int = 65536
) -> Method:
    """The method by name around an online network whose heads fit it (see `build.make_heads`)."""
    from trainer.methods.instloc import InstLoc
    from trainer.methods.looc import LooC
    from trainer.methods.pretext import RelLoc, RotPred

    if name in ("byol", "cvsa"):
        return Byol(online, alignment if name == "cvsa" else None)
    if name in (with_queue := {"mocov2": MocoV2, "instloc": InstLoc, "looc": LooC}):
        return with_queue[name](online, dim, queue)
    if name in (alone := {"simclr": SimClr, "rotpred": RotPred, "relloc": RelLoc}):
        return alone[name](online)
    raise ValueError(f"Unknown value {name!r} for method. Valid values are {', '.join(METHODS)}.")
