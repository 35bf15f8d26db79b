"""The boxes command stopped, killed, run twice at once, in several processes, or on a full disk."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def start(*arguments: object) -> subprocess.Popen:
    command = [sys.executable, "-m", "precompute.boxes", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def test_ctrl_c_leaves_nothing_half_written(demo_root, tmp_path):
    out = tmp_path / "out" / "x.h5"
    process = start("--dataset", "demo", "--root", demo_root, "--out", out, "--workers", 1, "--shard", 4)
    wait_for(lambda: list(tmp_path.glob("out/.x.h5.shards/*/000002.h5")))
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert not out.exists()


def test_killed_runs_end_as_the_unbroken_one(boxes, demo_root, tmp_path):
    unbroken = tmp_path / "unbroken.h5"
    common = ("--dataset", "demo", "--root", demo_root, "--shard", 4)
    boxes(*common, "--out", unbroken)
    out = tmp_path / "out" / "x.h5"
    rng = random.Random(0)
    for _ in range(5):
        process = start(*common, "--out", out, "--workers", 1)
        finished = list(tmp_path.glob("out/.x.h5.shards/*/*.h5"))
        wait_for(lambda: len(list(tmp_path.glob("out/.x.h5.shards/*/*.h5"))) > len(finished) or process.poll() == 0)  # noqa: B023
        time.sleep(rng.random() * 0.02)
        process.kill()
        process.communicate(timeout=60)
    done = boxes(*common, "--out", out)
    assert "an earlier run was interrupted" in done.stdout or "up to date" in done.stdout
    assert out.read_bytes() == unbroken.read_bytes()
    assert sorted(os.listdir(out.parent)) == ["x.h5"]


def test_torchrun_splits_the_work_and_writes_the_same_file(boxes, demo_root, tmp_path):
    alone, together = tmp_path / "alone.h5", tmp_path / "together.h5"
    common = ("--dataset", "demo", "--root", demo_root, "--source", "geodesic", "--shard", 32)
    boxes(*common, "--out", alone)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m",
               "precompute.boxes", *map(str, common), "--out", str(together)]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "2 processes" in done.stdout
    assert done.stdout.count("96 boxes") == 1
    assert alone.read_bytes() == together.read_bytes()


def test_two_runs_at_once_are_safe(boxes, demo_root, tmp_path):
    out = tmp_path / "out" / "x.h5"
    common = ("--dataset", "demo", "--root", demo_root, "--shard", 4, "--out")
    runs = [start(*common, out, "--workers", 1) for _ in range(3)]
    for run in runs:
        _, errors = run.communicate(timeout=120)
        assert run.returncode == 0, errors
    boxes(*common, tmp_path / "y.h5")
    assert out.read_bytes() == (tmp_path / "y.h5").read_bytes()


def test_full_disk_keeps_the_old_file(boxes, demo_root, tmp_path):
    out = tmp_path / "x.h5"
    boxes("--dataset", "demo", "--root", demo_root, "--out", out)
    before = out.read_bytes()
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000));"
        "from precompute.boxes import program; from precompute.base.program import main; main(program)"
    )
    command = [
        sys.executable,
        "-c",
        code,
        "--dataset",
        "demo",
        "--root",
        str(demo_root),
        "--out",
        str(out),
        "--rebuild",
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert out.read_bytes() == before


def test_an_interrupted_run_ends_with_all_maps(boxes, demo_root, tmp_path):
    out, maps = tmp_path / "out" / "x.h5", tmp_path / "maps"
    detect = ("--dataset", "demo", "--root", demo_root, "--source", "geodesic", "--shard", 8, "--keep-maps", maps)
    process = start(*detect, "--out", out, "--workers", 1)
    wait_for(lambda: list(tmp_path.glob("out/.x.h5.shards/*/000002.h5")) or process.poll() is not None)
    process.kill()
    process.communicate(timeout=60)
    next(maps.rglob("*.png")).unlink()  # of a shard that is there
    boxes(*detect, "--out", out)
    assert len(list(maps.rglob("*.png"))) == 96
    assert not list(maps.rglob("*.tmp"))
