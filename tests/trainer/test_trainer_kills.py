"""Real processes of trainer.run, killed or stopped at random instants of their lives, end as if nothing had happened.

The same for every instant between two system calls, without the clock: test_trainer_crash.py.
"""

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from trainer_runs import TINY, assert_same_run

from trainer.record import checkpoint, metrics

ROOT = Path(__file__).resolve().parents[2]
MILESTONES = ("training:", "epoch", "encoder:", "kNN", "localisation", "figure:", "model card:")
pytestmark = [
    pytest.mark.slow,  # dozens of starts of torch
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc here: handlers cannot be seen"),
]


@pytest.fixture(scope="module")
def flags(demo_boxes: Path, demo_root: Path) -> list[str]:
    """A run of twelve steps with a checkpoint at each, and its evaluation."""
    return ["--boxes", str(demo_boxes), "--root", str(demo_root), *TINY, "--epochs", "4", "--save-every", "1"]


@dataclass
class Ended:
    """How a run of the command ended."""

    status: int
    said: str  # stdout and stderr
    signalled: bool  # False: it came through before


def run_until(arguments: list[str], milestones: int, delay: float, number: int) -> Ended:
    """Runs trainer.run, and sends the signal `delay` seconds after it has said so many milestones of its way.

    By what it says, not by the clock alone: on a busy machine most instants would lie among the imports. Before the
    first milestone `delay` counts from where the process listens to signals (to SIGKILL: from its start).
    """
    env = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads()), "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-m", "trainer.run", *arguments], env=env, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        said, seen = "", 0
        try:
            while milestones == 0 and number != signal.SIGKILL and not listens(process.pid):
                time.sleep(0.01)
            while seen < milestones and (line := process.stdout.readline()):
                said += line
                seen += line.startswith(MILESTONES)
            time.sleep(delay)
            signalled = process.poll() is None
            process.send_signal(number)
            said += process.stdout.read()
            return Ended(process.wait(timeout=120), said, signalled)
        finally:
            process.kill()


def listens(process: int) -> bool:
    """Whether a process has a handler for SIGTERM, or has ended."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return True
    caught = [line.split()[1] for line in status.splitlines() if line.startswith("SigCgt")]
    return not caught or bool(int(caught[0], 16) >> (signal.SIGTERM - 1) & 1)


def instant(rng: random.Random, again: bool, early: float) -> tuple[int, float]:
    """Milestones and delay. A new run is ended before its first milestone, which comes after about `early` seconds.

    Half of the others soon after a line of the log, where the checkpoint is written.
    """
    milestones = rng.randrange(8) if again else 0
    return milestones, rng.uniform(0, rng.choice((0.3, 0.02)) if milestones else 0.8 * early)


def command(flags: list[str], out: Path) -> list[str]:
    """How a user starts the run, or goes on with it."""
    return ["--resume", str(out)] if (out / checkpoint.NAME).exists() else [*flags, "--out", str(out)]


@pytest.fixture(scope="module")
def unbroken(flags: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """The run that nobody stopped, and the seconds until its first milestone."""
    out, started = tmp_path_factory.mktemp("unbroken") / "run", time.monotonic()
    assert run_until([*flags, "--out", str(out)], 1, 0, signal.SIGKILL).signalled
    early = time.monotonic() - started
    assert run_until(command(flags, out), 1000, 0, signal.SIGKILL).status == 0
    return out, early


def test_sigkill_at_random_instants(flags: list[str], unbroken: tuple, tmp_path: Path) -> None:
    """Kills and resumes, one after the other, until the run ends; several times over."""
    whole, early = unbroken
    rng, kills, came_through, half_written, nothing_yet = random.Random(0), 0, [0], 0, 0
    while kills < 20:
        out = tmp_path / f"run{len(came_through)}"
        ended = run_until(command(flags, out), *instant(rng, kills != came_through[-1], early), signal.SIGKILL)
        if not ended.signalled:
            assert ended.status == 0, ended.said
            assert_same_run(out, whole)
            came_through.append(kills)
            continue
        kills += 1
        nothing_yet += not (out / checkpoint.NAME).exists()
        half_written += bool(list(out.glob(".*.tmp")))
    ended = run_until(command(flags, out), 1000, 0, signal.SIGKILL)
    assert ended.status == 0, ended.said
    assert_same_run(out, whole)
    told = f"{half_written} with a file half written, {nothing_yet} before the first checkpoint"
    print(f"{kills} kills in {len(came_through)} runs: {told}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_at_random_instants(flags: list[str], unbroken: tuple, tmp_path: Path, number: signal.Signals) -> None:
    """Status 130 from the moment the program listens to the last; what was trained so far is in the checkpoint."""
    whole, early = unbroken
    rng, came_through, stops = random.Random(number), [0], []
    while len(stops) < 12:
        out = tmp_path / f"run{len(came_through)}"
        ended = run_until(command(flags, out), *instant(rng, len(stops) != came_through[-1], early), number)
        if ended.status != 130:  # it came through, or the interpreter was at its end already
            assert ended.status in (0, -number), ended.said
            assert_same_run(out, whole)
            came_through.append(len(stops))
            assert len(came_through) < 100, f"{number.name} stops nothing: is it ignored here (a background job)?"
            continue
        assert not list(out.glob(".*.tmp"))
        rows = metrics.read(out / metrics.NAME) if (out / metrics.NAME).exists() else []
        steps = [row["step"] for row in rows if row["kind"] == "step"]
        if steps:
            assert checkpoint.load(out / checkpoint.NAME)["step"] == steps[-1]
        stops.append(steps[-1] if steps else None)
    ended = run_until(command(flags, out), 1000, 0, number)
    assert ended.status == 0, ended.said
    assert_same_run(out, whole)
    print(f"{number.name} after step {stops} in {len(came_through)} runs")
