"""The recipes of the committed results: programs take all their flags, and every committed result has a recipe."""

import importlib
from pathlib import Path

import pytest

from benchmarks import results, suite
from precompute.base.errors import UsageError, UserError

ALL = [(device, name) for device, recipes in suite.RECIPES.items() for name in recipes]


@pytest.mark.parametrize(("device", "name"), ALL, ids=[name for _, name in ALL])
def test_recipes_are_understood(device: str, name: str, tmp_path: Path) -> None:
    module, *flags = suite.RECIPES[device][name]
    missing = ["--dataset", "cub"] if module == "search" else ["--boxes", str(tmp_path / "missing.h5")]
    missing += ["--old", str(tmp_path / "missing")] if module == "versions" else []
    flags = [*flags, *missing, "--root", str(tmp_path / "missing"), *(["--rounds", "1"] * (module == "throughput"))]
    with pytest.raises(UserError) as caught:
        importlib.import_module(f"benchmarks.{module}").program(flags)
    assert not isinstance(caught.value, UsageError)
    assert "missing" in str(caught.value) or "CUDA" in str(caught.value)


@pytest.mark.parametrize("module", ["suite", "first_contact", "kernels"])
def test_nothing_is_begun_for_a_gpu_that_is_not_there(module: str, tmp_path: Path, run_here, monkeypatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    for name in ("suite.run_limited", "suite.Photographs.cache", "first_contact.run_stage"):
        monkeypatch.setattr(f"benchmarks.{name}", lambda *_: pytest.fail("something was begun"))
    out = [] if module == "kernels" else ["--out", tmp_path]
    done = run_here(f"benchmarks.{module}", "--device", "cuda", *out)
    assert (done.returncode, done.stdout) == (1, "")
    assert "--device cuda: must be one that is there" in done.stderr


def test_every_committed_result_has_a_recipe() -> None:
    without = {"boxes-scale"}  # its program is a test now: tests/precompute/test_box_file_at_scale.py
    names = {path.stem.partition("@")[0] for path in results.FOLDER.glob("*.json")}
    assert names - without <= {name for _, name in ALL}


def test_results_that_are_there_are_kept_and_failures_named(
    tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "boxes").mkdir()
    flags = ["--boxes", str(tmp_path / "missing.h5"), "--root", str(tmp_path), "--out", str(tmp_path)]
    (tmp_path / "roofline-cpu.json").write_text("{}")
    assert suite.program([*flags, "--only", "roofline-cpu"]) == 0
    assert suite.program([*flags, "--only", "roofline-cpu", "sweep-cpu-size"]) == 1
    shown = capfd.readouterr()
    assert "roofline-cpu: there already" in shown.out
    assert "failed: sweep-cpu-size" in shown.out
    assert "missing.h5" in shown.err
    assert suite.program([*flags, "--only", "sweep-cpu-size", "--minutes", "1e-9"]) == 1
    assert "left for want of time: sweep-cpu-size" in capfd.readouterr().out
    monkeypatch.setattr(suite, "_command", lambda *_: ["-c", "import sys, time; time.sleep(60); sys.exit(sys.argv)"])
    assert suite.program([*flags, "--only", "sweep-cpu-size", "stream-cpu", "--minutes", "0.01"]) == 1
    assert "cut off: sweep-cpu-size\nleft for want of time: stream-cpu" in capfd.readouterr().out
    with pytest.raises(UsageError, match="--only typo"):
        suite.program([*flags, "--only", "typo"])
