"""Eqs 3-7 against a double loop written from the paper, in float64; gradients where they belong."""

import math

import pytest
import torch
from torch import Tensor
from trainer_photos import PhotoBatch

from trainer.methods.byol import Alignment, Byol
from trainer.methods.loss_presets import LOSS_PRESETS, LossPreset
from trainer.methods.losses import (
    alignment_loss,
    attention,
    bilinear_masks,
    correspondence,
    info_nce,
    negative_cosine,
    nt_xent,
    relative_correspondence,
)
from trainer.model.networks import Heads, build_model

HEADS = Heads(dim=16, hidden=32, conv_hidden=24)
SCALES = [
    LossPreset("raw", 1, "sum", 1, "cover"),
    LossPreset("sqrt", 1, "mean", 0.5, "cover"),
    LossPreset("cosine", 0.1, "sum", 2, "cover"),
    LossPreset("cosine", 0.1, "scaled", 2, "cover"),
]


def slow_alignment(query: Tensor, key: Tensor, mask: Tensor, preset: LossPreset) -> float:
    """One term of Eq. 5 from Eqs 3 and 4, cell by cell: [N, d, H, W] twice and [N, H, W]."""
    n, d, height, width = query.shape
    total = 0.0
    for i in range(n):
        for y in range(height):
            for x in range(width):
                best = -math.inf
                for v in range(height):
                    for u in range(width):
                        p, h = query[i, :, y, x].tolist(), key[i, :, v, u].tolist()
                        a = sum(s * t for s, t in zip(p, h, strict=True))
                        if preset.scale == "sqrt":
                            a /= math.sqrt(d)
                        if preset.scale == "cosine":
                            a /= math.hypot(*p) * math.hypot(*h) * preset.temperature
                        best = max(best, 1 / (1 + math.exp(-a)))
                total += (mask[i, y, x].item() - best) ** 2
    return total / n * {"sum": 1, "mean": 1 / (height * width), "scaled": 36 / (height * width)}[preset.reduction]


@pytest.mark.parametrize("preset", SCALES, ids=lambda p: p.scale)
def test_alignment_equals_the_double_loop(preset: LossPreset) -> None:
    query, key = torch.randn(2, 3, 6, 4, 3, dtype=torch.float64)
    mask = torch.rand(3, 4, 3, dtype=torch.float64)
    fast = alignment_loss(correspondence(query, key, preset), mask, preset.reduction)
    assert fast.item() == pytest.approx(slow_alignment(query, key, mask, preset), rel=1e-12)


@pytest.mark.parametrize("preset", SCALES, ids=lambda p: p.scale)
def test_relative_correspondence_is_what_other_images_keys_do_not_give(preset: LossPreset) -> None:
    """Own keys, and another image's, against a loop over pairs in float64."""
    query, key = torch.randn(2, 3, 6, 4, 3, dtype=torch.float64)
    own = torch.tensor([[0, 1, 2], [2, 0, 1]])
    found = relative_correspondence(query, key, own, preset)
    assert found.shape == (2, 3, 4, 3)
    best = [[attention(query[n][None], key[m][None], preset)[0].amax(1) for m in range(3)] for n in range(3)]
    for row, paired in zip(found, own.tolist(), strict=True):
        for n, m in enumerate(paired):
            others = torch.stack([best[n][o] for o in range(3) if o != m])
            expected = best[n][m] - others.exp().mean(0).log()
            torch.testing.assert_close(row[n].flatten(), expected)
    alike = relative_correspondence(query, key[:1].expand_as(key), own[:1], preset)
    torch.testing.assert_close(alike, torch.zeros_like(alike), msg="equal keys give no picture an advantage")


@pytest.mark.parametrize("preset", SCALES, ids=lambda p: p.scale)
def test_the_whole_objective_equals_eqs_6_and_7(preset: LossPreset, photos: PhotoBatch) -> None:
    """Forward of the real networks in float64, the loss once by `Byol.parts` and once by hand."""
    method = Byol(build_model("resnet10w8", HEADS).double(), Alignment(preset))
    views = [v.double() for v in photos.views]
    masks = [{4: photos.masks(i, 8).double()} for i in range(2)]
    with torch.no_grad():
        out, keys = [method.online(v) for v in views], [method.target(v) for v in views]  # type: ignore[misc]
        expected = 0.0
        for q, k in ((0, 1), (1, 0)):
            for p, h in zip(out[q].prediction.tolist(), keys[k].projection.tolist(), strict=True):
                dot = sum(s * t for s, t in zip(p, h, strict=True))
                expected -= 0.5 * dot / (math.hypot(*p) * math.hypot(*h)) / len(views[0])
            align = slow_alignment(out[q].predicted_maps[4], keys[k].maps[4], masks[q][4], preset)
            expected += preset.weight * align
        total = sum(part.loss.item() for part in method.parts(views, masks))
    assert total == pytest.approx(expected, rel=1e-9)


