"""What every training method shares: its networks, and a step's loss in independent parts.

The graphs of the parts are independent (Eqs 5 and 6 separate by online view, since every view has its own BN
statistics). The loop runs `backward` on one part before the next part's forward is made, which gives the same gradient
at half the activation memory.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from trainer.model.networks import Network, Projections, ema_update, target_of

# Per view and stage: [N, H, W], the share of each cell that the pasted rectangle covers.
Masks = Sequence[dict[int, Tensor]]


class Match(NamedTuple):
    """Where the cells of one view lie in the other (`augment.Batch.correspondence`, in cells instead of pixels)."""

    points: Tensor  # [N, H, W, 2]: x, y in cells of the other view's map; the middle of cell j is at j + 0.5
    same: Tensor  # bool [N, H, W]: both views show the object there


def match_of(batch: Any, view: int, grid: int) -> Match:
    """Where the cells of one of two views of a batch (`augment.Batch`) lie in the other."""
    points, same = batch.correspondence(view, 1 - view, grid)
    return Match(points * (grid / batch.size), same)


Matches = Sequence[dict[int, Match]]  # per view and stage, for methods that match cells


@dataclass
class Part:
    """One independent part of a step's loss, and what log lines and diagnostics read."""

    loss: Tensor
    # Scalars with graph, by name; their values add up over the parts of a step. "contrastive" is needed; log lines show
    # it, "alignment" and "dense", metrics.jsonl holds all terms.
    terms: dict[str, Tensor]
    online: Projections
    keys: Projections | None = None
    maps: dict[int, Tensor] = field(default_factory=dict)  # correspondence maps C [N, H, W] by stage
    masks: dict[int, Tensor] = field(default_factory=dict)


class Method(nn.Module):
    """Online network (and target) with a loss. `forward_online` runs it, through DDP's wrapper where there is one."""

    target: Network | None
    passes = 1  # parts of a step's loss: how many `parts` yields
    target_views = 2  # views of a source that the target sees in a step

    def __init__(self, online: Network, has_target: bool = False) -> None:
        super().__init__()
        self.online = online
        self.target = target_of(online) if has_target else None
        self._forward_online: list[nn.Module] = [online]  # in a list: DDP's wrapper is no part of the state

    def run_online_by(self, module: nn.Module) -> None:
        """Lets `module` (DDP, a compiled network) run the online network."""
        self._forward_online[0] = module

    def synchronised(self, sync: bool) -> AbstractContextManager:
        """Within it, DDP averages gradients over the ranks only if `sync`: once a step is enough."""
        wrapper = self._forward_online[0]
        return nullcontext() if sync or not isinstance(wrapper, DistributedDataParallel) else wrapper.no_sync()

    def forward_online(self, view: Tensor, cover: Tensor | None = None) -> Projections:
        """The online network's projections of `view` [N, 3, S, S], with graph; `cover` see `networks.project`."""
        return self._forward_online[0](view, cover)

    def sees(self, image: Tensor) -> Tensor:
        """The online network's input for one source image, a view [1, 3, S, S], in one step. Only to count FLOPs."""
        return torch.cat([image, image])

    def parts(self, views: Sequence[Tensor], masks: Masks, matches: Matches = ()) -> Iterator[Part]:
        """The step's loss, part by part. `matches` only where the method's record asks for them."""
        raise NotImplementedError

    def after_step(self, momentum: float) -> None:
        """Moves the target after the optimizer's step."""
        if self.target is not None:
            ema_update(self.target, self.online, momentum)

    def momentum(self, scheduled: float) -> float:
        """The target's momentum for this step; MoCo keeps a constant one."""
        return scheduled
