"""Small rules of a run: what is decided, kept, compared and taken up again, each by the case that shows it."""

import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_trainer_choices import CPU
from trainer_runs import TINY, assert_same_run, rows_of

from precompute.base.boxfile import BoxCache
from precompute.base.errors import UsageError, UserError
from precompute.base.options import as_json
from trainer import compare, evaluate, run
from trainer.comparison.arms import arm_of, folder_of
from trainer.comparison.checks import check_arm
from trainer.comparison.table import summarise, table
from trainer.config.choices import Hardware, decide
from trainer.config.run import RunConfig
from trainer.engine.data import Data
from trainer.engine.meter import Meter
from trainer.engine.state import Saver, TrainingState
from trainer.model.resnets import build_encoder
from trainer.model.weights import load_encoder
from trainer.record import EVALUATION, checkpoint, metrics

FLAGS = ["--epochs", "1", "--size", "32", "--batch-size", "16", "--dim", "16", "--device", "cpu"]


def test_warm_up_is_never_longer_than_the_run() -> None:
    settings, reasons = decide(RunConfig.of(epochs=2, warmup_epochs=5.0), 114, 512, CPU)
    assert settings.warmup == settings.steps
    assert any("--warmup-epochs 5 is the whole run" in reason for reason in reasons)


def test_weight_decay_follows_method_and_length() -> None:
    decay = lambda **given: decide(RunConfig.of(**given), 240, 512, CPU)[0].weight_decay  # noqa: E731
    assert (decay(epochs=300), decay(epochs=301)) == (1e-6, 1.5e-6)
    assert decay(method="mocov2") == 1e-4


def test_parts_of_a_batch_are_equal_and_hold_two_images() -> None:
    with pytest.raises(UserError, match="leave at least 2 images each"):
        decide(RunConfig.of(batch_size=2, accumulate=2), 30, 512, CPU)
    settings, _ = decide(RunConfig.of(accumulate=3), 100, 512, CPU)
    assert settings.batch_size % 3 == 0


def test_cards_without_bfloat16_take_float16() -> None:
    assert decide(RunConfig.of(), 1000, 512, Hardware("cuda:0", "T4", bf16=False))[0].amp == "fp16"
    assert decide(RunConfig.of(), 1000, 512, Hardware("cuda:0", "A100", bf16=True))[0].amp == "bf16"


def test_a_journals_lists_hold_no_nan() -> None:
    assert metrics.finite({"a": [1.0, (float("nan"), float("inf"))]}) == {"a": [1.0, [None, None]]}


def test_where_there_are_no_links_the_predecessor_is_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refused)
    for step in (1, 2, 3):
        checkpoint.save(tmp_path, {"step": step})
    assert checkpoint.load(tmp_path / checkpoint.PREVIOUS)["step"] == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == [checkpoint.PREVIOUS, checkpoint.NAME]


def test_half_written_checkpoints_are_swept_away(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, {"step": 1})
    (tmp_path / f".{checkpoint.NAME}.k1ll3d.tmp").touch()
    assert checkpoint.load_latest(tmp_path)[0]["step"] == 1
    assert [p.name for p in tmp_path.iterdir()] == [checkpoint.NAME]


def test_draws_within_steps_go_on_where_they_were(demo_boxes: Path, demo_root: Path, tmp_path: Path) -> None:
    """Rel-Loc draws its jitter in the step, from torch's generator; a continuation may log and save otherwise."""
    flags = ["--boxes", str(demo_boxes), "--root", str(demo_root), *TINY, "--pipeline", "kornia", "--epochs", "1",
             "--save-every", "1", "--no-evaluate", "--method", "relloc", "--policy", "rrc", "--size", "48"]  # fmt: skip
    unbroken, out = tmp_path / "unbroken", tmp_path / "run"
    for folder in (unbroken, out):
        assert run.program([*flags, "--out", str(folder)]) == 0
    os.replace(out / checkpoint.PREVIOUS, out / checkpoint.NAME)  # of step 2 of 3
    assert run.program(["--resume", str(out), "--log-every", "2", "--save-every", "2"]) == 0
    assert [row["loss"] for row in rows_of(out)] == [row["loss"] for row in rows_of(unbroken)]
    os.replace(out / checkpoint.PREVIOUS, out / checkpoint.NAME)
    torch.manual_seed(123)
    assert run.program(["--resume", str(out), "--log-every", "1", "--save-every", "1"]) == 0
    assert_same_run(out, unbroken)


