"""Three processes that train together, as torchrun would start them, but forked: torch is imported once.

`python trainer_three_ranks.py FOLDER BOXES ROOT PORT PORT PORT` writes what each of them saw to FOLDER/parts-RANK.json
and run-RANK.json, and a run of all three to FOLDER/three. The stores that they meet at are its caller's, as torchrun's
is the agent's.
"""

import copy
import json
import math
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import nn

from precompute.base.ranks import Process
from trainer import run, train
from trainer.engine.meter import Meter
from trainer.parallel import collectives
from trainer.parallel.batchnorm import synchronise_batch_norm
from trainer.parallel.stop_vote import StopVote

WORLD = 3
DEADLINE = 120  # seconds, after which a process that waits for another one ends


def rows(process: Process) -> dict[str, Any]:
    """Four samples a process of a batch of twelve, and what travels between them."""
    whole = torch.arange(24.0).view(12, 2)
    run = collectives.own_rows(whole)
    weights = torch.arange(24.0).view(12, 2).sin()
    x = run.clone().requires_grad_()
    joined = collectives.gather(x, differentiable=True)
    (joined * weights).sum().backward()
    assert x.grad is not None
    return {
        "own_rows": run.tolist(),
        "rolled": collectives.rolled(run).tolist(),
        "gather": collectives.gather(run).tolist(),
        "gather_columns": collectives.gather(run.t().contiguous().t()).tolist(),  # as channels-last maps are laid out
        "gather_differentiable": joined.tolist(),
        "gradient_is_of_all": torch.allclose(x.grad, WORLD * collectives.own_rows(weights)),
        "average_of_known": collectives.average({"a": [math.nan, 2.0, 5.0][process.rank]}, "cpu", known=True),
        "average": collectives.average({"a": float(process.rank), "b": 10.0 * process.rank}, "cpu"),
    }


def votes(process: Process) -> dict[str, Any]:
    """The step at which each hears that one of them was asked to stop, and what is heard after the last step."""

    def heard(asked: int, at: int, steps: int) -> tuple[int | None, list[bool]]:
        vote = StopVote(process)
        step = next((s for s in range(1, steps + 1) if vote(s, process.rank == asked and s >= at)[0]), None)
        return step, [vote.last(False), vote.last(process.rank == asked and at > steps)]

    return {
        "one": heard(asked=1, at=6, steps=40),
        "with_the_last_step": heard(asked=2, at=8, steps=8),
        "after_the_last_vote": heard(asked=2, at=11, steps=10),
        "nobody": heard(asked=-1, at=0, steps=12),
    }


def saves(process: Process) -> dict[str, Any]:
    """When each saves, where the second one's clock alone says that a checkpoint is late: six steps after the last."""
    vote, saved = StopVote(process), [0]
    for step in range(1, 41):
        _, late = vote(step, False, process.rank == 1 and step - saved[-1] >= 6)
        if late:
            saved.append(step)
    vote.last(False)
    return {"steps": saved}


def sums(process: Process) -> dict[str, Any]:
    """A log interval's sums, which are each one's own, after a checkpoint."""
    meter = Meter()
    for step in range(2):
        meter.add({"loss": torch.tensor(float(process.rank + 10 * step)), "alignment": torch.tensor(1.0)}, 0.0)
    meter.share()
    empty = Meter()
    empty.share()
    return {"means": meter.means(), "empty": empty.means()}


