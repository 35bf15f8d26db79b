"""SimCLR (Chen et al. 2020): NT-Xent between both views, no target network."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from trainer.methods.base import Masks, Matches, Method, Part
from trainer.methods.losses import nt_xent
from trainer.methods.registry import method
from trainer.model.networks import Network
from trainer.parallel.collectives import gather


@method("simclr", "NT-Xent between both views, without a target network")
class SimClr(Method):
    """Both views in one forward (their BN statistics are shared, as in the original), temperature 0.2 as MoCo v2's."""

    def __init__(self, online: Network, temperature: float = 0.2) -> None:
        super().__init__(online)
        self.temperature = temperature

    def parts(self, views: Sequence[Tensor], masks: Masks, matches: Matches = ()) -> Iterator[Part]:
        """One part."""
        out = self.forward_online(torch.cat(list(views)))
        first, second = out.projection.chunk(2)
        loss = nt_xent(gather(first, differentiable=True), gather(second, differentiable=True), self.temperature)
        yield Part(loss, {"contrastive": loss}, out)