def state_of(scaler: torch.amp.GradScaler) -> TrainingState:
    network = torch.nn.Linear(2, 2)
    method = torch.nn.Module()
    method.online = network
    loader = SimpleNamespace(state_dict=dict, load_state_dict=lambda state: None)
    settings, _ = decide(RunConfig.of(), 240, 512, CPU)
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    return TrainingState(RunConfig.of(), settings, method, optimizer, scaler, loader, Meter(), {})  # type: ignore[arg-type]


def test_the_gradient_scale_goes_on_where_it_was(tmp_path: Path) -> None:
    state = state_of(torch.amp.GradScaler("cpu", init_scale=8.0))
    state.scaler.scale(torch.ones(()))  # the scale is made at its first use
    kept = checkpoint.Resumed(state.state_dict(), tmp_path / "checkpoint.pt", None)
    fresh = state_of(torch.amp.GradScaler("cpu"))
    fresh.restore(kept)
    assert fresh.scaler.get_scale() == 8.0


def test_weights_that_are_no_numbers_never_become_the_good_checkpoint(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, {"step": 7})
    state = state_of(torch.amp.GradScaler("cpu", enabled=False))
    state.check_finite({"loss": 1.0}, tmp_path, weights=True)
    with torch.no_grad():
        state.method.online.weight[0, 0] = float("nan")  # type: ignore[index]
    with pytest.raises(UserError, match=r"weights nan.*step 7"):
        state.check_finite({"loss": 1.0}, tmp_path, weights=True)


def test_checkpoints_are_due_by_the_clock(tmp_path: Path) -> None:
    saver = Saver(tmp_path, None, True)
    now = saver.last
    assert not saver.late()
    saver.last = now - 61
    assert saver.late()
    saver.cost = 10.0  # a fiftieth of the time at most
    assert not saver.late()
    saver.last = now - 501
    assert saver.late()
    assert [step for step in range(1, 7) if Saver(tmp_path, 3, True).due(step)] == [3, 6]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(value: float, tmp_path: Path) -> None:
    weights = build_encoder("resnet10w4").state_dict()
    weights["bn1.weight"][0] = value
    torch.save(weights, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"not finite: bn1\.weight"):
        load_encoder(tmp_path / "w.pth", "resnet10w4")


@pytest.mark.parametrize(("averaged", "other"), [("ema", "network"), ("teacher", "student"), ("key", "query")])
def test_of_two_copies_the_one_that_trained_is_not_overlooked(averaged: str, other: str, tmp_path: Path) -> None:
    weights = build_encoder("resnet10w4").state_dict()
    both = {f"{averaged}.{k}": torch.zeros_like(v) for k, v in weights.items()}
    torch.save(both | {f"{other}.{k}": v for k, v in weights.items()}, tmp_path / "w.pth")
    encoder, _, remark = load_encoder(tmp_path / "w.pth", "resnet10w4")
    assert all(torch.equal(v, weights[k]) for k, v in encoder.state_dict().items())
    assert averaged in remark, "what was left over is said"


def test_of_a_dino_checkpoint_the_teacher_is_taken(tmp_path: Path) -> None:
    weights = build_encoder("resnet10w4").state_dict()
    torch.save(
        {"student": {k: torch.zeros_like(v) for k, v in weights.items()}, "teacher": weights}, tmp_path / "w.pth"
    )
    encoder, _, _ = load_encoder(tmp_path / "w.pth", "resnet10w4")
    assert all(torch.equal(v, weights[k]) for k, v in encoder.state_dict().items())


def test_a_sets_digest_is_of_all_its_boxes(demo_boxes: Path, demo_root: Path) -> None:
    cache = BoxCache.open(demo_boxes)
    boxes = cache.boxes[:].copy()
    boxes[-1] = np.float32([0.1, 0.2, 0.3, 0.4])
    digests = {Data(c, demo_boxes, demo_root).identity()["digest"] for c in (cache, replace(cache, boxes=boxes))}
    assert len(digests) == 2


