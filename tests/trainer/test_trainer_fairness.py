"""What makes a comparison unfair: refused before it trains, or said beside its figures."""

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from trainer_runs import TINY, other_boxes

from precompute.base.boxfile import BoxCache
from precompute.base.errors import UserError
from precompute.base.options import as_json
from trainer import compare
from trainer.comparison.arms import arm_of, folder_of
from trainer.comparison.checks import check_arm, check_arms
from trainer.comparison.table import summarise, table
from trainer.engine.data import Data
from trainer.record import CHECKPOINT, EVALUATION, METRICS, PREVIOUS


@pytest.fixture
def flags(demo_boxes: Path, demo_root: Path) -> list[str]:
    return ["--boxes", str(demo_boxes), "--root", str(demo_root), *TINY, "--epochs", "1"]


@pytest.fixture
def begun(flags: list[str], demo_boxes: Path, demo_root: Path, tmp_path: Path) -> Callable[..., Path]:
    """`begun("byol:rrc", seed, evaluation={}, ...)`: such a run by its files, evaluated; its other arguments are of the
    header. No checkpoint is left.
    """

    def make(name: str, seed: int = 0, evaluation: Any = None, **more: Any) -> Path:
        config = arm_of(name, flags, tmp_path).config(seed)
        data = Data(BoxCache.open(demo_boxes), demo_boxes, demo_root).identity()
        header = {"kind": "config", "config": as_json(config), "settings": {}, "about": {"data": data}, **more}
        folder = folder_of(name, seed, tmp_path)
        folder.mkdir()
        (folder / METRICS).write_text(json.dumps(header) + "\n")
        (folder / EVALUATION).write_text(json.dumps(evaluation or {}))
        return folder

    return make


@pytest.mark.parametrize(
    ("what", "match"), [("labels", "splits or labels"), ("splits", "splits or labels"), ("boxes", "pictures or boxes")]
)
def test_runs_of_other_held_out_pictures_or_labels_are_refused(
    what: str, match: str, flags: list[str], begun: Callable, demo_boxes: Path, tmp_path: Path
) -> None:
    folder = begun("byol:rrc")
    check_arm([arm_of("byol:rrc", flags, tmp_path).config(0)])
    other = arm_of("byol:rrc", [*flags, *other_boxes(demo_boxes, tmp_path / "other.h5", what)], tmp_path)
    with pytest.raises(UserError, match=f"seed0 was trained on other {match} .*name another --out"):
        check_arm([other.config(0)])
    if what != "boxes":  # an older run's header does not tell
        (folder / METRICS).write_text((folder / METRICS).read_text().replace('"sorting"', '"unknown"'))
        check_arm([other.config(0)])


