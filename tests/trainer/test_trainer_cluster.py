"""One command line for the first start of a cluster's job and all others, and what its signals do."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from trainer_runs import TINY, assert_same_run, start_and_signal

from trainer import run
from trainer.record import checkpoint

ROOT = Path(__file__).resolve().parents[2]
LAUNCHER = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


SLOW = pytest.mark.slow


@pytest.fixture(scope="module")
def line(demo_boxes: Path, demo_root: Path) -> Callable[..., list[str]]:
    """The flags of a run of 12 steps into a folder, as a job's script has them."""

    def flags(out: Path, *more: object) -> list[str]:
        data = ["--boxes", str(demo_boxes), "--root", str(demo_root)]
        return [*data, *TINY, "--epochs", "4", "--save-every", "1", "--out", str(out), *map(str, more)]

    return flags


@pytest.fixture(scope="module")
def unbroken(line: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("unbroken") / "run"
    assert run.program(line(out)) == 0
    return out


def started(command: list[str], **env: str) -> subprocess.Popen:
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads()), "PYTHONPATH": str(ROOT)} | env
    return subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )


def signalled(process: subprocess.Popen, number: int) -> tuple[int, str]:
    """Status and output of a run that gets the signal after its second line of log."""
    assert process.stdout is not None
    said, seen = "", 0
    while seen < 2 and (text := process.stdout.readline()):
        said += text
        seen += text.startswith("epoch")
    process.send_signal(number)
    return ended(process, said)


def ended(process: subprocess.Popen, said: str = "") -> tuple[int, str]:
    """Status and output, `said` and the rest of it."""
    said += process.communicate(timeout=120)[0]
    return process.returncode, said


@pytest.mark.parametrize(
    "number", [signal.SIGUSR1, *(pytest.param(n, marks=SLOW) for n in (signal.SIGTERM, signal.SIGHUP, signal.SIGKILL))]
)
def test_the_same_line_begins_a_run_and_goes_on_with_it(line, unbroken, tmp_path, run_here, number):
    out = tmp_path / "run"
    flags = line(out, "--resume", "auto")
    status, said = start_and_signal(flags, lambda said: said.count("\nepoch") >= 2, number, tmp_path / "log")
    assert status == (130 if number != signal.SIGKILL else -number), said
    assert ("stopped at step" in said) == (number != signal.SIGKILL)
    assert 1 <= checkpoint.load(out / checkpoint.NAME)["step"] < 12
    again = run_here("trainer.run", *flags)
    assert again.returncode == 0, again.stderr
    assert "resumed at step" in again.stdout
    assert_same_run(out, unbroken)


def test_other_settings_are_refused_by_their_names(line, unbroken, run_here):
    """Also by a flag that is left out: the run was not begun by this line."""
    before = (unbroken / checkpoint.NAME).read_bytes()
    without = line(unbroken, "--resume", "auto")
    at = without.index("--epochs")
    for flags, words in (
        (line(unbroken, "--resume", "auto", "--seed", 3), "--seed 3: .* was trained with --seed 0"),
        (line(unbroken, "--resume", "auto", "--method", "byol"), "--method byol: .* with --method matching"),
        ([*without[:at], *without[at + 2 :]], "--epochs 100: .* with --epochs 4"),
    ):
        done = run_here("trainer.run", *flags)
        assert done.returncode == 1
        assert re.search(words, done.stderr), done.stderr
        assert "Traceback" not in done.stderr
    assert (unbroken / checkpoint.NAME).read_bytes() == before


@pytest.mark.slow
def test_torchruns_restart_goes_on_by_itself(line, unbroken, tmp_path, run_module):
    """A line without --resume: torchrun repeats it as it is."""
    out = tmp_path / "run"
    assert signalled(started([sys.executable, "-m", "trainer.run", *line(out)]), signal.SIGKILL)[0] == -signal.SIGKILL
    again = run_module(
        "trainer.run",
        *line(out),
        timeout=300,
        OMP_NUM_THREADS=str(torch.get_num_threads()),
        TORCHELASTIC_RESTART_COUNT="1",
    )
    assert again.returncode == 0, again.stderr
    assert "started this run again (restart 1)" in again.stdout
    assert "resumed at step" in again.stdout
    assert_same_run(out, unbroken)


@pytest.mark.slow  # two processes, three starts
def test_a_rank_that_dies_is_restarted_and_goes_on(line, tmp_path):
    out = tmp_path / "run"
    command = [*LAUNCHER, "--max-restarts", "1", "-m", "trainer.run", *line(out, "--no-evaluate")]
    process = started(command, OMP_NUM_THREADS="1")
    assert process.stdout is not None
    said = ""
    while not said.count("\nepoch") and (text := process.stdout.readline()):
        said += text
    os.kill(workers_of(process.pid)[0], signal.SIGKILL)
    status, said = ended(process, said)
    assert status == 0, said
    assert "started this run again (restart 1)" in said
    assert checkpoint.load(out / checkpoint.NAME)["step"] == 12


def workers_of(launcher: int) -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(launcher)], capture_output=True, text=True).stdout
    return [int(number) for number in found.split()]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc here: processes cannot be seen")
@pytest.mark.parametrize("milestone", [*(pytest.param(m, marks=SLOW) for m in ("", "training:")), "epoch"])
def test_no_rank_outlives_its_launcher(line, tmp_path, milestone):
    """Killed while the ranks start, while they get ready, and in mid-run."""
    process = started([*LAUNCHER, "-m", "trainer.run", *line(tmp_path / "run", "--epochs", 2000)], OMP_NUM_THREADS="1")
    assert process.stdout is not None
    if milestone:
        while not process.stdout.readline().startswith(milestone):
            assert process.poll() is None
    while len(ranks := workers_of(process.pid)) < 2:
        time.sleep(0.02)
    process.kill()
    until = time.monotonic() + 240  # imports take long on a busy machine
    while alive := [rank for rank in ranks if Path(f"/proc/{rank}").exists()]:
        assert time.monotonic() < until, alive
        time.sleep(0.1)
    _, said = ended(process)
    if milestone == "epoch":
        assert "stopped at step" in said
