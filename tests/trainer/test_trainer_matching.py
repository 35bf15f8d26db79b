"""The dense loss and the method around it: against double loops in float64, in parts, in ranks, and in its controls."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from trainer_photos import PhotoBatch

from precompute.base.errors import BadValue
from precompute.base.options import values_of
from trainer.config.run import RunConfig
from trainer.methods import dense
from trainer.methods.base import Match
from trainer.methods.byol import Alignment
from trainer.methods.dense import dense_nce, wrong_cells
from trainer.methods.loss_presets import LOSS_PRESETS, MatchLoss
from trainer.methods.losses import alignment_loss, correspondence, in_batch_nce
from trainer.methods.matching import Matching
from trainer.model.networks import Heads, build_model

HEADS = Heads(dim=16, hidden=32, conv_hidden=24)
LIGHT = LOSS_PRESETS["stable"]


def slow_dense(prediction: Tensor, keys: Tensor, match: Match, temperature: float) -> float:
    """The formula as it is printed, cell by cell."""
    n, _, height, width = keys.shape
    unit = lambda v: [x / math.hypot(*v) for x in v]  # noqa: E731
    dot = lambda a, b: sum(x * y for x, y in zip(a, b, strict=True))  # noqa: E731
    cell = [[[unit(keys[i, :, y, x].tolist()) for x in range(width)] for y in range(height)] for i in range(n)]

    def at(i: int, u: float, v: float) -> list[float]:
        """Bilinear between the middles of the four nearest cells; the outer ones go on beyond the edge."""
        u, v = min(max(u - 0.5, 0), width - 1), min(max(v - 0.5, 0), height - 1)
        x, y = min(int(u), width - 2), min(int(v), height - 2)
        corners = [(cell[i][y + b][x + a], (u - x if a else 1 - u + x) * (v - y if b else 1 - v + y))
                   for a in (0, 1) for b in (0, 1)]  # fmt: skip
        return unit([sum(k[c] * share for k, share in corners) for c in range(len(corners[0][0]))])

    losses = []
    for i in range(n):
        for y in range(height):
            for x in range(width):
                if match.same[i, y, x]:
                    p, (u, v) = unit(prediction[i, :, y, x].tolist()), match.points[i, y, x].tolist()
                    positive = math.exp(dot(p, at(i, u, v)) / temperature)
                    negatives = sum(
                        math.exp(dot(p, cell[j][b][a]) / temperature)
                        for j in range(n) for b in range(height) for a in range(width)
                        if j != i or math.hypot(a + 0.5 - u, b + 0.5 - v) >= 1
                    )  # fmt: skip
                    losses.append(-math.log(positive / (positive + negatives)))
    return sum(losses) / len(losses)


def drawn(n: int = 3, d: int = 5, height: int = 4, width: int = 3) -> tuple[Tensor, Tensor, Match]:
    prediction, keys = torch.randn(2, n, d, height, width, dtype=torch.float64)
    points = torch.rand(n, height, width, 2) * torch.tensor((width + 1.0, height + 1.0)) - 0.5  # some beyond the edge
    return prediction, keys, Match(points, torch.rand(n, height, width) < 0.6)


def test_the_dense_loss_equals_the_double_loop() -> None:
    prediction, keys, match = drawn()
    exact = Match(match.points.double(), match.same)
    assert dense_nce(prediction, keys, exact, 0.2).item() == pytest.approx(
        slow_dense(prediction, keys, exact, 0.2), rel=1e-12
    )
    nothing = Match(match.points, torch.zeros_like(match.same))
    assert dense_nce(prediction, keys, nothing, 0.2) == 0


def test_in_parts_and_with_fixed_shapes_it_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """In parts: what is held at a time is bounded. Fixed shapes: as on a GPU, where no shape may depend on values."""
    prediction, keys, match = drawn()
    results = []
    for most, fixed in ((2**25, False), (100, False), (100, True)):
        monkeypatch.setattr(dense, "MOST_SIMILARITIES", most)
        p = prediction.clone().requires_grad_()
        with monkeypatch.context() as patch:
            if fixed:
                patch.setattr(Tensor, "nonzero", lambda x: torch.arange(x.numel())[:, None])
            loss = dense_nce(p, keys, match, 0.2)
        loss.backward()
        results.append((loss.detach(), p.grad))
    torch.testing.assert_close(results[1], results[0])
    torch.testing.assert_close(results[2], results[0])


def test_autocast_leaves_it_in_float32() -> None:
    prediction, keys, match = drawn()
    exact = dense_nce(prediction.float(), keys.float(), match, 0.2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = dense_nce(prediction.float(), keys.float(), match, 0.2)
        whole = in_batch_nce(prediction[:, :, 0, 0].float(), keys[:, :, 0, 0].float(), 0.2)
    assert found.dtype == whole.dtype == torch.float32
    torch.testing.assert_close(found, exact)


def test_the_loss_of_whole_views_is_mocos_third() -> None:
    p, z = torch.randn(2, 5, 8, dtype=torch.float64)
    like = torch.exp(F.normalize(p, dim=1) @ F.normalize(z, dim=1).T / 0.2)
    expected = -sum(math.log(like[i, i] / like[i].sum()) for i in range(5)) / 5
    assert in_batch_nce(p, z, 0.2).item() == pytest.approx(expected)


@pytest.mark.parametrize("contrast", ["infonce", "cosine"])
def test_the_method_is_the_sum_of_its_terms(photos: PhotoBatch, contrast: str) -> None:
    method = Matching(build_model("resnet10w8", HEADS).double(), Alignment(LIGHT), MatchLoss(contrast, 0.7, 0.3))
    views = [v.double() for v in photos.views]
    masks = [{4: photos.masks(i, 8).double()} for i in range(2)]
    matches = [{4: photos.match(i, 8)} for i in range(2)]
    with torch.no_grad():
        out, keys = [method.online(v) for v in views], [method.target(v) for v in views]  # type: ignore[misc]
        expected = 0.0
        for q, k in ((0, 1), (1, 0)):
            p, z = out[q].prediction, keys[k].projection
            cosine = F.cosine_similarity(p, z).mean()
            expected += 0.5 * (in_batch_nce(p, z, 0.3) if contrast == "infonce" else -cosine).item()
            c = correspondence(out[q].predicted_maps[4], keys[k].maps[4], LIGHT)
            expected += LIGHT.weight * alignment_loss(c, masks[q][4]).item()
            expected += 0.7 * slow_dense(out[q].predicted_maps[4], keys[k].maps[4], matches[q][4], 0.3)
        total = sum(part.loss.item() for part in method.parts(views, masks, matches))
    assert total == pytest.approx(expected, rel=1e-6)


def test_gradients_reach_the_online_network_alone(photos: PhotoBatch) -> None:
    method = Matching(build_model("resnet10w8", HEADS), Alignment(LIGHT), MatchLoss())
    masks, matches = ([{4: f(i, 8)} for i in range(2)] for f in (photos.masks, photos.match))
    for part in method.parts(photos.views, masks, matches):
        part.loss.backward()
        assert set(part.terms) == {"contrastive", "alignment", "dense"}
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in method.online.parameters())
    assert method.target is not None
    assert all(p.grad is None for p in method.target.parameters())


def test_wrong_cells_are_other_cells_of_the_same_object() -> None:
    _, _, match = drawn(n=4, height=6, width=6)
    moved = wrong_cells(match)
    assert torch.equal(moved.same, match.same)
    for points, others, same in zip(match.points, moved.points, match.same, strict=True):
        assert sorted(points[same].tolist()) == sorted(others[same].tolist())
        assert (points[same] != others[same]).any(1).float().mean() > 0.7


def test_controls_change_what_they_say(photos: PhotoBatch) -> None:
    masks, matches = ([{4: f(i, 8)} for i in range(2)] for f in (photos.masks, photos.match))
    terms: dict[str, dict[str, Any]] = {}
    for control in ("none", "shuffled-masks", "rolled-keys", "wrong-cells"):
        method = Matching(build_model("resnet10w8", HEADS), Alignment(LIGHT, control), MatchLoss())
        terms[control] = {k: v.item() for k, v in next(method.parts(photos.views, masks, matches)).terms.items()}
    plain = terms.pop("none")
    differing = {control: {k for k in plain if terms[control][k] != plain[k]} for control in terms}
    assert differing == {
        "shuffled-masks": {"alignment"}, "rolled-keys": {"alignment", "dense"}, "wrong-cells": {"dense"},
    }  # fmt: skip


def test_its_settings_and_what_they_do_not_go_with() -> None:
    assert RunConfig.of(method="matching").loss.alignment.weight == 0.1
    assert RunConfig.of(method="matching", align_weight=2.0).loss.alignment.weight == 2.0
    assert RunConfig.of(method="cvsa").loss.alignment.weight == 1.0
    # A weight chosen on 6x6 cells holds on 3x3; CVSA's is the paper's sum.
    assert RunConfig.of(method="matching").loss.alignment.reduction == "scaled"
    assert RunConfig.of(method="matching", reduction="sum").loss.alignment.reduction == "sum"
    assert RunConfig.of(method="cvsa").loss.alignment.reduction == "sum"
    older = {**values_of(RunConfig.of(method="matching")), "reduction": None}  # as a checkpoint has it
    assert RunConfig.of(older).loss.reduction == "sum"
    # None is "not given", and what is chosen has one name: runs of before and of now can be compared.
    assert RunConfig.of(align_weight=None, reduction=None) == RunConfig.of(method="matching")
    older = {**values_of(RunConfig.of(method="cvsa")), "reduction": None}
    assert RunConfig.of(older) == RunConfig.of(method="cvsa", reduction="sum") == RunConfig.of(method="cvsa")
    assert RunConfig.of(method="cvsa", loss="paper", reduction="mean").loss.reduction == "mean"
    RunConfig.of(method="matching", policy="rrc", align_weight=0.0)  # views without boxes
    with pytest.raises(BadValue, match=r"nothing to align with\. Use --policy saliencyswap, or --align-weight 0"):
        RunConfig.of(method="matching", policy="rrc")
    for method, control, able in (
        ("matching", "direct-head", "cvsa"),
        ("cvsa", "wrong-cells", "matching"),
        ("byol", "rolled-keys", "cvsa or matching"),
    ):
        with pytest.raises(BadValue, match=f"for --method {method}. {control} needs --method {able}$"):
            RunConfig.of(method=method, control=control)
    assert ("dense_weight", "--method matching") in RunConfig.of(method="cvsa").idle()


@pytest.mark.parametrize(
    ("control", "values", "acts"),
    [
        ("shuffled-masks", {"align_weight": 0.0}, False), ("shuffled-masks", {"dense_weight": 0.0}, True),
        ("wrong-cells", {"dense_weight": 0.0}, False), ("wrong-cells", {"align_weight": 0.0}, True),
        ("rolled-keys", {"align_weight": 0.0}, True), ("rolled-keys", {"dense_weight": 0.0}, True),
        ("rolled-keys", {"align_weight": 0.0, "dense_weight": 0.0}, False),
        ("direct-head", {"method": "cvsa", "align_weight": 0.0}, False),
    ],
)  # fmt: skip
def test_a_control_of_a_term_without_weight_is_refused(control: str, values: dict, acts: bool) -> None:
    """It would be the plain arm under another name."""
    if acts:
        assert RunConfig.of(control=control, **values).loss.control == control
    else:
        with pytest.raises(BadValue, match="It spoils a term whose weight is 0"):
            RunConfig.of(control=control, **values)