@pytest.fixture
def done(demo_boxes: Path, demo_root: Path, tmp_path: Path) -> list[str]:
    """Flags of a comparison's runs, of which seed 1 lies evaluated in tmp_path, by its files; no checkpoint is left."""
    flags = ["--boxes", str(demo_boxes), "--root", str(demo_root), *FLAGS]
    config = arm_of("byol:rrc", flags, tmp_path).config(1)
    data = Data(BoxCache.open(demo_boxes), demo_boxes, demo_root).identity()
    header = {"kind": "config", "config": as_json(config), "settings": {}, "about": {"data": data}}
    folder = folder_of("byol:rrc", 1, tmp_path)
    folder.mkdir()
    (folder / metrics.NAME).write_text(json.dumps(header) + "\n")
    (folder / EVALUATION).write_text("{}")
    return flags


@pytest.mark.parametrize(
    "other", [["--size", "48"], ["--batch-size", "8"], ["--amp", "bf16"], ["--dim", "8"], ["--epochs", "2"]], ids=str
)
def test_a_run_of_other_settings_is_no_part_of_a_comparison(done: list[str], other: list[str], tmp_path: Path) -> None:
    """Also one whose checkpoints were deleted; and it shows before the first seed has trained."""
    check_arm([arm_of("byol:rrc", done, tmp_path).config(1)])
    command = ["--arms", "byol:rrc", "--seeds", "2", "--out", str(tmp_path), "--", *done, *other]
    with pytest.raises(
        UserError, match=f"seed1 was trained with {other[0]} .*and now it would be {other[0]} {other[1]}"
    ):
        compare.program(command)
    assert not folder_of("byol:rrc", 0, tmp_path).exists()


def test_a_control_for_all_arms_is_refused_in_either_spelling(tmp_path: Path) -> None:
    for flags in (["--control", "rolled-keys"], ["--control=rolled-keys"]):
        with pytest.raises(UsageError, match="--control after --"):
            compare.program(["--arms", "cvsa:saliencyswap", "--out", str(tmp_path), "--", *flags])


def written(tmp_path: Path, *evaluations: dict) -> dict:
    """The summary of one arm's runs with these evaluations."""
    for seed, evaluation in enumerate(evaluations):
        folder = folder_of("cvsa:saliencyswap", seed, tmp_path)
        folder.mkdir()
        (folder / EVALUATION).write_text(json.dumps(evaluation))
    return summarise(["cvsa:saliencyswap"], range(len(evaluations)), "cvsa:saliencyswap", tmp_path, [])


def test_rolled_keys_that_do_harm_are_a_fall(tmp_path: Path) -> None:
    runs = [
        {"knn": None, "localisation": {"views: C map": {"auc": c}, "views: C map, another image's keys": {"auc": r}}}
        for c, r in ((0.9, 0.7), (0.8, 0.59))
    ]
    result = written(tmp_path, *runs)
    assert result["rolled_keys"]["cvsa:saliencyswap"]["mean"] == pytest.approx(-0.205)
    assert "some correspondence" in table(result)


def test_a_comparison_that_was_stopped_says_how_to_go_on(
    done: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("trainer.train.train", lambda *_, **__: 130)
    assert compare.program(["--arms", "byol:rrc", "--seeds", "1", "--out", str(tmp_path), "--", *done]) == 130
    assert "give the same trainer.compare command again" in capsys.readouterr().out


def test_a_gallery_is_a_png() -> None:
    with pytest.raises(UsageError, match=r"--gallery sheet\.txt: must end in \.png"):
        evaluate.program(["random", "--arch", "resnet10w4", "--gallery", "sheet.txt"])


def test_a_measure_that_one_seed_lacks_is_left_out(tmp_path: Path) -> None:
    runs = {"knn": {"accuracy": 0.5}, "localisation": None}, {"knn": None, "localisation": None}
    assert written(tmp_path, *runs)["measures"] == {}
