"""The box file and its making at scale: size and loading of a large file; memory of the pass while the set grows.

    python -m benchmarks.boxes_scale
    python -m benchmarks.boxes_scale --rows 1281167 --images 4096 --json

Every load is a process of its own: `BoxCache.open` with all its checks, from a file that the system has in memory.
The pass over pictures runs at n and at 4n pictures (links to a few real ones), so what grows with n is seen.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from precompute.base.errors import UserError
from precompute.base.options import Parser, add_options, as_json, option, read_options
from precompute.base.program import check_out, main

ROOT = Path(__file__).resolve().parent.parent
# Peaks are VmHWM: getrusage's would be the parent's, where that was larger when it started this process.
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
cpu, wall = time.process_time(), time.perf_counter()
cache = BoxCache.open(sys.argv[1])
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
print(json.dumps({"rows": len(cache), "wall_s": wall, "cpu_s": cpu, "resident_mib": memory("VmRSS") - before,
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


@dataclass(frozen=True)
class Config:
    """The command's settings and their only defaults."""

    rows: int = option(1_281_167, "rows of the generated box file; the default is ImageNet's training set")
    repeats: int = option(7, "loads of it")
    images: int = option(2048, "n: pictures of the smaller pass; 0: no passes")
    source: str = option("geodesic-colour", "detector of the passes")
    out: str | None = option(None, "write the result to this .json file")
    json: bool = option(False, "print the result as one JSON document at the end")

    def __post_init__(self) -> None:
        for name, least in (("rows", 1), ("repeats", 1), ("images", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"--{name} {getattr(self, name)}: must be {least} or more")


def program(argv: list[str] | None = None) -> int:
    parser = Parser("benchmarks.boxes_scale", __doc__)
    add_options(parser, Config)
    config = read_options(Config, parser.parse_args(argv))
    check_out(config.out)
    from benchmarks.harness import facts, spread
    from benchmarks.results import SCHEMA, save

    with tempfile.TemporaryDirectory() as folder:
        loads, size = measure_loads(Path(folder), config)
        passes = measure_passes(Path(folder), config) if config.images else {}
    peaks = [load["peak_mib"] for load in loads]
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "benchmark": "boxes_scale",
        "settings": as_json(config),
        **facts(),
        "arms": [
            {
                "name": "load",
                "inside": f"BoxCache.open of {config.rows} rows with its checks, a process each",
                "samples": 1,
                "cpu_ms": spread([1e3 * load["cpu_s"] for load in loads]),
                "wall_ms": spread([1e3 * load["wall_s"] for load in loads]),
            }
        ],
        "file_bytes": size,
        "load_resident_mib": spread([load["resident_mib"] for load in loads]),
        "load_peak_mib": spread(peaks),
        "passes": passes,
    }
    print(f"{config.rows} rows: {size / 1e6:.1f} MB, {size / config.rows:.1f} bytes a row")
    wall = document["arms"][0]["wall_ms"]
    print(f"loaded and checked in {wall['median']:.0f} ms ({wall['q25']:.0f}-{wall['q75']:.0f})")
    print(f"memory: {document['load_resident_mib']['median']:.0f} MiB kept, {max(peaks):.0f} MiB at most while loading")
    for count, peak in passes.items():
        print(f"pass over {count} pictures ({config.source}): {peak:.0f} MiB at most")
    if config.out:
        save(document, config.out)
        print(f"written: {config.out}")
    if config.json:
        print(json.dumps(document))
    return 0


def measure_loads(folder: Path, config: Config) -> tuple[list[dict[str, float]], int]:
    """What each load took, and the file's size in bytes."""
    path = folder / "scale.h5"
    make_file(path, config.rows)
    return [run(LOAD, str(path)) for _ in range(config.repeats)], path.stat().st_size


def make_file(path: Path, rows: int) -> None:
    """A box file with `rows` made-up rows, paths as ImageNet's."""
    import numpy as np

    from precompute.base.boxfile import BoxCache, write

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


def measure_passes(folder: Path, config: Config) -> dict[str, float]:
    """Peak memory in MiB of precompute.boxes over n and over 4n pictures."""
    from precompute.demo import make_demo

    make_demo(folder / "demo", images=64, quiet=True)
    real = sorted((folder / "demo" / "images").rglob("*.jpg"))
    peaks = {}
    for count in (config.images, 4 * config.images):
        tree = folder / f"tree-{count}"
        for i in range(count):
            link = tree / f"{i // 1000:04d}" / f"{i:08d}.jpg"
            link.parent.mkdir(parents=True, exist_ok=True)
            os.link(real[i % len(real)], link)
        arguments = ["--dataset", "folder", "--root", str(tree), "--out", str(folder / f"{count}.h5")]
        peaks[str(count)] = run(PASS, *arguments, "--source", config.source, "--shard", "512")["peak_mib"]
        shutil.rmtree(tree)
    return peaks


def run(code: str, *arguments: str) -> dict[str, float]:
    """The last line that a process of its own prints, from JSON."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"a measuring process failed: {done.stderr.strip().splitlines()[-1:]}")
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main(program)