def test_gradients_flow_where_the_method_says(photos: PhotoBatch) -> None:
    method = Byol(build_model("resnet10w8", HEADS), Alignment(LOSS_PRESETS["stable"]))
    masks = [{4: photos.masks(i, 8)} for i in range(2)]
    for part in method.parts(photos.views, masks):
        part.terms["alignment"].backward()
    assert method.target is not None
    assert all(p.grad is None and not p.requires_grad for p in method.target.parameters())
    reached = {name.split(".")[0] for name, p in method.online.named_parameters() if p.grad is not None}
    assert reached == {"encoder", "conv_projector", "conv_predictor"}  # the MLP heads belong to Eq. 6 alone
    method.zero_grad()
    for part in method.parts(photos.views, masks):
        part.loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in method.online.parameters())


def test_parts_give_the_gradient_of_the_whole(photos: PhotoBatch) -> None:
    """backward per part (half the memory) equals one backward of the sum."""
    grads = []
    for one_by_one in (True, False):
        method = Byol(build_model("resnet10w8", HEADS).double(), Alignment(LOSS_PRESETS["stable"]))
        masks = [{4: photos.masks(i, 8).double()} for i in range(2)]
        parts = method.parts([v.double() for v in photos.views], masks)
        if one_by_one:
            for part in parts:
                part.loss.backward()
        else:
            torch.stack([part.loss for part in parts]).sum().backward()
        grads.append([p.grad for p in method.online.parameters()])
    torch.testing.assert_close(grads[0], grads[1])


def test_controls_change_what_they_say(photos: PhotoBatch) -> None:
    masks = [{4: photos.masks(i, 8)} for i in range(2)]
    maps, losses = {}, {}
    for control in ("none", "shuffled-masks", "rolled-keys", "direct-head"):
        heads = Heads(dim=16, hidden=32, conv_hidden=24, direct=control == "direct-head")
        method = Byol(build_model("resnet10w8", heads), Alignment(LOSS_PRESETS["stable"], control))
        first = next(method.parts(photos.views, masks))
        maps[control], losses[control] = first.maps[4], first.terms["alignment"].item()
        torch.testing.assert_close(first.masks[4], masks[0][4])  # what is reported is the true mask
        assert bool(method.target.conv_projector) != (control == "direct-head")  # type: ignore[union-attr]
    torch.testing.assert_close(maps["none"], maps["shuffled-masks"])
    expected = alignment_loss(maps["none"], masks[0][4].roll(1, 0)).item()
    assert losses["shuffled-masks"] == pytest.approx(expected)
    assert not torch.allclose(maps["none"], maps["rolled-keys"])


def test_alignment_is_float32_under_autocast() -> None:
    query, key = torch.randn(2, 4, 256, 7, 7)
    exact = correspondence(query.double(), key.double(), LOSS_PRESETS["paper"])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = correspondence(query, key, LOSS_PRESETS["paper"])
        assert attention(query, key, LOSS_PRESETS["paper"]).dtype == torch.float32
    torch.testing.assert_close(ours, exact.float(), atol=1e-5, rtol=0)


def test_bilinear_masks_are_the_letter() -> None:
    """A one-pixel object between the four samples of a cell vanishes, which is why it is not the default."""
    rects = torch.tensor([[0, 0, 64, 64], [1, 1, 2, 2], [8, 16, 40, 48]])
    masks = bilinear_masks(rects, size=64, grid=8)
    assert masks.shape == (3, 8, 8)
    assert masks[0].min() == 1
    assert masks[1].max() == 0
    assert masks[2].sum() == 16


def test_info_nce_and_nt_xent_equal_their_formulas() -> None:
    q, p = torch.nn.functional.normalize(torch.randn(2, 5, 8, dtype=torch.float64), dim=2)
    queue = torch.nn.functional.normalize(torch.randn(11, 8, dtype=torch.float64), dim=1)
    expected = 0.0
    for i in range(5):
        scores = [math.exp(float(q[i] @ p[i]) / 0.2), *(math.exp(float(q[i] @ n) / 0.2) for n in queue)]
        expected -= math.log(scores[0] / sum(scores)) / 5
    assert info_nce(q, p, queue, 0.2).item() == pytest.approx(expected)
    z = torch.cat([q, p])
    expected = 0.0
    for i in range(10):
        others = [math.exp(float(z[i] @ z[j]) / 0.5) for j in range(10) if j != i]
        expected -= math.log(math.exp(float(z[i] @ z[(i + 5) % 10]) / 0.5) / sum(others)) / 10
    assert nt_xent(q, p, 0.5).item() == pytest.approx(expected)
    assert negative_cosine(q, q).item() == pytest.approx(-1)


@pytest.mark.parametrize("wrong", ["scale", "reduction"])
def test_unknown_settings_name_the_valid_ones(wrong: str) -> None:
    x = torch.ones(1, 2, 2, 2)
    call = {
        "scale": lambda: attention(x, x, LossPreset("tets", 1, "sum", 1, "cover")),
        "reduction": lambda: alignment_loss(x[:, 0], x[:, 0], "tets"),
    }[wrong]
    with pytest.raises(ValueError, match=f"Unknown value 'tets' for {wrong}. Valid values are"):
        call()
