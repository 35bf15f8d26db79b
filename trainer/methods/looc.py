"""LooC* (Xiao et al. 2021, in the rotation version that the paper compares with): leave-one-out contrast.

Two embedding spaces over one encoder. In the first a query meets a key that was rotated by another quarter turn, so
what it learns does not depend on the rotation. In the second the key with the query's own rotation is the positive and
the differently rotated key a negative, so what it learns knows the rotation. MoCo v2 in both, half a loss each.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from augment.stream.maker import turned
from trainer.methods.base import Masks, Matches, Part
from trainer.methods.losses import info_nce
from trainer.methods.moco import MocoV2
from trainer.methods.registry import method
from trainer.parallel.collectives import own_rows, world


@method(
    "looc",
    "mocov2 in two embeddings, of which one is invariant to rotation and the other knows it",
    optimizer="sgd",
    queue=True,
    embeddings=2,
)
class LooC(MocoV2):
    """Projections are two embeddings side by side: [N, d] invariant to rotation, [N, d] that knows it."""

    target_views = 2

    def parts(self, views: Sequence[Tensor], masks: Masks, matches: Matches = ()) -> Iterator[Part]:
        """One part; the equally rotated keys enter the queue afterwards."""
        n = len(views[0])
        # Drawn for the global batch from the CPU's generator: every rank seeds it equally, and a checkpoint holds it.
        turns, more = torch.randint(4, (world() * n,)), torch.randint(1, 4, (world() * n,))
        turns, other_turns = own_rows(turns), own_rows((turns + more) % 4)
        same, turned = (self.key(rotated(views[1], t)) for t in (turns, other_turns))
        out = self.forward_online(rotated(views[0], turns))
        invariant, aware = out.projection.chunk(2, 1)
        negatives = self.queue.chunk(2, 1)
        first = info_nce(invariant, turned.chunk(2, 1)[0], negatives[0], self.temperature)
        second = info_nce(aware, same.chunk(2, 1)[1], negatives[1], self.temperature, turned.chunk(2, 1)[1])
        loss = 0.5 * (first + second)
        self.enqueue(same)
        yield Part(loss, {"contrastive": loss}, out)


def rotated(views: Tensor, turns: Tensor) -> Tensor:
    """Copies of views [N, 3, S, S], each rotated by its number of quarter turns (int64 [N] on the CPU)."""
    return turned((views.clone(),), turns.numpy()[:, None])[0]
