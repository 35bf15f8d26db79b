"""README's commands for several trainings and machines run as they stand (training cut short)."""

import importlib.util
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHORT = ["--epochs", "1", "--arch", "resnet10w16", "--size", "48", "--batch-size", "16", "--device", "cpu"]


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the extra ray is not installed"),
]


def test_commands_for_several_machines_run(shared_data, tmp_path, run_module):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "CUB_200_2011").symlink_to(shared_data / "CUB_200_2011")
    assert not run_module("precompute.boxes", "--dataset", "cub", cwd=tmp_path).returncode
    serve, train, compare = commands()
    with begun(tmp_path, sys.executable, "-m", *serve) as (serving, log):
        train[train.index("--address") + 1] = said(r"--address (\S+)", serving, log)
        done = run_module(*train, *SHORT, "--no-evaluate", cwd=tmp_path, timeout=300)
        assert done.returncode == 0, done.stderr
        assert re.search(r"helpers \d+: \d+ batches, \d+ made here", done.stdout), done.stdout
        _two_processes_are_helped(tmp_path, train, run_module)
    assert serving.returncode == 130, log.read_text()
    compare.insert(compare.index("--"), "--seeds=1")
    done = run_module(*compare, *SHORT, cwd=tmp_path, timeout=400)
    assert done.returncode == 0, done.stderr
    assert "[cvsa:saliencyswap seed 0] " in done.stdout


def test_machines_are_joined_by_the_commands_of_ray(shared_data, tmp_path, run_module, monkeypatch):
    """Two nodes of a cluster, both on this machine and on loopback, by README's words: each gets a helper."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "CUB_200_2011").symlink_to(shared_data / "CUB_200_2011")
    assert not run_module("precompute.boxes", "--dataset", "cub", cwd=tmp_path).returncode
    text = (ROOT / "README.md").read_text()
    mode, *head = re.search(r"`(RAY_AUTH_MODE=token) (ray start --head)`", text).groups()
    monkeypatch.setenv(*mode.split("="))
    join = re.search(r"`RAY_AUTH_MODE=token (ray start --address )HOST:6379`", text)[1]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    ray = os.path.join(os.path.dirname(sys.executable), "ray")
    here = ["--block", "--node-ip-address", "127.0.0.1", "--num-cpus", "1", "--object-store-memory", str(100 << 20)]
    first = [*head[0].split(), *here, "--port", address.split(":")[1], "--include-dashboard=false"]
    second = [*join.split(), address, *here]
    serve, train, _ = commands()
    with ExitStack() as stack:
        for command in (first, second):
            at = stack.enter_context(begun(tmp_path / command[2], ray, *command[1:]))
            said(r"(Ray runtime started)", *at)
        serve = [sys.executable, "-m", *serve, "--address", address, "--every", "2"]
        # Both have answered: what a helper imports takes a while, and a training makes its batches itself until then.
        said(r"(: 0 batches.*\n.*: 0 batches)", *stack.enter_context(begun(tmp_path, *serve)))
        train[train.index("--address") + 1] = address
        done = run_module(*train, *SHORT, "--epochs", "4", "--no-evaluate", cwd=tmp_path, timeout=300)
        assert done.returncode == 0, done.stderr
        assert re.search(r"helpers 2: [1-9]\d* batches", done.stdout), done.stdout


def commands() -> list[list[str]]:
    """README's commands: serve, train, compare; what follows `python -m`."""
    found = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    return [shlex.split(line)[2:] for line in found[0].splitlines()]


@contextmanager
def begun(folder: Path, *command: str):
    """A process in a folder, and the file of what it says; it is ended, and everything that it began."""
    folder.mkdir(exist_ok=True)
    log = folder / "said.log"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with open(log, "w") as out:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=out, stderr=subprocess.STDOUT)
    try:
        yield process, log
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)


def said(pattern: str, process: subprocess.Popen, log: Path) -> str:
    """What the group of the pattern is, as soon as the process says it."""
    until = time.monotonic() + 180
    while not (found := re.search(pattern, log.read_text())):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < until, log.read_text()
        time.sleep(0.2)
    return found[1]


def _two_processes_are_helped(folder: Path, train: list[str], run_module) -> None:
    """Two processes of one training, each a client of its own, train as they do without helpers."""
    launch = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    alone = train[: train.index("--service")]
    losses = {}
    for name, command in (("helped", train), ("alone", alone)):
        out = folder / f"two-{name}"
        flags = [*SHORT, "--no-evaluate", "--workers", "1", "--log-every", "1", "--out", out]
        done = run_module(*launch, *command, *flags, cwd=folder, timeout=400, OMP_NUM_THREADS="1")
        assert done.returncode == 0, done.stderr
        assert ("helpers" in done.stdout) == (name == "helped"), done.stdout
        rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        losses[name] = [row["loss"] for row in rows if row["kind"] == "step"]
    assert len(losses["alone"]) > 3
    assert losses["helped"] == losses["alone"]
