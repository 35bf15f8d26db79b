"""A run of seconds, and what of it must be bit for bit the same however often it was killed."""

import multiprocessing
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from precompute.base.boxfile import BoxCache, write
from precompute.base.program import main
from trainer.record import checkpoint, metrics

TINY = ("--arch", "resnet10w4", "--dim", "16", "--hidden", "16", "--conv-hidden", "16", "--size", "32",
        "--batch-size", "16", "--device", "cpu", "--workers", "1", "--log-every", "1")  # fmt: skip
TIMING = {"images_per_second", "step_ms", "data_wait", "gflops", "mfu", "memory_gib"}


# Every process is forked from one that has imported what a run needs, and has done nothing else.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["pytest", "trainer.train"])


def start_and_signal(
    command: list[str], ready: Callable[[str], bool], number: int, log: Path
) -> tuple[int | None, str]:
    """Runs trainer.run until it is `ready`, by its output so far, then sends it a signal; exit status and output."""
    log.touch()
    process = FORKS.Process(target=_run_into, args=(log, torch.get_num_threads(), command))
    process.start()
    while not ready(log.read_text()):
        assert process.is_alive(), log.read_text()
        time.sleep(0.002)
    assert process.pid is not None
    os.kill(process.pid, number)
    process.join(120)
    return process.exitcode, log.read_text()


def _run_into(log: Path, threads: int, command: list[str]) -> None:
    """`trainer.run` as a program that prints into the file `log`."""
    from trainer.run import program

    descriptor = os.open(log, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    torch.set_num_threads(threads)
    main(program, command)


def other_boxes(boxes: Path, out: Path, what: str) -> list[str]:
    """Flags of the box file with something of its held-out pictures changed: labels, splits or boxes."""
    cache = BoxCache.open(boxes)
    test = cache.indices("test")
    column = getattr(cache, what).copy()
    if what == "splits":
        column[test[20:]] = len(cache.split_names)
    else:
        column[test] = np.roll(column[test], 5, 0)
    names = (*cache.split_names, "spare") if what == "splits" else cache.split_names
    write(out, replace(cache, split_names=names, **{what: column}))
    return ["--boxes", str(out)]


def rows_of(out: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without what a clock says."""
    rows = metrics.read(out / metrics.NAME)
    return [{k: v for k, v in row.items() if k not in TIMING} for row in rows if row["kind"] != "config"]


def assert_same_run(out: Path, unbroken: Path) -> None:
    """Encoder, checkpoint, lines and the names of the files equal those of the run that nobody stopped."""
    assert sorted(p.name for p in out.iterdir()) == sorted(p.name for p in unbroken.iterdir())
    ours, theirs = (load_file(folder / "encoder.safetensors") for folder in (out, unbroken))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs)
    ours, theirs = (checkpoint.load(folder / checkpoint.NAME) for folder in (out, unbroken))
    assert {**ours["config"], "out": None} == {**theirs["config"], "out": None}
    assert_equal({**ours, "config": None}, {**theirs, "config": None})
    assert rows_of(out) == rows_of(unbroken)


def assert_same_training(one: Path, several: Path) -> None:
    """A run of one process, and of several that add up in another order: losses, means over all of them, weights."""
    rows = [[r for r in metrics.read(out / metrics.NAME) if r["kind"] == "step"] for out in (one, several)]
    assert [r["step"] for r in rows[0]] == [r["step"] for r in rows[1]] == list(range(1, len(rows[0]) + 1))
    assert len(rows[0]) >= 6
    for a, b in zip(*rows, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
        for share in {"no_background", "saturated"} & a.keys():  # of all views, not of the first process's
            assert a[share] == pytest.approx(b[share], abs=0.02)
        if "c_auc" in a:
            assert a["c_auc"] == pytest.approx(b["c_auc"], abs=0.005)
    assert rows[0][0]["loss"] == pytest.approx(rows[1][0]["loss"], rel=1e-5)
    a, b = (load_file(out / "encoder.safetensors") for out in (one, several))
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-3, atol=1e-4)


def assert_equal(a: Any, b: Any) -> None:
    """Nested values, tensors among them, without any tolerance."""
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_equal(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_equal(x, y)
    else:
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
