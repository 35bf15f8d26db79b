"""BYOL (Grill et al. 2020), and CVSA: BYOL that aligns correspondence maps with masks (or a control arm of that)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.methods.base import Masks, Matches, Method, Part
from trainer.methods.loss_presets import LossPreset
from trainer.methods.losses import alignment_loss, correspondence, negative_cosine
from trainer.methods.registry import method
from trainer.model.networks import Network, Projections
from trainer.parallel.collectives import rolled


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
            mask = rolled(masks[stage]) if self.control == "shuffled-masks" else masks[stage]
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
        key = rolled(keys.maps[stage]) if self.control == "rolled-keys" else keys.maps[stage]
        return correspondence(predicted, key, self.settings)


@method(
    "cvsa",
    "byol, and correspondence maps between the views are aligned with the masks of the pasted object (Eq. 7)",
    predictor="mlp",
    aligns=True,
    needs_pasting="there is nothing to align with. Use --policy saliencyswap, or --method byol",
    controls=("shuffled-masks", "rolled-keys", "direct-head"),
    options=(
        "dim", "ema", "loss", "scale", "temperature", "reduction", "align_weight", "align_stages", "conv_hidden",
        "mask", "control",
    ),
)  # fmt: skip
@method(
    "byol",
    "the online network predicts the projections of its moving average, in both directions (Eq. 6)",
    predictor="mlp",
    options=("dim", "ema"),
)
class Byol(Method):
    """Both directions of Eq. 6, and of Eq. 5 where an alignment is given."""

    passes = 2

    def __init__(self, online: Network, alignment: Alignment | None = None) -> None:
        super().__init__(online, has_target=True)
        self.alignment = alignment

    def contrast(self, out: Projections, keys: Projections) -> Tensor:
        """One direction of Eq. 6: half of the negative cosine."""
        assert out.prediction is not None
        return 0.5 * negative_cosine(out.prediction, keys.projection)

    def parts(self, views: Sequence[Tensor], masks: Masks, matches: Matches = ()) -> Iterator[Part]:
        """Two parts: q against the target's k, then k against the target's q."""
        assert self.target is not None
        with torch.no_grad():
            keys = [self.target(view) for view in views]
        for this, other in ((0, 1), (1, 0)):
            out = self.forward_online(views[this])
            cont = self.contrast(out, keys[other])
            part = Part(cont, {"contrastive": cont}, out, keys[other])
            if self.alignment is not None:
                self.alignment.add_to(part, masks[this])
            yield part