def batch_norm(process: Process) -> dict[str, bool]:
    """Whether a network on a third of the batch is the network on all of it."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, eps=0.1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 6), nn.BatchNorm1d(6)
    ).double()
    images, whole = torch.randn(12, 3, 6, 6, dtype=torch.float64), copy.deepcopy(net)
    synchronise_batch_norm(net, "cpu")
    weights = torch.randn(12, 6, dtype=torch.float64)
    expected = whole(images)
    (expected * weights).sum().backward()
    found = net(collectives.own_rows(images))
    (found * collectives.own_rows(weights)).sum().backward()
    gradients = []
    for p, q in zip(net.parameters(), whole.parameters(), strict=True):
        assert p.grad is not None
        torch.distributed.all_reduce(p.grad)
        gradients.append(torch.allclose(p.grad, q.grad, rtol=1e-9, atol=1e-11))  # type: ignore[arg-type]
    buffers = zip(net.buffers(), whole.buffers(), strict=True)
    return {
        "views": torch.allclose(found, collectives.own_rows(expected), rtol=1e-10, atol=1e-12),
        "gradients": all(gradients),
        "running": all(torch.allclose(a, b, rtol=1e-12, atol=1e-12) for a, b in buffers),
        "evaluated": torch.allclose(net.eval()(images), whole.eval()(images), rtol=1e-10, atol=1e-12),
    }


def alone(process: Process) -> dict[str, float]:
    """When each was in the block (one clock for all processes)."""
    with collectives.first_alone(process):
        began = time.monotonic()
        time.sleep(0.4 if process.first else 0.0)
        ended = time.monotonic()
    return {"began": began, "ended": ended, "left": time.monotonic()}


def refused(process: Process) -> dict[str, Any]:
    """What each sees where the first one fails; nothing can follow."""
    entered = False
    try:
        with collectives.first_alone(process):
            entered = True
            if process.first:
                raise FileExistsError("the folder is taken")
    except (OSError, RuntimeError) as error:
        return {"entered": entered, "error": type(error).__name__, "after": time.monotonic()}
    return {"entered": entered, "error": None, "after": time.monotonic()}


def parts(rank: int, folder: Path) -> None:
    process = collectives.start("cpu")
    assert process == Process(rank, WORLD, rank)
    found = {part.__name__: part(process) for part in (rows, votes, saves, sums, batch_norm, alone, refused)}
    (folder / f"parts-{rank}.json").write_text(json.dumps(found))


def last_step(rank: int, folder: Path, boxes: str, root: str) -> None:
    """A run of four steps; the second process is asked to stop during the last of them."""
    real = train.advance

    def advance(state: Any, *more: Any) -> dict[str, torch.Tensor]:
        terms = real(state, *more)
        if rank == 1 and state.step == state.settings.steps:
            signal.raise_signal(signal.SIGTERM)
        return terms

    train.advance = advance
    status = run.program(
        ["--boxes", boxes, "--root", root, "--method", "simclr", "--arch", "resnet10w4", "--dim", "8", "--hidden", "8",
         "--size", "32", "--batch-size", "12", "--epochs", "1", "--device", "cpu", "--workers", "1", "--no-evaluate",
         "--pipeline", "kornia", "--out", str(folder / "run")]
    )  # fmt: skip
    (folder / f"run-{rank}.json").write_text(json.dumps(status))


def whole_run(boxes: str, root: str, out: Path) -> list[str]:
    """The flags of a run of eight steps and its evaluation."""
    return ["--boxes", boxes, "--root", root, "--arch", "resnet10w8", "--size", "32", "--batch-size", "12", "--device",
            "cpu", "--pipeline", "kornia", "--workers", "1", "--base-lr", "0.6", "--epochs", "2", "--method", "cvsa",
            "--freeze-stages", "1", "--out", str(out)]  # fmt: skip


def three_at_once(rank: int, folder: Path, boxes: str, root: str) -> None:
    """That run in all processes; what they print goes to said-RANK.txt, their errors to errors-RANK.txt."""
    for number, name in ((1, "said"), (2, "errors")):
        os.dup2(os.open(folder / f"{name}-{rank}.txt", os.O_CREAT | os.O_WRONLY), number)
    assert run.program(whole_run(boxes, root, folder / "three")) == 0
    sys.stdout.flush()


def together(port: str, work: Callable[..., None], *arguments: Any) -> bool:
    """Whether `work(rank, ...)` came to its end in all processes."""
    context = multiprocessing.get_context("fork")
    started = [context.Process(target=_begin, args=(port, work, rank, *arguments)) for rank in range(WORLD)]
    for process in started:
        process.start()
    for process in started:
        process.join()
    return all(process.exitcode == 0 for process in started)


def _begin(port: str, work: Callable[..., None], rank: int, *arguments: Any) -> None:
    signal.alarm(DEADLINE)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(WORLD)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_USE_AGENT_STORE": "True"}
    work(rank, *arguments)


def store() -> torch.distributed.TCPStore:
    """Where the processes meet: alive as long as they are."""
    return torch.distributed.TCPStore(
        "127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=DEADLINE)
    )


if __name__ == "__main__":
    out, boxes, root, *ports = sys.argv[1:]
    done = [together(ports[0], parts, Path(out))]
    works = zip(ports[1:], (last_step, three_at_once), strict=True)
    done += [together(port, work, Path(out), boxes, root) for port, work in works]
    sys.exit(0 if all(done) else 1)
