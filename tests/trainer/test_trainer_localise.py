"""Localisation figures against sklearn-free slow references; the probe against lstsq."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from trainer.evaluation.localise import (
    _largest_regions,
    box_masks,
    box_overlaps,
    centre_prior,
    figures,
    fit_probe,
    max_box_accuracy,
    off_centre,
    off_centre_windows,
    probe_maps,
)
from trainer.model.auc import cell_auc


def slow_auc(score: torch.Tensor, mask: torch.Tensor) -> float:
    positive, negative = score[mask >= 0.5].tolist(), score[mask < 0.5].tolist()
    if not positive or not negative:
        return math.nan
    wins = sum((p > n) + 0.5 * (p == n) for p in positive for n in negative)
    return wins / (len(positive) * len(negative))


def test_auc_equals_counting_pairs() -> None:
    scores = torch.randint(0, 5, (20, 6, 7)).float()  # many ties
    masks = torch.rand(20, 6, 7)
    masks[3], masks[4] = 1, 0
    expected = torch.tensor([slow_auc(s, m) for s, m in zip(scores, masks, strict=True)])
    torch.testing.assert_close(cell_auc(scores, masks), expected, equal_nan=True)


def test_figures_of_a_perfect_a_constant_and_an_inverted_map() -> None:
    masks = box_masks(torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.25, 0.5, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0]]), 8)
    perfect, inverted = figures(masks, masks), figures(1 - masks, masks)
    assert (perfect.auc, perfect.pointing, perfect.energy) == (1.0, 1.0, 1.0)
    assert (inverted.auc, inverted.pointing, inverted.energy) == (0.0, 0.0, 0.0)
    assert figures(torch.zeros(3, 8, 8), masks).auc == 0.5
    assert perfect.images == 2  # a box that covers everything has no background to be told from
    assert figures(masks[2:], masks[2:]).images == 0


def test_centre_prior_is_symmetric_and_highest_in_the_middle() -> None:
    prior = centre_prior(7)
    assert prior.argmax() == 24
    torch.testing.assert_close(prior, prior.flip(0))
    torch.testing.assert_close(prior, prior.T)


def test_probe_finds_a_linear_direction() -> None:
    z = torch.randn(12, 5, 4, 4)
    masks = (z[:, 2] - 0.5 * z[:, 0] > 0).float()
    weight, bias = fit_probe(z, masks, ridge=0.0)
    x = torch.cat([z.permute(0, 2, 3, 1).reshape(-1, 5), torch.ones(192, 1)], 1).double()
    expected = torch.linalg.lstsq(x, masks.reshape(-1, 1).double()).solution[:, 0].float()
    torch.testing.assert_close(torch.cat([weight, bias[None]]), expected, atol=1e-5, rtol=1e-4)
    assert figures(probe_maps(z, (weight, bias)), masks).auc > 0.97


@pytest.mark.parametrize("grid", [5, 8])
def test_box_masks_hold_the_box_area(grid: int) -> None:
    boxes = torch.tensor([[0.1, 0.2, 0.7, 0.9]])
    assert box_masks(boxes, grid).mean().item() == pytest.approx(0.6 * 0.7, abs=1e-6)


@pytest.mark.parametrize("share", [0, 0.02, 0.3, 0.5, 0.9, 1])
def test_the_largest_region_is_that_of_each_picture_alone(share: float) -> None:
    """Empty, full and noisy masks; of equally large regions the one that begins first."""
    masks = np.random.default_rng(0).random((40, 12, 12)) < share
    masks[::7] = False
    expected = np.zeros((40, 4))
    for box, mask in zip(expected, masks, strict=True):
        labels, count = ndimage.label(mask)  # type: ignore[misc]
        if count:
            rows, columns = np.nonzero(labels == np.bincount(labels.ravel())[1:].argmax() + 1)
            box[:] = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    np.testing.assert_array_equal(_largest_regions(masks), expected)


def test_max_box_accuracy_finds_exact_boxes_and_misses_shifted_ones() -> None:
    boxes = torch.tensor([[0.25, 0.25, 0.75, 0.75], [0.0, 0.5, 0.5, 1.0]])
    found = max_box_accuracy(box_overlaps(box_masks(boxes, 8), boxes))
    assert found == {"0.3": 1.0, "0.5": 1.0, "0.7": 1.0}
    shifted = max_box_accuracy(box_overlaps(box_masks(boxes.flip(0), 8), boxes))
    assert shifted == {"0.3": 0.0, "0.5": 0.0, "0.7": 0.0}
    half = torch.tensor([[0.25, 0.25, 0.75, 0.5]])  # IoU 1/2 with the first box
    assert max_box_accuracy(box_overlaps(box_masks(half, 8), boxes[:1], side=64))["0.3"] == 1.0
    assert max_box_accuracy(box_overlaps(box_masks(half, 8), boxes[:1], side=64))["0.7"] == 0.0


def test_off_centre_is_about_the_box_centre() -> None:
    boxes = torch.tensor([[0.2, 0.2, 0.8, 0.8], [0.0, 0.3, 0.5, 0.7], [0.3, 0.6, 0.7, 1.0], [0.0, 0.0, 1.0, 1.0]])
    assert off_centre(boxes).tolist() == [False, True, True, False]


def test_off_centre_windows_keep_the_box_and_are_the_rows_own() -> None:
    boxes = torch.rand(40, 2).repeat(1, 2) * 0.6 + torch.tensor([0, 0, 0.35, 0.35])
    rows = torch.arange(40)
    corners, cut = off_centre_windows(boxes, rows, side=96, window=64)
    assert corners.min() >= 0
    assert corners.max() <= 32
    expected = ((boxes * 96 - corners.repeat(1, 2)) / 64).clamp(0, 1)
    torch.testing.assert_close(cut, expected, atol=1e-6, rtol=0)
    kept = (cut[:, 2:] - cut[:, :2]).prod(1) * 64**2 / ((boxes[:, 2:] - boxes[:, :2]).prod(1) * 96**2)
    assert kept.min() > 0.45
    assert off_centre(cut).float().mean() > 0.6
    again, _ = off_centre_windows(boxes[5:9], rows[5:9], side=96, window=64)
    assert torch.equal(again, corners[5:9])
