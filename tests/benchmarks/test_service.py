"""benchmarks.service for real on a few small pictures: what is shared is equal, counted, and compared with a goal."""

import importlib.util
import json

import pytest

from benchmarks import report, results

pytestmark = pytest.mark.slow  # a dozen processes that import torch
SMALL = ("--size", 32, "--batch", 16, "--images", 48, "--trainings", 2, "--repeats", 2)


@pytest.fixture
def run(boxes, demo_root, tmp_path, run_module):
    """`run(SCOPE, ...)`: the results of a small run by their scopes."""

    def documents(*scopes):
        done = run_module(
            "benchmarks.service", "--boxes", boxes, "--root", demo_root, *SMALL, "--scope", *scopes, "--json",
            "--out", tmp_path / "r.json", timeout=600,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout.splitlines()[-1])
        return {document["settings"]["scope"]: document for document in (found if len(scopes) > 1 else [found])}

    return documents


def test_pictures_and_batches_are_shared(run, tmp_path):
    found = run("pictures", "batches")
    for scope, document in found.items():
        assert results.load(tmp_path / f"r-{scope}.json") == document
        (goal,) = document["goals"].values()
        peer, ours = document["arms"]
        assert ours["name"].startswith("ours: ")
        assert not peer["name"].startswith("ours: ")
        assert goal["values"] == pytest.approx([1 / x for x in next(iter(document["ratios"].values()))["values"]])
        shown = report.table(document)
        assert ("reached" in shown) == (goal["median"] <= goal["most"])
        report.plot(document, tmp_path / "r.png")
    seen = found["pictures"]["seen"]
    assert seen["images decoded, ours: pictures in one file"] == [48, 48, 48]  # once for all
    assert seen["images decoded, pictures in the memory of each"] == [96, 96, 96]
    assert seen["batches equal to those of cache off"] == 6
    seen = found["batches"]["seen"]
    assert seen["batches equal to those made alone"] == 6
    assert seen["batches shared made"] == seen["batches shared taken"] == 12  # the check, a turn untimed, two timed
    assert seen["batches made alone"] == 0


def test_jobs_make_views_once(run):
    (document,) = run("jobs").values()
    assert document["seen"] == {"runs with equal weights, to the bit": "2 of 2"}


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the extra ray is not installed")
def test_helpers_and_carrying(run):
    found = run("ray", "transport")
    ray, transport = found["ray"], found["transport"]
    assert ray["seen"]["batches equal to those made alone"] == 12  # of four arms beside the training alone
    assert ray["seen"]["batches made there"] > 0
    assert len(ray["goals"]) == 2
    names = {arm["name"] for arm in transport["arms"]}
    assert names | transport["skipped"].keys() == {"ours: crops on Ray", "Ray Data", "Arrow Flight"}
