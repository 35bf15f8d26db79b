"""TensorBoard's event files say what metrics.jsonl says, also after a resume; without TensorBoard the run says so."""

import importlib.util
from pathlib import Path

import pytest

from precompute.base.errors import UserError
from trainer.record import metrics
from trainer.record.tensorboard import FOLDER
from trainer.run import program


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Tag → (step, value) of all event files, read by TensorBoard itself."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    reader = accumulator.EventAccumulator(str(folder))
    reader.Reload()
    tags = reader.Tags()["tensors"]
    return {tag: [(e.step, e.tensor_proto.float_val[0]) for e in reader.Tensors(tag)] for tag in tags}


def test_the_board_shows_the_journal_and_a_resumed_run_no_step_twice(
    demo_boxes: Path, demo_root: Path, tmp_path: Path
) -> None:
    pytest.importorskip("tensorboard")
    out = tmp_path / "run"
    flags = ["--boxes", str(demo_boxes), "--root", str(demo_root), "--arch", "resnet10w8", "--size", "32",
             "--device", "cpu", "--batch-size", "16", "--pipeline", "kornia", "--workers", "1",
             "--out", str(out)]  # fmt: skip
    assert program([*flags, "--epochs", "2", "--log-every", "1", "--tensorboard"]) == 0
    rows = metrics.read(out / metrics.NAME)
    found = scalars(out / FOLDER)
    for name in ("loss", "alignment", "lr"):
        assert [step for step, _ in found[name]] == [1, 2, 3, 4, 5, 6]
        assert [value for _, value in found[name]] == pytest.approx([r[name] for r in rows if r["kind"] == "step"])
    assert found["evaluation/knn/accuracy"] == [(6, pytest.approx(rows[-1]["knn"]["accuracy"]))]
    assert program(["--resume", str(out)]) == 0  # it has ended: only its evaluation is done again
    again = scalars(out / FOLDER)
    assert {k: v for k, v in again.items() if k in ("loss", "lr")} == {k: found[k] for k in ("loss", "lr")}
    assert len(again["evaluation/knn/accuracy"]) == 1


def test_without_tensorboard_nothing_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'saliencyswap\[tensorboard\]'"):
        program(["--dataset", "demo", "--out", str(tmp_path / "run"), "--tensorboard"])
    assert not (tmp_path / "run").exists()
