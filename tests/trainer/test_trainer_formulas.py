"""The parts that methods are made of: targets, queues, rates, presets and diagnoses, each by its formula."""

import math

import pytest
import torch
from test_trainer_methods import DIM, nce, network, one_loss
from trainer_photos import PhotoBatch
from trainer_runs import TINY

from trainer import run
from trainer.config.run import RunConfig
from trainer.engine.diagnostics import diagnose, gradient_ratio
from trainer.engine.optim import build_optimizer, ema_momentum, set_lr
from trainer.methods import base
from trainer.methods.base import Part
from trainer.methods.byol import Alignment, Byol
from trainer.methods.loss_presets import LOSS_PRESETS, LossPreset
from trainer.methods.losses import correspondence
from trainer.methods.moco import MocoV2
from trainer.methods.registry import METHODS
from trainer.methods.simclr import SimClr
from trainer.model.auc import cell_auc
from trainer.model.networks import Heads, Projections, build_model


def test_the_target_moves_by_its_momentum() -> None:
    method = Byol(build_model("resnet10w8", Heads(dim=16, hidden=32, stages=())))
    assert method.target is not None
    with torch.no_grad():
        method.online.encoder.conv1.weight.add_(1)
    before, online = method.target.encoder.conv1.weight.clone(), method.online.encoder.conv1.weight.clone()
    method.after_step(0.9)
    torch.testing.assert_close(method.target.encoder.conv1.weight, 0.9 * before + 0.1 * online)


def test_a_runs_momentum_rises_to_one(demo_boxes, demo_root, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(base, "ema_update", lambda target, online, momentum: seen.append(momentum))
    flags = ["--boxes", str(demo_boxes), "--root", str(demo_root), *TINY, "--epochs", "1", "--pipeline", "kornia"]
    assert run.program([*flags, "--method", "byol", "--no-evaluate", "--out", str(tmp_path / "run")]) == 0
    assert seen == [ema_momentum(step, 3, 0.996) for step in range(3)]
    assert seen[0] == pytest.approx(0.996)
    assert seen[0] < seen[1] < seen[2] < 1


def test_a_queues_momentum_is_constant_and_its_length_the_settings() -> None:
    for name, dim in (("mocov2", DIM), ("instloc", DIM), ("looc", 2 * DIM)):
        method = METHODS[name].build(network(dim), queue=24)
        assert method.momentum(0.5) == 0.999
        assert method.queue.shape == (24, dim)
    assert METHODS["byol"].build(network()).momentum(0.5) == 0.5


def test_moco_contrasts_with_the_queue_as_it_was(photos: PhotoBatch) -> None:
    method = MocoV2(network(), queue=24).double()
    queue = method.queue.clone()
    loss = one_loss(method, photos)
    assert method.target is not None
    q = method.online(photos.views[0].double()).projection
    k = method.target(photos.views[1].double()).projection
    each = [nce(a, b, [*queue], 0.2) for a, b in zip(q, k, strict=True)]
    assert loss.item() == pytest.approx(sum(each) / len(each), rel=1e-5)
    torch.testing.assert_close(
        method.queue[:8].double(), torch.nn.functional.normalize(k.detach(), dim=1), atol=1e-5, rtol=0
    )
    assert torch.equal(method.queue[8:], queue[:16]), "the newest first, the oldest gone"


def test_rates_and_momentum_of_optimizers() -> None:
    layer = torch.nn.Linear(3, 2)
    optimizer = build_optimizer("lars", [layer], 1e-6, 0.9, bias_lr=0.024)
    set_lr(optimizer, 2.0)
    assert [group["lr"] for group in optimizer.param_groups] == [2.0, pytest.approx(0.048)]
    assert [g["momentum"] for g in build_optimizer("sgd", [layer], 1e-4, 0.9).param_groups] == [0.9, 0.9]


def test_presets_and_temperatures() -> None:
    assert LOSS_PRESETS["stable"] == LossPreset("cosine", 0.1, "sum", 1.0, "cover")
    assert LOSS_PRESETS["paper"] == LossPreset("raw", 1.0, "sum", 1.0, "bilinear")
    assert SimClr(network()).temperature == 0.2
    assert MocoV2(network(), 24).temperature == 0.2


@pytest.mark.parametrize(
    ("flag", "field", "value"),
    [("align_weight", "weight", 0.0), ("mask", "mask", "bilinear"), ("scale", "scale", "sqrt"),
     ("reduction", "reduction", "mean"), ("temperature", "temperature", 0.3)],
)  # fmt: skip
def test_an_option_wins_over_its_preset(flag: str, field: str, value: object) -> None:
    assert getattr(RunConfig.of(**{flag: value}).loss.alignment, field) == value


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"freeze_stages": 5}, "freeze_stages=5: must be within 0 and 4"),
        ({"save_every": 0}, "save_every=0: must be greater than 0"),
        ({"momentum": 1.5}, "momentum=1.5: must be within 0 and 1"),
    ],
)
def test_more_impossible_values(values: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        RunConfig.of(**values)


def aligned(photos: PhotoBatch, preset: LossPreset) -> tuple[Byol, Part]:
    heads = Heads(dim=16, hidden=32, conv_hidden=24)
    method = Byol(build_model("resnet10w8", heads), Alignment(preset))
    return method, next(method.parts(photos.views, [{4: photos.masks(i, 8)} for i in range(2)]))


def test_the_gradients_ratio_is_that_of_the_weighted_term(photos: PhotoBatch) -> None:
    one, three = (gradient_ratio(aligned(photos, LossPreset("cosine", 0.1, "sum", w, "cover"))[1], 4) for w in (1, 3))
    assert three.item() == pytest.approx(3 * one.item(), rel=1e-3)


def test_crossview_is_the_fall_with_another_images_keys(photos: PhotoBatch) -> None:
    preset = LOSS_PRESETS["stable"]
    method, part = aligned(photos, preset)
    found = diagnose(method, part)
    assert part.keys is not None
    other = correspondence(part.online.predicted_maps[4], part.keys.maps[4].roll(1, 0), preset)
    fall = cell_auc(part.maps[4], part.masks[4]).nanmean() - cell_auc(other, part.masks[4]).nanmean()
    assert found["crossview"].item() == pytest.approx(fall.item(), abs=1e-6)
    assert fall != 0


def test_saturation_counts_both_ends(photos: PhotoBatch) -> None:
    method, part = aligned(photos, LOSS_PRESETS["stable"])
    low, middle, high = 0.001, 0.5, 0.999
    part.maps[4] = torch.tensor([low, middle, middle, high]).repeat(8, 16).view(8, 8, 8)
    assert diagnose(method, part)["saturated"].item() == pytest.approx(0.5)


def test_rank_is_that_of_the_singular_values() -> None:
    z = torch.randn(40, 12) @ torch.diag(torch.logspace(0, -2, 12)) + 3
    for features in (z, z[:7]):  # more rows than columns, and fewer
        part = Part(torch.zeros(()), {}, Projections({}, features, features, None, {}, {}))
        unit = torch.nn.functional.normalize(features, dim=1)
        share = torch.linalg.svdvals((unit - unit.mean(0)).double())
        share = share / share.sum()
        expected = math.exp(-(share * share.clamp_min(1e-12).log()).sum())
        found = diagnose(Byol(build_model("resnet10w8", Heads(dim=16, hidden=32, stages=()))), part)
        assert found["rank"].item() == pytest.approx(expected, rel=1e-4)
