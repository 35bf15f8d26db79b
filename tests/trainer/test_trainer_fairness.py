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
from trainer.comparison.arms import arm_of, folder_of
from trainer.comparison.checks import check_arm
from trainer.engine.data import Data
from trainer.record import EVALUATION, METRICS


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
