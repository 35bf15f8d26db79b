"""Where a network looks: scores of cells compared with boxes, always beside the centre prior.

Score maps and masks are [N, H, W]; a cell is foreground when the box covers at least half of it. Every figure is a mean
over images; images without both kinds of cells are left out.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from augment.views.geometry import masks as cell_cover
from precompute.base.boxmath import iou
from trainer.model.auc import cell_auc
from trainer.record.figures import shown


@dataclass(frozen=True)
class Figures:
    """How well score maps find boxes. Chance: auc 0.5, pointing and energy the mean area share."""

    auc: float  # mean over images of the area under the ROC of the cells
    pointing: float  # share of images whose highest cell lies in the box
    energy: float  # share of the map's (shifted to be non-negative) mass that lies in the box
    images: int

    def __str__(self) -> str:
        return f"AUC {shown(self.auc)}  pointing {shown(self.pointing)}  energy {shown(self.energy)}"


def figures(scores: Tensor, masks: Tensor) -> Figures:
    """All figures of score maps [N, H, W] against masks of the same shape (share of a cell that is covered)."""
    auc = cell_auc(scores, masks)
    valid = auc.isfinite()
    if not valid.any():
        return Figures(float("nan"), float("nan"), float("nan"), 0)
    scores, masks = scores[valid].flatten(1).float(), masks[valid].flatten(1).float()
    highest = scores.argmax(1, keepdim=True)
    pointing = (masks.gather(1, highest) >= 0.5).float().mean()
    mass = scores - scores.amin(1, keepdim=True)
    energy = ((mass * masks).sum(1) / mass.sum(1).clamp_min(1e-12)).mean()
    return Figures(auc[valid].mean().item(), pointing.item(), energy.item(), int(valid.sum()))


def mean_and_error(values: Tensor) -> tuple[float, float, int]:
    """Mean, standard error and number of those `values` [N] that are finite; nan without any, or of a single one."""
    known = values[values.isfinite()].double()
    error = known.std() / len(known) ** 0.5 if len(known) > 1 else torch.tensor(float("nan"))
    return known.mean().item(), error.item(), len(known)


def centre_prior(grid: int, device: str | torch.device = "cpu") -> Tensor:
    """[grid, grid] scores that fall with the distance from the centre: what beats every method on centred objects."""
    at = (torch.arange(grid, device=device) + 0.5) / grid - 0.5
    return 1 - (at[:, None].square() + at[None, :].square()) * 2


def fit_probe(features: Tensor, masks: Tensor, ridge: float = 1e-2) -> tuple[Tensor, Tensor]:
    """A linear probe per cell: features [N, C, H, W] to masks [N, H, W] by ridge regression; weight [C] and bias [].

    Closed form in float64 on standardised features: no step size, no seed.
    """
    x = features.permute(0, 2, 3, 1).flatten(0, 2).double()
    y = masks.flatten().double()
    mean, std = x.mean(0), x.std(0).clamp_min(1e-6)
    x = (x - mean) / std
    gram = x.T @ x / len(x) + ridge * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    weight = torch.linalg.solve(gram, x.T @ (y - y.mean()) / len(x)) / std
    return weight.float(), (y.mean() - mean @ weight).float()


def probe_maps(features: Tensor, probe: tuple[Tensor, Tensor]) -> Tensor:
    """The probe's scores [N, H, W] of features [N, C, H, W]."""
    weight, bias = probe
    return torch.einsum("nchw,c->nhw", features.float(), weight) + bias


def box_masks(boxes: Tensor, grid: int) -> Tensor:
    """Share of each cell that boxes [N, 4] in [0, 1] cover: [N, grid, grid]."""
    return cell_cover(boxes, size=1, grid=grid)


def off_centre(boxes: Tensor, distance: float = 0.15) -> Tensor:
    """bool [N]: boxes [N, 4] whose centre is further than `distance` of a side from the picture's, across or down."""
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    return (centre - 0.5).abs().amax(1) > distance


