"""Hand-made tasks that the paper compares with: Rot-Pred (Gidaris et al. 2018) and Rel-Loc (Doersch et al. 2015)."""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.methods.base import Masks, Matches, Method, Part
from trainer.methods.registry import method

TURNS, PLACES = 4, 8


@method("rotpred", "by how many quarter turns a view was rotated", optimizer="sgd", outputs=4, options=())
class RotPred(Method):
    """A view in all four quarter turns; the projector has an output for each turn."""

    def sees(self, image: Tensor) -> Tensor:
        """All quarter turns of views [N, 3, S, S]: [4 · N, 3, S, S]."""
        return torch.cat([image.rot90(turn, (2, 3)) for turn in range(TURNS)])

    def parts(self, views: Sequence[Tensor], masks: Masks, matches: Matches = ()) -> Iterator[Part]:
        """One part: cross-entropy over 4 · N of the first view (the second would be more of the same)."""
        out = self.forward_online(self.sees(views[0]).contiguous(memory_format=torch.channels_last))
        truth = torch.arange(TURNS, device=out.projection.device).repeat_interleave(len(views[0]))
        loss = F.cross_entropy(out.projection.float(), truth)
        yield Part(loss, {"contrastive": loss}, out)


@method("relloc", "where a patch lies beside another one of the same view", optimizer="sgd", predictor="pairs")
class RelLoc(Method):
    """Nine patches of a view; from the middle patch and a neighbour the pair head predicts where the neighbour lies."""

    def sees(self, image: Tensor) -> Tensor:
        """Nine patches: [9, 3, s, s]."""
        return patches(image)

    def parts(self, views: Sequence[Tensor], masks: Masks, matches: Matches = ()) -> Iterator[Part]:
        """One part: cross-entropy over 8 · N pairs of the first view."""
        out = self.forward_online(self.sees(views[0]))
        assert out.prediction is not None
        truth = torch.arange(PLACES, device=out.prediction.device).repeat_interleave(len(views[0]))
        loss = F.cross_entropy(out.prediction.float(), truth)
        yield Part(loss, {"contrastive": loss}, out)


def patches(view: Tensor) -> Tensor:
    """[N, 3, S, S] to [9 · N, 3, s, s]: the middle cell of a 3 × 3 grid, then its neighbours row by row.

    A patch fills three quarters of its cell and is shifted in it at random, so that no edge goes on in the next patch.
    The shifts come from the CPU's generator, one for each cell and batch, so that a patch is a plain slice.
    """
    cell = view.shape[-1] // 3
    side = max(3 * cell // 4, 1)
    shifts = torch.randint(cell - side + 1, (9, 2)).tolist()
    places = [4, 0, 1, 2, 3, 5, 6, 7, 8]
    cut = []
    for place in places:
        y, x = (cell * at + shift for at, shift in zip(divmod(place, 3), shifts[place], strict=True))
        cut.append(view[:, :, y : y + side, x : x + side])
    return torch.cat(cut).contiguous(memory_format=torch.channels_last)
