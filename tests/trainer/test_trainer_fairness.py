"""What makes a comparison unfair: refused before it trains, or said beside its figures."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from trainer_runs import TINY, other_boxes

from precompute.base.boxfile import BoxCache
from precompute.base.errors import UserError
from precompute.base.options import as_json
from trainer import compare
from trainer.comparison.arms import arm_of, folder_of
from trainer.comparison.checks import check_arm
from trainer.comparison.table import summarise
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
