"""MoCo v2 (He et al. 2020, Chen et al. 2020): InfoNCE against a queue of the target's keys."""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.methods.base import Masks, Matches, Method, Part
from trainer.methods.losses import info_nce
from trainer.methods.registry import QUEUE, QUEUE_MOMENTUM, method
from trainer.model.networks import Network, Projections
from trainer.parallel.collectives import gather


@method("mocov2", "InfoNCE against a queue of the moving average's keys, in one direction", optimizer="sgd", queue=True)
class MocoV2(Method):
    """Temperature 0.2, momentum 0.999, a queue of 65,536 keys."""

    queue: Tensor
    target_views = 1

    def __init__(self, online: Network, queue: int = QUEUE, temperature: float = 0.2) -> None:
        super().__init__(online, has_target=True)
        self.temperature = temperature
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("queue", F.normalize(torch.randn(queue, online.dim, generator=generator), dim=1))

    def parts(self, views: Sequence[Tensor], masks: Masks, matches: Matches = ()) -> Iterator[Part]:
        """One part: the first view's projections against the second view's keys."""
        key = self.key(views[1])
        yield self.contrast(self.forward_online(views[0]), key)

    def sees(self, image: Tensor) -> Tensor:
        """One view."""
        return image

    @torch.no_grad()
    def key(self, view: Tensor, cover: Tensor | None = None) -> Tensor:
        """The target's projections [N, d] of a view."""
        assert self.target is not None
        return self.target(view, cover).projection

    def contrast(self, out: Projections, key: Tensor) -> Part:
        """InfoNCE of the online projections against their keys and the queue, which the keys enter afterwards."""
        loss = info_nce(out.projection, key, self.queue, self.temperature)
        self.enqueue(key)
        return Part(loss, {"contrastive": loss}, out)

    @torch.no_grad()
    def enqueue(self, keys: Tensor) -> None:
        """Puts the keys [N, d] of all ranks first in the queue; the oldest fall out.

        A new tensor, since the loss's graph may hold the old one. No pointer, so no host sync and nothing more to
        checkpoint.
        """
        new = gather(F.normalize(keys.float(), dim=1))
        self.queue = torch.cat([new, self.queue])[: len(self.queue)]

    def momentum(self, scheduled: float) -> float:
        """Constant."""
        return QUEUE_MOMENTUM
