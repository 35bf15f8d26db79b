"""benchmarks.versions: this checkout beside itself, in small real runs; what it refuses."""

import json
from pathlib import Path

import pytest

from benchmarks import report, results

ROOT = Path(__file__).resolve().parent.parent.parent


def test_a_checkout_beside_itself(boxes, demo_root, tmp_path, run_module):
    done = run_module(
        "benchmarks.versions", "--old", ROOT, "--boxes", boxes, "--root", demo_root, "--cases", "batch-4", "rrc",
        "scaled", "disk", "python-4", "--repeats", 1, "--rounds", 1, "--json", "--out", tmp_path / "r.json",
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout.splitlines()[-1])
    saved = results.load(tmp_path / "r.json")
    assert saved["arms"] == document["arms"]
    assert saved["settings"]["old"] == ROOT.name
    assert document["views_equal"] == {"batch-4": True, "rrc": True}
    assert document["before"]["commit"] == document["commit"]
    samples = {arm["name"]: arm["samples"] for arm in document["arms"]}
    assert samples["ours: rrc"] == samples["before: rrc"] == 96
    assert samples["ours: batch-4"] == 64
    assert samples["ours: RAM cache, epoch 2"] == 96
    assert samples["ours: disk cache, next run, epoch 1"] >= 96  # and the batches ahead
    assert [name.split(" / ")[0] for name in document["ratios"]] == [
        "before: rrc", "before: batch-4", "before: scaled", "before: python-4", "before: files",
        "before: files + memory", "ours: RAM cache, epoch 2", "ours: RAM cache, epoch 2", "ours: RAM cache, epoch 1",
    ]  # fmt: skip
    costs = {arm["name"]: arm["cpu_ms"]["median"] for arm in document["arms"]}
    assert costs["before: files + memory"] > costs["before: files"]
    (python,) = (arm for arm in document["arms"] if arm["name"] == "ours: python-4")
    assert python["cpu_ms"]["low"] > 0
    assert report.table(saved).strip("\n") in report.summary({"r": saved})
    assert not list(boxes.parent.glob("tmp*"))  # the folder of the cache's file


def test_what_is_no_checkout(boxes, tmp_path, run_here, monkeypatch):
    monkeypatch.setattr("benchmarks.versions._values", lambda *_: pytest.fail("pictures were written"))
    done = run_here("benchmarks.versions", "--boxes", boxes)
    assert done.returncode == 2
    assert "--old None: must be the folder of an older checkout" in done.stderr
    done = run_here("benchmarks.versions", "--boxes", boxes, "--old", tmp_path, "--cases", "scaled")
    assert done.returncode == 1
    assert "no checkout of this project" in done.stderr
    assert "Traceback" not in done.stderr
