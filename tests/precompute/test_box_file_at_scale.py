"""A box file of ImageNet's size: bytes a row, time and memory of loading it; memory of the pass while the set grows.

Every measurement is a process of its own. Peaks are VmHWM: getrusage's would be the parent's, where that was larger
when it started the process.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from precompute.base.boxfile import BoxCache, write

ROOT = Path(__file__).resolve().parent.parent.parent
MEMORY = """
def memory(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith(name + ":"))
"""
LOAD = (
    MEMORY
    + """
import json, sys, time
import h5py, numpy
from precompute.base.boxfile import BoxCache
before = memory("VmRSS")
cpu = time.process_time()
cache = BoxCache.open(sys.argv[1])
cpu = time.process_time() - cpu
print(json.dumps({"rows": len(cache), "cpu_s": cpu, "resident_mib": memory("VmRSS") - before,
                  "peak_mib": memory("VmHWM") - before}))
"""
)
PASS = (
    MEMORY
    + """
import json, sys
from precompute.boxes import program
program(sys.argv[1:])
print(json.dumps({"peak_mib": memory("VmHWM")}))
"""
)


def run(code: str, *arguments: object) -> dict[str, float]:
    """The last line that a process of its own prints, from JSON."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def make_file(path: Path, rows: int) -> None:
    """A box file with `rows` made-up rows, paths as ImageNet's."""
    rng = np.random.default_rng(0)
    low = rng.random((rows, 2)).astype(np.float32) * 0.4
    classes = np.arange(rows) * 1000 // rows
    names = [f"train/n{c:08d}/n{c:08d}_{i % 1300}.JPEG".encode() for i, c in enumerate(classes.tolist())]
    cache = BoxCache(
        dataset="imagenet",
        class_names=tuple(f"n{c:08d}" for c in range(1000)),
        split_names=("train",),
        source_names=("gt", "whole", "geodesic-colour"),
        paths=np.array(names),
        file_sizes=rng.integers(10_000, 300_000, rows),
        hashes=rng.integers(0, 256, (rows, 16), dtype=np.uint8),
        widths=rng.integers(200, 1000, rows, dtype=np.int32),
        heights=rng.integers(200, 1000, rows, dtype=np.int32),
        banners=np.zeros(rows, np.int16),
        labels=classes.astype(np.int32),
        splits=np.zeros(rows, np.uint8),
        boxes=np.concatenate((low, low + np.float32(0.5)), 1),
        sources=np.full(rows, 2, np.uint8),
        scores=rng.random(rows, dtype=np.float32),
        plain=np.ones(rows, bool),
    )
    write(path, cache)


@pytest.mark.parametrize("rows", [5000, pytest.param(1_281_167, marks=pytest.mark.slow)])
def test_size_and_loading(tmp_path, rows):
    """ImageNet's training set was 123 MB, opened with all checks in 0.09 s and 119 MiB (boxes-scale.json)."""
    path = tmp_path / "scale.h5"
    make_file(path, rows)
    load = run(LOAD, path)
    assert load["rows"] == rows
    assert 60 < path.stat().st_size / rows < 150
    if rows > 1_000_000:
        assert path.stat().st_size < 130e6
        assert load["cpu_s"] < 1  # ten times the figure: under load CPU time grows too
        assert load["peak_mib"] < 130


@pytest.mark.slow
def test_memory_of_the_pass_does_not_grow_with_the_set(tmp_path, demo_root):
    """The pass over n and over 4n pictures: links to a few real ones."""
    real = sorted((demo_root / "images").rglob("*.jpg"))
    peaks = []
    for count in (256, 1024):
        tree = tmp_path / f"tree-{count}"
        for i in range(count):
            link = tree / f"{i // 1000:04d}" / f"{i:08d}.jpg"
            link.parent.mkdir(parents=True, exist_ok=True)
            os.link(real[i % len(real)], link)
        arguments = ["--dataset", "folder", "--root", tree, "--out", tmp_path / f"{count}.h5"]
        peaks.append(run(PASS, *arguments, "--source", "geodesic-colour", "--shard", 128)["peak_mib"])
    assert 50 < peaks[1] < 1.1 * peaks[0]
