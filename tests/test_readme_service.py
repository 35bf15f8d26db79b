"""README's commands for several trainings and machines run as they stand (training cut short)."""

import importlib.util
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHORT = ["--epochs", "1", "--arch", "resnet10w16", "--size", "48", "--batch-size", "16", "--device", "cpu"]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the extra ray is not installed")
def test_commands_for_several_machines_run(shared_data, tmp_path, run_module):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "CUB_200_2011").symlink_to(shared_data / "CUB_200_2011")
    assert not run_module("precompute.boxes", "--dataset", "cub", cwd=tmp_path).returncode
    found = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    serve, train, compare = (shlex.split(line)[2:] for line in found[0].splitlines())
    log = tmp_path / "serve.log"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with open(log, "w") as out:
        serving = subprocess.Popen(
            [sys.executable, "-m", *serve], cwd=tmp_path, env=environment, stdout=out, stderr=subprocess.STDOUT
        )
    try:
        until = time.monotonic() + 180
        while not (address := re.search(r"--address (\S+)", log.read_text())):
            assert serving.poll() is None, log.read_text()
            assert time.monotonic() < until
            time.sleep(0.2)
        train[train.index("--address") + 1] = address[1]
        done = run_module(*train, *SHORT, "--no-evaluate", cwd=tmp_path, timeout=300)
        assert done.returncode == 0, done.stderr
        assert re.search(r"helpers \d+: \d+ batches, \d+ made here", done.stdout), done.stdout
        _two_processes_are_helped(tmp_path, train, run_module)
    finally:
        serving.send_signal(signal.SIGTERM)
    assert serving.wait(timeout=60) == 130, log.read_text()
    compare.insert(compare.index("--"), "--seeds=1")
    done = run_module(*compare, *SHORT, cwd=tmp_path, timeout=400)
    assert done.returncode == 0, done.stderr
    assert "[cvsa:saliencyswap seed 0] " in done.stdout


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
