"""Sweeps, the roofline, long streams: counts against counting by hand, slopes against known laws, small real runs."""

import json

import numpy as np
import pytest

from benchmarks import report, results, roofline, sweep


@pytest.fixture(scope="module")
def boxes(demo_root, tmp_path_factory, run_module):
    out = tmp_path_factory.mktemp("growth") / "demo.h5"
    done = run_module("precompute.boxes", "--dataset", "cub", "--root", demo_root, "--out", out)
    assert done.returncode == 0, done.stderr
    return out


def test_slope_of_known_laws():
    values = [1.0, 4.0, 16.0]
    assert sweep.slope(values, [3.0, 3.0, 3.0]) == pytest.approx(0)
    assert sweep.slope(values, [0.5 * v for v in values]) == pytest.approx(1)
    assert sweep.slope(values, [7 * v**2 for v in values]) == pytest.approx(2)


def test_count_by_hand(demo_images):
    """One source, one view: every number written out."""
    from dataclasses import replace

    from augment.views.policy import Policy
    from augment.views.schedule import Schedule

    schedule = Schedule(Policy(size=64, views=1, group=2), np.arange(2), 1, 0, True)
    plan = schedule.plan(demo_images.pool, np.arange(2), 0, 0)
    plan = replace(
        plan,
        rects=np.array([[[8, 4, 40, 20]]], np.int32),  # 32 × 16
        patch=np.array([[[0, 0, 128, 64]]], np.int32),  # four times as large in both directions
        sigma=np.array([[0.5]], np.float32),  # radius 2, window 5
    )
    moved, operations = roofline.count(plan)
    assert moved == 3 * 128 * 64 + 3 * (64 * 64 - 32 * 16) + 3 * 64 * 64 * 4
    resize = 3 * 32 * (64 * 8 + 16 * 8)  # 8 taps: columns for all 64 rows, then rows
    assert operations == resize + (12 + 3) * 64 * 64 + 2 * 5 * 3 * 64 * 64
    still = replace(plan, sigma=np.zeros((1, 1), np.float32))
    assert roofline.count(still)[1] == operations - 2 * 5 * 3 * 64 * 64
    assert roofline.count(still, itemsize=2)[0] == moved - 3 * 64 * 64 * 2


@pytest.fixture
def demo_images(boxes, demo_root):
    from augment.stream.imageset import ImageSet

    return ImageSet.open(boxes, demo_root)


def test_resized_photographs(demo_images, demo_root, tmp_path):
    from augment.stream.imageset import ImageSet
    from precompute.base import pixels

    cache = demo_images.parts[0][0]
    rows = np.array([3, 0, 3])
    small = sweep.resized(cache, demo_root, rows, 0.01, tmp_path)
    found = ImageSet.open(small, tmp_path)
    for k, row in enumerate(rows):
        picture = pixels.decode(found.read(k))
        assert picture.shape[:2] == (small.heights[k], small.widths[k])
        assert 0.008e6 < picture.shape[0] * picture.shape[1] < 0.012e6
        assert np.array_equal(small.boxes[k], cache.boxes[row])


@pytest.mark.parametrize(
    ("module", "more"),
    [
        ("sweep", ["--over", "size", "--values", "32", "64", "--samples", "8", "--batch", "8", "--repeats", "2"]),
        ("sweep", ["--over", "images", "--values", "16", "32", "--size", "32", "--batch", "8", "--repeats", "2"]),
        ("roofline", ["--size", "64", "--batch", "8", "--batches", "1", "--repeats", "2"]),
        ("stream", ["--size", "32", "--batch", "8", "--batches", "4", "--repeats", "2"]),
    ],
    ids=["size", "images", "roofline", "stream"],
)
def test_small_real_runs(module, more, boxes, demo_root, tmp_path, run_module):
    few = [] if module == "roofline" else ["--peers", "pillow"]
    done = run_module(
        f"benchmarks.{module}", "--boxes", boxes, "--root", demo_root, *more, *few, "--backends", "fused:linear",
        "--json", "--out", tmp_path / "r.json", timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout.splitlines()[-1])
    assert results.load(tmp_path / "r.json") == document
    names = [arm["name"] for arm in document["arms"]]
    if module == "sweep":
        assert len(names) == 4
        values = document["sweep"]["values"]
        assert all(name.endswith((f"@ {values[0]:g}", f"@ {values[1]:g}")) for name in names)
        assert set(document["sweep"]["slopes"]) == {n.split(" @ ")[0] for n in names}
    elif module == "roofline":
        assert names == ["ours: fused (linear)"]
        assert 0 < document["roofline"]["shares"][names[0]] < 1
    else:
        assert names == ["decode only", "ours: fused (linear)", "ours: fused (linear), cached", "pillow"]
        assert 1 <= document["images_per_sample"] <= 3  # groups of 16 cross the batches of 8
        assert all(arm["batch_ms"]["p50"] <= arm["batch_ms"]["p99"] for arm in document["arms"])
    report.plot(document, tmp_path / "r.png")
    assert (tmp_path / "r.png").stat().st_size > 5000
    assert "Where we lose" in report.page({"r": document}, report.told)


@pytest.mark.parametrize(
    ("module", "arguments", "said"),
    [
        ("sweep", ["--over", "batch", "--values", "3"], "at least two"),
        ("sweep", ["--over", "batch", "--values", "1.5", "2"], "whole numbers"),
        ("sweep", ["--peers", "opencw"], "opencw"),
        ("stream", ["--batches", "7"], "multiple of --repeats"),
        ("sweep", ["--over", "size", "--values", "4", "8"], "--size 4: must be within 8 and 4096"),
        ("step", ["--size", "7"], "--size 7: must be within 8 and 4096"),
        ("roofline", ["--size", "5000"], "--size 5000: must be within 8 and 4096"),
        ("roofline", ["--out", "tests"], "--out tests: is a folder; name a file in it"),
        ("step", ["--out", "README.md/x.json"], "is no folder that can be written to"),
        ("search", ["--out", "README.md/x.json"], "is no folder that can be written to"),
        ("boxes_scale", ["--out", "tests"], "--out tests: is a folder"),
        ("detectors", ["--markdown", "README.md/x.md"], "--markdown README.md/x.md: "),
        ("suite", ["--out", "README.md"], "--out README.md: is a file; name a folder"),
    ],
)
def test_usage_errors(module, arguments, said, run_module):
    done = run_module(f"benchmarks.{module}", *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
