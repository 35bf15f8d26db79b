"""benchmarks.throughput on the demo set: its result, its rounds, what it refuses."""

import pytest

from benchmarks import results
from precompute.base.errors import BadValue


def test_throughput_result(demo_result, demo_root):
    document, path = demo_result
    assert results.load(path) == document
    assert [a["name"] for a in document["arms"]] == ["decode only", "ours: kornia (linear)", "pillow"]
    assert set(document["ratios"]) == {"decode only / ours: kornia (linear)", "pillow / ours: kornia (linear)"}
    assert document["checked_levels"]["pillow"] < 2
    assert "bound" in document["verdict"]
    assert document["rounds"] == 2
    assert (document["settings"]["boxes"], document["settings"]["dataset"]) == ("demo.h5", "cub")  # the box file's word
    assert document["settings"]["root"] == demo_root.name  # its folder too, where none is named
    assert all(len(a["cpu_ms"]["values"]) == 4 for a in document["arms"])
    assert results.agreement(document, document) == dict.fromkeys(document["ratios"], (True, True))
    assert document["versions"]["torch"]


def test_unknown_names_are_usage_errors(run_here, tmp_path):
    from benchmarks.peers import find

    with pytest.raises(BadValue, match="opencv"):
        find(["opencw"])
    for flag, known in (("--backends", "one of dali, fused"), ("--peers", "one of pillow")):
        done = run_here("benchmarks.throughput", flag, "opencw")
        assert (done.returncode, done.stdout) == (2, "")  # before any round
        assert f"{flag} opencw: must be {known}" in done.stderr
    done = run_here("benchmarks.throughput", "--boxes", tmp_path / "no.h5", "--rounds", 1)
    assert done.returncode == 1
    assert "no.h5" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_no_round_could_do_is_refused_before_the_first(run_here, demo_boxes, demo_root, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr("benchmarks.throughput._round", lambda *_: pytest.fail("a round was begun"))
    for root, flags, said in (
        (demo_root, ["--device", "cuda"], "--device cuda: must be one that is there"),
        (demo_root, ["--batch", 25], "100 images are needed, the box file has 96: lower --batch or --batches"),
        (demo_root / "no", [], "no such folder"),
    ):
        done = run_here("benchmarks.throughput", "--boxes", demo_boxes, "--root", root, *flags)
        assert (done.returncode, done.stdout) == (1, "")
        assert said in done.stderr


def test_a_scope_without_arms_says_so(run_here, demo_boxes, demo_root):
    flags = ["--scope", "apply", "--backends", "dali", "--peers", "none", "--rounds", "1", "--batch", "4"]
    done = run_here("benchmarks.throughput", "--boxes", demo_boxes, "--root", demo_root, *flags)
    assert done.returncode == 1
    assert "nothing to measure in scope apply" in done.stderr
    assert "Traceback" not in done.stderr
