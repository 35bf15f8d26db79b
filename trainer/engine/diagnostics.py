"""Figures that show whether a run is healthy, measured on the batch of a log line (the only steps that may sync).

saturated      share of the C map's cells below 0.01 or above 0.99, where the sigmoid passes next to no gradient
gradient_ratio norm of the gradient of what is added to the contrastive loss (alignment, dense term) over that of the
               contrastive loss, at the last aligned stage's features
crossview      drop of C's AUC when every view is held against another image's keys; near 0 means that C is a
               foreground classifier per cell and no correspondence between views
own_beats_rolled  share of views whose C is higher on the object with their own keys than with another image's; 0.5
               by chance
matched        share of cells whose most similar cell in the key view shows the same point (`trainer.model.matched`)
feature_std    standard deviation of the normalised features over the batch, times sqrt(width): 1 for isotropic
               features, 0 for collapsed ones
rank           effective rank of the features (exponential of the entropy of their normalised singular values)
no_background  share of views whose rectangle leaves less than a twentieth of the view

Each rank diagnoses its rows of the batch; a log line has the means over the ranks.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.methods.base import Method, Part
from trainer.methods.losses import correspondence
from trainer.model.auc import cell_auc
from trainer.model.matched import most_similar, own_beats_rolled, share_matched
from trainer.parallel.collectives import rolled

COLLAPSED_STD = 0.05
COLLAPSED_RANK = 2.0


def diagnose(method: Method, part: Part) -> dict[str, Tensor]:
    """The figures of one part of a step, before its backward; scalars on the device."""
    figures = feature_health(part.online.features.detach())
    if part.maps:
        stage = max(part.maps)
        c, mask = part.maps[stage].detach(), part.masks[stage]
        figures["saturated"] = ((c < 0.01) | (c > 0.99)).float().mean()
        figures["c_auc"] = cell_auc(c, mask).nanmean()
        if part.online.z[stage].requires_grad and (stage == max(part.online.z) or not method.online.compiled):
            figures["gradient_ratio"] = gradient_ratio(part, stage)
        alignment = getattr(method, "alignment", None)
        if part.keys is not None and stage in part.keys.maps and alignment is not None:
            with torch.no_grad():
                rolled_keys = rolled(part.keys.maps[stage])
                other = correspondence(part.online.predicted_maps[stage].detach(), rolled_keys, alignment.settings)
            figures["crossview"] = figures["c_auc"] - cell_auc(other, mask).nanmean()
            figures["own_beats_rolled"] = own_beats_rolled(c, other, mask).nanmean()
    return figures


def matched(part: Part, points: Tensor, same: Tensor) -> Tensor:
    """Share of the online view's cells that find their point in the keys' view, by stage 4; a mean over images.

    `points` [N, H, W, 2] in cells of the key view, `same` bool [N, H, W].
    """
    assert part.keys is not None
    with torch.no_grad():
        found = most_similar(part.online.z[4], part.keys.z[4])
        return share_matched(found, points, same).nanmean()


def no_background(rects: Tensor, size: int) -> Tensor:
    """Share of views of `size` pixels whose pasted rectangle [N, 4] leaves less than a twentieth of them."""
    area = (rects[:, 2:] - rects[:, :2]).prod(1)
    return (area > 0.95 * size**2).float().mean()


def feature_health(features: Tensor) -> dict[str, Tensor]:
    """feature_std and rank of [N, C] features."""
    z = F.normalize(features.float(), dim=1)
    z = z - z.mean(0)
    known = z.nan_to_num().double()  # LAPACK would raise in a diverged step, which the loss reports
    # Singular values from the smaller Gram matrix: an eighth of svdvals's time for [256, 2048], equal to 1e-6.
    gram = known @ known.T if len(known) < known.shape[1] else known.T @ known
    share = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()
    share = (share / share.sum().clamp_min(1e-12)).float()
    rank = torch.exp(-(share * share.clamp_min(1e-12).log()).sum())
    return {"feature_std": z.std(0).mean() * z.shape[1] ** 0.5, "rank": rank}


def gradient_ratio(part: Part, stage: int) -> Tensor:
    """‖∂(weighted alignment)/∂z‖ / ‖∂contrastive/∂z‖ at the stage's features z, which must not be frozen.

    Not available for stage 3 of a compiled network: both maps are outputs of one graph, so there is no gradient from
    one to the other.
    """
    z = part.online.z[stage]
    weighted = part.loss - part.terms["contrastive"]
    (align,) = torch.autograd.grad(weighted, z, retain_graph=True)
    (contrastive,) = torch.autograd.grad(part.terms["contrastive"], z, retain_graph=True)
    return align.float().norm() / contrastive.float().norm().clamp_min(1e-20)


def matching_warning(row: dict[str, float]) -> str | None:
    """A warning if a loss between cells had none to learn from in the step that was looked at, else None."""
    if "dense" in row and math.isnan(row["matched"]):
        return (
            "warning: no cell of this step shows the object in both views, so the dense loss (0 then) learns nothing. "
            "Are the objects smaller than a cell, or the boxes wrong? python -m precompute.inspect shows them"
        )
    return None


def collapse_warning(row: dict[str, float], images: int) -> str | None:
    """A warning if the features of the `images` of a part have become (nearly) one point or one line, else None."""
    lowest = min(COLLAPSED_RANK, 0.75 * (images - 1))  # n centred features span n - 1 directions: 2 images one line
    if row["feature_std"] < COLLAPSED_STD or row["rank"] < lowest:
        return (
            f"warning: features are collapsing (std {row['feature_std']:.3f}, effective rank {row['rank']:.1f}): "
            "images become indistinguishable. A lower --base-lr or --align-weight, or a larger batch, may help"
        )
    return None