DAMAGED = {EVALUATION: "[]", METRICS: None}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_run_whose_files_are_damaged_is_evaluated_again_or_named(
    name: str, flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    command = ["--arms", "byol:rrc", "--seeds", "1", "--out", str(tmp_path), "--show", "kNN accuracy", "--"]
    folder = folder_of("byol:rrc", 0, tmp_path)
    assert compare.program([*command, *flags]) == 0
    before = json.loads((folder / EVALUATION).read_text())
    (folder / name).unlink() if DAMAGED[name] is None else (folder / name).write_text(DAMAGED[name])
    if name == METRICS:  # the checkpoint tells the flags too
        with pytest.raises(UserError, match="seed0 was trained with --size 32, and now it would be --size 48"):
            compare.program([*command, *flags, "--size", "48"])
    assert compare.program([*command, *flags]) == 0
    assert "nothing is left to train" in capsys.readouterr().out
    assert json.loads((folder / EVALUATION).read_text()) == before
    assert (folder / METRICS).exists()
    for left in (CHECKPOINT, PREVIOUS):
        (folder / left).unlink()
    (folder / name).unlink() if DAMAGED[name] is None else (folder / name).write_text("{")
    with pytest.raises(UserError, match=rf"seed0/{name}: missing or damaged, and there is no checkpoint .*remove "):
        compare.program([*command, *flags])


def test_figures_of_another_kind_are_no_figures(tmp_path: Path) -> None:
    for seed, text in enumerate(('{"knn": {"accuracy": 0.5}}', '{"knn": ["accuracy"], "localisation": "none"}', "[]")):
        folder_of("byol:rrc", seed, tmp_path).mkdir()
        (folder_of("byol:rrc", seed, tmp_path) / EVALUATION).write_text(text)
    assert summarise(["byol:rrc"], range(2), "byol:rrc", tmp_path, [])["measures"] == {}
    with pytest.raises(UserError, match=r"seed2/evaluation.json is missing or damaged\. Give the same"):
        summarise(["byol:rrc"], range(3), "byol:rrc", tmp_path, [])


def test_arms_of_other_held_out_pictures_are_refused_before_they_train(
    flags: list[str], demo_boxes: Path, tmp_path: Path
) -> None:
    by_labels = " ".join(other_boxes(demo_boxes, tmp_path / "other.h5", "labels"))
    out = tmp_path / "runs"
    for own, match in (
        ("--train-split test/fit --eval-split test/dev", "on split test and arm .* on split test/dev with other"),
        (by_labels, "on split test and arm .* on split test with other pictures or labels.*Give all arms the same"),
    ):
        with pytest.raises(UserError, match=match):
            compare.program(["--arms", "byol:rrc", f"byol:rrc {own}", "--seeds", "1", "--out", str(out), "--", *flags])
    assert not out.exists()
    by_boxes = " ".join(other_boxes(demo_boxes, tmp_path / "boxes.h5", "boxes"))  # of the same pictures: as detectors'
    check_arms([arm_of(name, flags, out) for name in ("byol:rrc", f"byol:rrc {by_boxes}")], range(1))


@pytest.mark.parametrize(
    ("other", "match"),
    [
        ({"eval_split": "val"}, "seed0 was evaluated on split test and .*seed1 on split val: no fair comparison"),
        ({"knn": {"accuracy": 0.5, "images": 20}}, "on 60 pictures and .*seed1 on 20 pictures: .*Remove evaluation.js"),
    ],
    ids=("split", "images"),
)
def test_evaluations_of_other_pictures_are_not_paired(
    other: dict[str, Any], match: str, begun: Callable, tmp_path: Path
) -> None:
    usual = {"eval_split": "test", "knn": {"accuracy": 0.5, "images": 60}}
    for seed, more in enumerate(({}, other)):
        begun("byol:rrc", seed, usual | more)
    with pytest.raises(UserError, match=match):
        summarise(["byol:rrc"], range(2), "byol:rrc", tmp_path, [])


def test_pictures_that_some_evaluations_left_out_are_named(begun: Callable, tmp_path: Path) -> None:
    bad = {"twin.jpg": "equals another"}, {"twin.jpg": "equals another", "bad\n.jpg": "changed since"}
    for seed, left_out in enumerate(bad):
        knn = {"accuracy": 0.5, "images": 60 - len(left_out)}
        begun("byol:rrc", seed, {"eval_split": "test", "knn": knn, "left_out": left_out})
    result = summarise(["byol:rrc"], range(2), "byol:rrc", tmp_path, [])
    assert result["left_out"] == {"byol-rrc-seed1": ["bad\n.jpg"]}
    for shown in ((), ("kNN accuracy",)):
        (note,) = (line for line in table(result, shown).splitlines() if line.startswith("note: 1 run left out pict"))
        assert "(byol-rrc-seed1)" in note
    assert summarise(["byol:rrc"], range(1), "byol:rrc", tmp_path, [])["left_out"] == {}


CHOSEN = {"batch_size": 16, "steps": 3, "amp": "off", "peak_lr": 2.4, "log_every": 1}  # by the flags, on a CPU


@pytest.mark.parametrize(
    ("arms", "settings", "match"),
    [
        (
            ("byol:rrc",),
            {"amp": "bf16"},
            "byol-rrc-seed0 and .*byol-rrc-seed1 have other settings: amp bf16 and off: no",
        ),
        (("byol:rrc",), {"peak_lr": 0.6}, "byol-rrc-seed0 and .*seed1 have other settings: peak_lr 0.6 and 2.4: .*-lr"),
        (("byol:rrc",), {"log_every": 7}, None),
        (
            ("simclr:rrc",),
            {"amp": "bf16", "steps": 4},
            "byol-rrc-seed0 and .*simclr-rrc-seed0 have .*: steps 4 and 3: ",
        ),
        (("simclr:rrc --amp off",), {"amp": "bf16"}, None),
        (
            ("simclr:rrc --amp off", "mocov2:rrc"),
            {"amp": "bf16"},
            "byol-rrc-seed0 and .*mocov2-rrc-seed0 .*bf16 and off",
        ),
        (("simclr:rrc --epochs 2", "mocov2:rrc"), {"peak_lr": 0.6}, None),
    ],
    ids=str,
)
def test_runs_that_chose_other_settings_are_refused(
    arms: tuple[str, ...],
    settings: dict[str, Any],
    match: str | None,
    flags: list[str],
    begun: Callable,
    tmp_path: Path,
) -> None:
    """An earlier run on another device beside those that would train here."""
    begun("byol:rrc", settings=CHOSEN | settings)
    seeds = range(2 if arms == ("byol:rrc",) else 1)
    names = dict.fromkeys(("byol:rrc", *arms))
    with pytest.raises(UserError, match=match) if match else nullcontext():
        check_arms([arm_of(name, flags, tmp_path) for name in names], seeds)
