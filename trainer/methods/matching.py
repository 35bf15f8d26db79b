"""CVSA's parts with what the views' geometry knows: which cell of one view shows which point of the other.

Three terms in both directions: a loss of whole views (in-batch InfoNCE as in MoCo v3, or BYOL's), the paper's alignment
at a small weight, and the dense loss between corresponding cells (`trainer.methods.dense`).
"""

from collections.abc import Iterator, Sequence

from torch import Tensor

from trainer.methods.base import Masks, Match, Matches, Part
from trainer.methods.byol import Alignment, Byol
from trainer.methods.dense import dense_nce, wrong_cells
from trainer.methods.loss_presets import MatchLoss
from trainer.methods.losses import in_batch_nce
from trainer.methods.registry import method
from trainer.model.networks import Network, Projections
from trainer.parallel.collectives import rolled


@method(
    "matching",
    "whole views against those of other images, and cells against the cells that show the same point of the object",
    predictor="mlp",
    aligns=True,
    matches=True,
    defaults={"align_weight": 0.1, "reduction": "scaled"},
    needs_pasting="there is nothing to align with. Use --policy saliencyswap, or --align-weight 0",
    controls=("shuffled-masks", "rolled-keys", "wrong-cells"),
    options=(
        "dim", "ema", "loss", "scale", "temperature", "reduction", "align_weight", "align_stages", "conv_hidden",
        "mask", "control", "contrast", "dense_weight", "dense_temperature",
    ),
)  # fmt: skip
class Matching(Byol):
    """Both directions of all three terms. Controls of the dense term:

    rolled-keys  another sample's cells are the positives (and the alignment's keys)
    wrong-cells  other cells of the same object are
    """

    alignment: Alignment

    def __init__(self, online: Network, alignment: Alignment, loss: MatchLoss) -> None:
        super().__init__(online, alignment)
        self.loss = loss

    def contrast(self, out: Projections, keys: Projections) -> Tensor:
        """Half of the loss of whole views, as a direction has it."""
        if self.loss.contrast == "cosine":
            return super().contrast(out, keys)
        assert out.prediction is not None
        return 0.5 * in_batch_nce(out.prediction, keys.projection, self.loss.temperature)

    def parts(self, views: Sequence[Tensor], masks: Masks, matches: Matches = ()) -> Iterator[Part]:
        """Two parts, as BYOL's."""
        for part, of_view in zip(super().parts(views, masks), matches, strict=True):
            self.add_dense(part, of_view)
            yield part

    def add_dense(self, part: Part, matches: dict[int, Match]) -> None:
        """Adds the weighted dense term of all stages with conv heads to `part.loss`."""
        assert part.keys is not None
        total = part.loss.new_zeros(())
        for stage, prediction in part.online.predicted_maps.items():
            keys, match = part.keys.maps[stage], matches[stage]
            if self.alignment.control == "rolled-keys":
                keys = rolled(keys)
            if self.alignment.control == "wrong-cells":
                match = wrong_cells(match)
            total = total + dense_nce(prediction, keys, match, self.loss.temperature)
        part.terms["dense"] = total
        part.loss = part.loss + self.loss.weight * total