def max_box_accuracy(overlaps: np.ndarray, ious: tuple[float, ...] = (0.3, 0.5, 0.7)) -> dict[str, float]:
    """MaxBoxAcc (Choe et al. 2020): share of images whose box is found at the best common threshold, per IoU.

    overlaps [thresholds, N] see `box_overlaps`.
    """
    return {f"{least:g}": float((overlaps >= least).mean(1).max()) for least in ious}


def box_overlaps(scores: Tensor, boxes: Tensor, thresholds: int = 40, side: int = 56) -> np.ndarray:
    """IoU [thresholds, N] of each image's box with that of the largest connected region above each threshold.

    Scores [N, H, W], or [1, H, W] for all, are resized to side × side and scaled to [0, 1]. Boxes [N, 4] in [0, 1].
    """
    maps = F.interpolate(scores[:, None].float(), (side, side), mode="bilinear", align_corners=False)[:, 0].flatten(1)
    low, high = maps.amin(1, keepdim=True), maps.amax(1, keepdim=True)
    scaled = ((maps - low) / (high - low).clamp_min(1e-12)).view(-1, side, side).cpu().numpy()
    truth = boxes.double().cpu().numpy() * side
    steps = np.linspace(0, 1, thresholds, endpoint=False)
    return np.stack([iou(_largest_regions(scaled >= threshold), truth) for threshold in steps])


def _largest_regions(masks: np.ndarray) -> np.ndarray:
    """Boxes [N, 4] in cells, end-exclusive, of the largest 4-connected region of each mask [N, H, W].

    Of equally large regions the one that begins first counts. The box of a mask without any is all zeros.
    """
    from scipy import ndimage

    connected = np.zeros((3, 3, 3), bool)
    connected[1] = ndimage.generate_binary_structure(2, 1)  # within a mask only, so one call labels all masks
    labels: Any = ndimage.label(masks, connected)[0]  # type: ignore[index] - its stubs know a count alone
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0  # what is in no region
    flat = labels.reshape(len(masks), -1)
    largest = np.take_along_axis(flat, sizes[flat].argmax(1)[:, None], 1)  # the region of the first such pixel
    there = labels == largest[:, :, None]
    columns, rows = there.any(1), there.any(2)
    starts = [side.argmax(1) for side in (columns, rows)]
    ends = [side.shape[1] - side[:, ::-1].argmax(1) for side in (columns, rows)]
    return np.where(largest > 0, np.stack((*starts, *ends), 1), 0.0)


def off_centre_windows(boxes: Tensor, rows: Tensor, side: int, window: int, tries: int = 16) -> tuple[Tensor, Tensor]:
    """Windows of pictures of `side` pixels with the box at the side: corners [N, 2] (x, y), boxes [N, 4] in them.

    Of `tries` random windows that keep at least half of the box, the one whose visible box is furthest from the middle.
    They are drawn from a random stream of the row's own, so every encoder sees the same ones.
    """
    corners = np.zeros((len(boxes), 2), np.int64)
    cut = np.zeros((len(boxes), 4), np.float64)
    for i, (box, row) in enumerate(zip(boxes.double().cpu().numpy() * side, rows.tolist(), strict=True)):
        rng = np.random.Generator(np.random.Philox(key=row))
        corner = rng.integers(0, side - window + 1, (tries, 2))
        visible = np.clip(box - np.tile(corner, 2), 0, window) / window
        kept = (visible[:, 2:] - visible[:, :2]).prod(1) * window**2 / max((box[2:] - box[:2]).prod(), 1e-9)
        away = np.abs((visible[:, :2] + visible[:, 2:]) / 2 - 0.5).max(1)
        best = np.where(kept >= 0.5, away, away * 0 + kept - 1).argmax()
        corners[i], cut[i] = corner[best], visible[best]
    return torch.from_numpy(corners), torch.from_numpy(cut).float().to(boxes.device)
