"""Two gloo processes under torchrun equal one process at the same global batch; BN over processes equals BN."""

import copy
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from trainer_runs import TINY, assert_same_training, rows_of

from trainer.parallel.batchnorm import synchronise_batch_norm
from trainer.parallel.collectives import resuming
from trainer.parallel.stop_vote import StopVote
from trainer.record import checkpoint

ROOT = Path(__file__).resolve().parent.parent.parent
BN = """
import copy, sys, torch, torch.distributed as dist
from trainer.parallel.batchnorm import synchronise_batch_norm
dist.init_process_group("gloo")
rank = dist.get_rank()
torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.Flatten(),
                          torch.nn.Linear(64, 6), torch.nn.BatchNorm1d(6)).double()
images, whole = torch.randn(8, 3, 6, 6, dtype=torch.float64), copy.deepcopy(net)
synchronise_batch_norm(net, "cpu")
weights = torch.randn(8, 6, dtype=torch.float64)
expected = (whole(images) * weights).sum()
expected.backward()
rows = slice(4 * rank, 4 * rank + 4)
(net(images[rows]) * weights[rows]).sum().backward()
for p, q in zip(net.parameters(), whole.parameters()):
    dist.all_reduce(p.grad)
    torch.testing.assert_close(p.grad, q.grad, rtol=1e-10, atol=1e-12)
torch.testing.assert_close(dict(net.named_buffers()), dict(whole.named_buffers()), rtol=1e-12, atol=1e-12)
net.eval(), whole.eval()
torch.testing.assert_close(net(images), whole(images))
dist.destroy_process_group()
"""


def torchrun(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [*command, *map(str, arguments)], cwd=ROOT, env=env, capture_output=True, text=True, timeout=240
    )


@pytest.mark.slow  # its effect is seen in the next test too
def test_batch_norm_over_processes_equals_batch_norm(tmp_path: Path) -> None:
    script = tmp_path / "bn.py"
    script.write_text(BN)
    done = torchrun(script)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow  # one of these is quick with three processes that are forked: test_trainer_collectives.py
@pytest.mark.parametrize(
    "method",
    [
        "cvsa --freeze-stages 1",
        "simclr",
        "looc",
        "cvsa --control shuffled-masks",
        "cvsa --control rolled-keys",
        "matching",
        "matching --control wrong-cells",
        "matching --control rolled-keys",
    ],
)
def test_two_processes_equal_one(
    demo_boxes: Path, demo_root: Path, tmp_path: Path, run_here: Callable, method: str
) -> None:
    flags = ["--boxes", demo_boxes, "--root", demo_root, "--arch", "resnet10w8", "--size", 32, "--batch-size", 16,
             "--device", "cpu", "--pipeline", "kornia", "--workers", 1, "--base-lr", 0.6, "--epochs", 2,
             "--method", *method.split()]  # fmt: skip
    torch.set_num_threads(1)
    one = run_here("trainer.run", *flags, "--out", tmp_path / "one")
    assert one.returncode == 0, one.stderr
    two = torchrun("-m", "trainer.run", *flags, "--out", tmp_path / "two")
    assert two.returncode == 0, two.stderr[-3000:]
    assert f"{ROOT}/trainer" not in two.stderr, "a warning about a line of ours"
    assert two.stdout.count("training: ") == 1  # the first process alone talks
    assert (tmp_path / "two" / "evaluation.json").exists()  # by the first process alone
    assert_same_training(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow  # two starts of torch
def test_the_first_line_after_a_resume_is_that_of_the_unbroken_run(
    demo_boxes: Path, demo_root: Path, tmp_path: Path
) -> None:
    """Its mean is over steps before and after the checkpoint, and over both processes."""
    flags = ["--boxes", demo_boxes, "--root", demo_root, *TINY, "--epochs", 2, "--log-every", 6, "--save-every", 4,
             "--no-evaluate"]  # fmt: skip
    one, two = tmp_path / "one", tmp_path / "two"
    done = torchrun("-m", "trainer.run", *flags, "--out", one)
    assert done.returncode == 0, done.stderr[-3000:]
    assert checkpoint.load(one / checkpoint.PREVIOUS)["step"] == 4
    shutil.copytree(one, two)
    os.rename(two / checkpoint.PREVIOUS, two / checkpoint.NAME)
    done = torchrun("-m", "trainer.run", "--resume", two)
    assert done.returncode == 0, done.stderr[-3000:]
    assert rows_of(two) == rows_of(one)
    assert [row["step"] for row in rows_of(one)] == [6]


def test_a_message_names_the_command_that_the_run_was_started_with(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resuming(Path("runs/a b")) == "python -m trainer.run --resume 'runs/a b'"
    monkeypatch.setattr("trainer.parallel.collectives.world", lambda: 4)
    assert resuming(Path("out")) == "torchrun --standalone --nproc-per-node 4 -m trainer.run --resume out"


@pytest.mark.slow  # three starts of torch
def test_a_signal_to_one_process_saves_and_ends_both(demo_boxes: Path, demo_root: Path, tmp_path: Path) -> None:
    """Within a few steps, and far from any log line; the continuation begins where both stopped."""
    out = tmp_path / "run"
    flags = ["--boxes", demo_boxes, "--root", demo_root, "--arch", "resnet10w8", "--size", 32, "--batch-size", 16,
             "--device", "cpu", "--workers", 1, "--epochs", 2000, "--log-every", 10, "--no-evaluate",
             "--out", out]  # fmt: skip
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [*command, "-m", "trainer.run", *map(str, flags)], cwd=ROOT, env=env, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
            if "step 10/" in line:
                os.kill(max(children(process.pid)), signal.SIGTERM)
                break
        try:
            rest, _ = process.communicate(timeout=120)
        except subprocess.TimeoutExpired:  # one of them went on alone: no test should wait for it, nor leave it behind
            for pid in [*children(process.pid), process.pid]:
                os.kill(pid, signal.SIGKILL)
            raise
        assert process.returncode != 0
    assert "stopped at step" in rest
    assert "step 20/" not in rest
    assert 10 < checkpoint.load(out / checkpoint.NAME)["step"] <= 10 + 2 * StopVote.EVERY + 2
    assert not [pid for pid in children(process.pid) if Path(f"/proc/{pid}").exists()]


def children(parent: int) -> list[int]:
    """Processes whose parent is `parent`, from /proc."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:  # ended in between
            continue
        if int(fields[1]) == parent:
            found.append(int(stat.parent.name))
    return found


@pytest.mark.parametrize("shape", [(8, 4, 5, 5), (8, 4)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_batch_norm_of_half_precision_equals_batch_norms(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        usual = torch.nn.BatchNorm2d(4) if len(shape) == 4 else torch.nn.BatchNorm1d(4)
        ours = synchronise_batch_norm(torch.nn.Sequential(copy.deepcopy(usual)), "cpu")
        x = (3 + torch.randn(shape)).to(dtype)
        found, expected = ours(x), usual(x)
        assert found.dtype == expected.dtype == dtype
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(dict(ours[0].named_buffers()), dict(usual.named_buffers()))  # type: ignore[index]
    finally:
        dist.destroy_process_group()
