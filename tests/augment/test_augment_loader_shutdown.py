"""However a loader ends, no thread stays behind and nothing hangs."""

import gc
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from loading import SMALL, open_with


def test_closing_ends_every_thread(demo):
    root, boxes = demo
    before = set(threading.enumerate())
    for leave_early in (True, False):
        loader = open_with(boxes, root, policy=SMALL, batch_size=8, backend="kornia", device="cpu", say=lambda _: None)
        for _ in loader:
            if leave_early:
                break
        began = time.monotonic()
        loader.close()
        loader.close()
        assert time.monotonic() - began < 5
        assert set(threading.enumerate()) <= before
        with pytest.raises(RuntimeError, match="closed"):
            next(iter(loader))


def test_a_forgotten_loader_ends_its_threads(demo):
    root, boxes = demo
    before = set(threading.enumerate())
    loader = open_with(boxes, root, policy=SMALL, batch_size=8, backend="fused", device="cpu", say=lambda _: None)
    next(iter(loader))
    assert set(threading.enumerate()) > before
    del loader
    gc.collect()
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("backend", ["fused", "kornia", "dali"])
def test_a_program_that_just_ends_does_end(demo, backend):
    """Native code in threads would abort the interpreter, were they not stopped first."""
    if backend == "dali":
        pytest.importorskip("nvidia.dali")
    root, boxes = demo
    lines = (
        "import sys",
        "from augment import Making, Policy, open_views",
        f"making, policy = Making({backend!r}), Policy(size=64)",
        "loader = open_views(sys.argv[1], sys.argv[2], policy=policy, batch_size=8, making=making)",
        "print(next(iter(loader)).q.shape)",
        "sys.exit(3)",
    )
    command = [sys.executable, "-c", "\n".join(lines), str(boxes), str(root)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 3, done.stderr
    assert "Error" not in done.stderr


FORKED = """
import os, sys, time
from augment import Making, Policy, open_views
loader = open_views(sys.argv[1], sys.argv[2], policy=Policy(size=32, blur_sigma=(0.1, 1.0)), batch_size=8,
                    making=Making("eager", "cpu", workers=1))
batches = iter(loader)
next(batches)
for loop in batches, loader:  # the loop goes on, or a new one begins
    child = os.fork()
    if child == 0:
        try:
            for _ in loop:
                pass
        except RuntimeError as error:
            print(error, flush=True)
            os._exit(7)
        os._exit(0)
    ended = time.monotonic() + 20
    while (done := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < ended:
        time.sleep(0.05)
    if done == (0, 0):
        os.kill(child, 9)
        sys.exit("the child hangs")
    if status := os.waitstatus_to_exitcode(done[1]) - 7:
        sys.exit(f"the child ended with {status + 7}")
    next(batches)  # the parent goes on
loader.close()
"""


def test_a_forked_process_gets_an_error_and_never_hangs(demo):
    root, boxes = demo
    command = [sys.executable, "-W", "ignore", "-c", FORKED, str(boxes), str(root)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.count("call open_views in the process that uses them") == 2


def test_a_thread_that_is_gone_is_an_error_within_seconds():
    """For example at the shutdown of the interpreter."""
    from augment.stream.producer import Producer

    ended: Any = SimpleNamespace(make=lambda places: iter(()))  # a maker that ends without a batch
    producer = Producer(ended, (0, 0), 1, 2)
    began = time.monotonic()
    with pytest.raises(RuntimeError, match="is gone: open the views again"):
        producer.get()
    assert time.monotonic() - began < 5
