"""Diagnoses on real photographs: healthy where the net is, alarming where it is not; FLOPs against the literature."""

import math

import pytest
import torch
from trainer_photos import PhotoBatch

from trainer.engine.cost import peak_flops, step_flops
from trainer.engine.diagnostics import (
    collapse_warning,
    diagnose,
    feature_health,
    gradient_ratio,
    matching_warning,
    no_background,
)
from trainer.methods.byol import Alignment, Byol
from trainer.methods.loss_presets import LOSS_PRESETS
from trainer.model.networks import Heads, build_model, freeze_stages

HEADS = Heads(dim=16, hidden=32, conv_hidden=24)


def test_gradient_ratio_equals_two_backwards(photos: PhotoBatch) -> None:
    method = Byol(build_model("resnet10w8", HEADS), Alignment(LOSS_PRESETS["stable"]))
    part = next(method.parts(photos.views, [{4: photos.masks(i, 8)} for i in range(2)]))
    z = part.online.z[4]
    z.retain_grad()
    norms = []
    for name in ("alignment", "contrastive"):
        z.grad = None
        part.terms[name].backward(retain_graph=True)
        assert z.grad is not None
        norms.append(z.grad.norm())
    assert gradient_ratio(part, 4).item() == pytest.approx((norms[0] / norms[1]).item(), rel=1e-4)


@pytest.mark.parametrize("frozen", [0, 3, 4])
def test_stage_3_is_held_against_its_own_contrastive_gradient(photos: PhotoBatch, frozen: int) -> None:
    heads = Heads(dim=16, hidden=32, conv_hidden=24, stages=(3,))
    method = Byol(build_model("resnet10w8", heads), Alignment(LOSS_PRESETS["stable"]))
    freeze_stages(method.online, frozen)
    part = next(method.parts(photos.views, [{3: photos.masks(i, 8)} for i in range(2)]))
    found = diagnose(method, part)
    assert ("gradient_ratio" in found) == (frozen == 0)
    if frozen == 0:
        z = part.online.z[3]
        pair = (torch.autograd.grad(part.terms[n], z, retain_graph=True)[0] for n in ("alignment", "contrastive"))
        align, contrastive = (g.norm().item() for g in pair)
        assert found["gradient_ratio"].item() == pytest.approx(align / contrastive, rel=1e-4)


def test_diagnoses_of_a_fresh_network(photos: PhotoBatch) -> None:
    method = Byol(build_model("resnet10w8", HEADS), Alignment(LOSS_PRESETS["stable"]))
    part = next(method.parts(photos.views, [{4: photos.masks(i, 8)} for i in range(2)]))
    found = {k: v.item() for k, v in diagnose(method, part).items()}
    assert set(found) == {
        "feature_std",
        "rank",
        "saturated",
        "c_auc",
        "gradient_ratio",
        "crossview",
        "own_beats_rolled",
    }
    assert all(math.isfinite(v) for v in found.values())
    assert 0 <= found["saturated"] <= 1
    part.loss.backward()  # the graph is still there
    assert method.online.encoder.conv1.weight.grad is not None


def test_vanished_backgrounds_are_counted(photos: PhotoBatch) -> None:
    assert no_background(photos.rects[:, 0], photos.size) == 0
    rects = torch.cat([photos.rects[:6, 0], torch.tensor([[0, 0, 64, 64], [1, 0, 64, 63]])])
    assert no_background(rects, 64) == 0.25


def test_collapse_is_noticed() -> None:
    spread, point = torch.randn(64, 32), torch.ones(64, 32) + 1e-4 * torch.randn(64, 32)
    healthy, sick = ({k: v.item() for k, v in feature_health(x).items()} for x in (spread, point))
    assert healthy["feature_std"] == pytest.approx(1, abs=0.1)
    assert healthy["rank"] > 25
    assert collapse_warning(healthy, 64) is None
    assert "collapsing" in str(collapse_warning(sick, 64))
    line = {k: v.item() for k, v in feature_health(torch.randn(64, 1) * torch.randn(1, 32)).items()}
    assert "collapsing" in str(collapse_warning(line, 64))


def test_few_images_are_no_collapse() -> None:
    for images in (2, 3, 4):  # whose centred features span 1, 2, 3 directions
        spread = torch.randn(images, 256)
        healthy, sick = ({k: v.item() for k, v in feature_health(x).items()} for x in (spread, 1 + 1e-3 * spread))
        assert collapse_warning(healthy, images) is None
        assert "collapsing" in str(collapse_warning(sick, images))


def test_a_dense_loss_without_cells_is_noticed() -> None:
    nowhere = {"dense": 0.0, "matched": float("nan")}
    assert "learns nothing" in str(matching_warning(nowhere))
    assert matching_warning(nowhere | {"matched": 0.0}) is None
    assert matching_warning({"matched": float("nan")}) is None  # of methods without that loss


def test_flops_agree_with_the_findings() -> None:
    """73.7 GFLOP per source image for ResNet-50 CVSA and 32.3 for ResNet-18 are stated for 4096-wide conv heads."""
    heads = Heads(dim=256, hidden=4096, conv_hidden=512)
    for arch, stated in (("resnet18", 32.3e9), ("resnet50", 73.7e9)):
        method = Byol(build_model(arch, heads), Alignment(LOSS_PRESETS["stable"]))
        assert 0.85 * stated < step_flops(method, 224) < stated
    assert peak_flops("NVIDIA H200", "bf16") == 989e12
    assert peak_flops("NVIDIA H200", "off") is None
    assert peak_flops("CPU", "bf16") is None
