"""benchmarks.step for real on a few pictures: the peer's step is BYOL's step, and the result has the house's form."""

import copy
import inspect
import itertools
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from benchmarks.harness import Arm, measure
from benchmarks.lightly_loop import lightly_byol
from benchmarks.results import validate
from benchmarks.step import FROZEN, LIVE, MODES, OURS, PEER, _warm, way
from trainer.config.choices import Hardware, decide
from trainer.config.run import RunConfig
from trainer.model import networks
from trainer.model.resnets import feature_widths

SMALL = ("--arch", "resnet10w8", "--size", 32, "--device", "cpu", "--batch-size", 16, "--steps", 1, "--repeats", 2,
         "--workers", 1, "--json")  # fmt: skip


def test_a_small_real_run(demo_boxes: Path, demo_root: Path, run_here: Callable) -> None:
    pytest.importorskip("lightly")
    done = run_here("benchmarks.step", "--boxes", demo_boxes, "--root", demo_root, *SMALL)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout.splitlines()[-1])
    validate(document)
    assert [arm["name"] for arm in document["arms"]] == [LIVE, FROZEN, OURS, PEER]
    assert document["unit"] == "cpu_ms"
    by_name = {arm["name"]: arm for arm in document["arms"]}
    assert by_name[FROZEN]["gflops_per_image"] > by_name[OURS]["gflops_per_image"] == by_name[PEER]["gflops_per_image"]
    assert all(arm["mfu"] is None for arm in document["arms"])  # a CPU's peak is not known
    assert set(document["ratios"]) == {
        f"{pair}, {unit}" for pair in ("live / frozen", "lightly / ours, byol") for unit in ("wall", "CPU")
    }


def test_without_lightly_the_rest_is_measured(
    demo_boxes: Path, demo_root: Path, run_here: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lightly.loss", None)  # its import raises ImportError
    done = run_here("benchmarks.step", "--boxes", demo_boxes, "--root", demo_root, *SMALL)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout.splitlines()[-1])
    validate(document)
    assert [arm["name"] for arm in document["arms"]] == [LIVE, FROZEN, OURS]
    assert set(document["ratios"]) == {"live / frozen, wall", "live / frozen, CPU"}
    assert "pip install" in document["skipped"][PEER]


def test_ways_to_run_the_networks_are_compared(
    demo_boxes: Path, demo_root: Path, run_here: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that fails is named and costs the others nothing. The compiler itself: test_trainer_compile.py."""

    def compiled(function: Callable, mode: str) -> Callable:
        if mode == "default":
            raise RuntimeError("no compiler\nfor this")
        return function

    monkeypatch.setattr(networks, "_compiled", compiled)
    done = run_here(
        "benchmarks.step",
        "--boxes",
        demo_boxes,
        "--root",
        demo_root,
        *SMALL,
        "--arch",
        "resnet10w16",
        "--modes",
        *MODES,
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout.splitlines()[-1])
    validate(document)
    assert [arm["name"] for arm in document["arms"]] == [way("eager"), way("reduce-overhead")]
    assert document["skipped"] == {way("default"): "RuntimeError: no compiler"}
    flags = {"eager": "", "reduce-overhead": "--compile --compile-mode reduce-overhead"}
    assert document["flags"] == flags[document["choice"]]
    best = min(document["arms"], key=lambda arm: arm["cpu_ms"]["median"])
    assert best["name"] == way(document["choice"])


def test_what_lay_ready_is_used_up_before_live_views_are_timed() -> None:
    """Else batches that the loader made during the turns of others would count as made in time."""
    log: list[str] = []
    batches = (log.append("batch") for _ in itertools.count())

    def step() -> None:
        next(batches)
        log.append("step")

    def work() -> None:
        log.append("timed")
        step()

    measure([Arm("live", work, 1, before=partial(_warm, step, batches, 2, lambda: None))], repeats=2)
    turn = ["batch", "batch", "batch", "step", "batch", "step", "timed", "batch", "step"]
    assert log == 3 * turn  # a warm-up and two repeats


@pytest.mark.parametrize("optimizer", ["lars", "sgd"])
def test_the_peer_trains(optimizer: str) -> None:
    """lightly's arm is a training step and no empty loop: its loss falls on one batch."""
    pytest.importorskip("lightly")
    hardware = Hardware("cpu", "CPU", bf16=False)
    run = RunConfig.of(method="byol", arch="resnet10w8", size=32, batch_size=16, optimizer=optimizer)
    from trainer.model.resnets import build_encoder

    settings, _ = decide(run, 64, feature_widths(build_encoder("resnet10w8"))[4], hardware)
    views = (torch.randn(16, 3, 32, 32), torch.randn(16, 3, 32, 32))
    step = lightly_byol("resnet10w8", optimizer, settings, hardware)
    losses = [step(views) for _ in range(12)]
    assert losses[-1] < losses[0]


def test_the_peers_keys_are_a_slow_targets_of_the_other_view() -> None:
    """BYOL's loss (Eq. 6) in plain words, from copies of the arm's own networks; the target only follows."""
    pytest.importorskip("lightly")
    from trainer.model.resnets import build_encoder

    hardware = Hardware("cpu", "CPU", bf16=False)
    run = RunConfig.of(method="byol", arch="resnet10w8", size=32, batch_size=8, optimizer="sgd", base_lr=10.0)
    settings, _ = decide(run, 64, feature_widths(build_encoder("resnet10w8"))[4], hardware)
    step = lightly_byol("resnet10w8", "sgd", settings, hardware)
    own = inspect.getclosurevars(step).nonlocals
    views = (torch.randn(8, 3, 32, 32), torch.randn(8, 3, 32, 32))
    for _ in range(3):
        online, predictor, target = (copy.deepcopy(own[name]) for name in ("online", "predictor", "target"))
        with torch.no_grad():
            for key, query in zip(target.parameters(), online.parameters(), strict=True):
                key.lerp_(query, 1 - 0.996)
            p = [F.normalize(predictor(online(view)), dim=1) for view in views]
            z = [F.normalize(target(view), dim=1) for view in views]
            expected = -0.5 * sum((p[i] * z[1 - i]).sum(1).mean() for i in (0, 1))
        torch.testing.assert_close(step(views), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(list(own["target"].parameters()), list(target.parameters()))
        assert all(p.grad is None and not p.requires_grad for p in own["target"].parameters())
        for name, before in (("online", online), ("predictor", predictor)):
            pairs = zip(own[name].parameters(), before.parameters(), strict=True)
            assert any(not torch.equal(now, was) for now, was in pairs), name
