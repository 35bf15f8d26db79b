"""Boxes of another gamma from the stored path are those of a new search; the file is that of a new run."""

import numpy as np
import pytest

from precompute.base.boxfile import BoxCache
from precompute.search.box_path import RECTS, SUMS, box_paths, choose
from precompute.search.forms import Form, cut, find_boxes, quantise


def some_maps(side: int, count: int, seed: int) -> np.ndarray:
    """Noise, ties, sparse pixels and blobs, one in four each; the last one is empty."""
    rng = np.random.default_rng(seed)
    out = np.zeros((count, side, side), np.uint8)
    out[::4] = rng.integers(0, 256, out[::4].shape)
    out[1::4] = rng.integers(0, 3, out[1::4].shape) * 100
    out[2::4] = rng.integers(0, 256, out[2::4].shape) * (rng.random(out[2::4].shape) < 0.1)
    at = np.linspace(-1, 1, side)
    for i in range(3, count, 4):
        y, x = rng.uniform(-0.6, 0.6, 2)
        blob = np.exp(-(((at[:, None] - y) / 0.4) ** 2) - ((at - x) / 0.5) ** 2)
        out[i] = quantise((blob * rng.uniform(0.8, 1, blob.shape))[None])[0]
    out[-1] = 0
    return out


@pytest.mark.parametrize("side", [3, 12, 24, 48])
def test_every_gamma_is_a_new_search(side):
    maps = some_maps(side, 32, seed=side)
    rects, sums = box_paths(maps, cut(maps))
    rng = np.random.default_rng(0)
    for gamma in (0.0, 0.02, 0.05, 0.5, 1.0, *rng.random(8) ** 3):
        found = find_boxes(maps, Form("tempered", float(gamma)))
        boxes, inside = choose(rects, sums, side * side, float(gamma))
        np.testing.assert_array_equal(boxes[found.usable], found.rects[found.usable])
        assert not boxes[~found.usable].any()
        for one, (x0, y0, x1, y1), total in zip(maps, boxes.tolist(), inside.tolist(), strict=True):
            assert one[y0:y1, x0:x1].sum(dtype=np.int64) == total


def test_a_path_ascends_and_is_padded_with_nothing():
    maps = some_maps(16, 8, seed=1)
    rects, sums = box_paths(maps, cut(maps))
    assert rects.dtype == np.uint8
    sides = rects.astype(int)
    areas = (sides[..., 2] - sides[..., 0]) * (sides[..., 3] - sides[..., 1])
    for row, total in zip(areas, sums[..., 0], strict=True):
        used = int((row > 0).sum())
        assert not row[used:].any()
        assert (np.diff(row[:used]) > 0).all()
        assert (np.diff(total[:used]) > 0).all()
    assert box_paths(np.zeros((1, 300, 300), np.uint8), np.zeros((1, 300, 300), np.uint8))[0].dtype == np.uint16


def test_the_file_is_that_of_a_new_run(run_here, demo_root, tmp_path):
    made = ("--dataset", "demo", "--root", demo_root, "--source", "geodesic", "--store-path", "--shard", 32)
    for name, value in (("a", 0.05), ("b", 0.3)):
        done = run_here("precompute.boxes", *made, "--value", value, "--out", tmp_path / f"{name}.h5")
        assert done.returncode == 0, done.stderr
    done = run_here(
        "precompute.search.box_path", "--boxes", tmp_path / "a.h5", "--value", 0.3, "--out", tmp_path / "c.h5"
    )
    assert done.returncode == 0, done.stderr
    assert "gamma 0.05 -> 0.3" in done.stdout
    assert (tmp_path / "c.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    a, c = BoxCache.open(tmp_path / "a.h5"), BoxCache.open(tmp_path / "c.h5")
    assert (a.boxes != c.boxes).any()
    assert a.extras[RECTS].shape[:1] == (96,)
    assert a.extras[RECTS][0].nbytes + a.extras[SUMS][0].nbytes < 2000


def test_what_has_no_path_is_said(run_here, demo_root, tmp_path):
    out = tmp_path / "x.h5"
    common = ("--dataset", "demo", "--root", demo_root, "--out", out)
    refused = run_here("precompute.boxes", *common, "--store-path")
    assert (refused.returncode, "annotated boxes have no path" in refused.stderr) == (1, True)
    for flag, value in (("--form", "mass"), ("--value", "0.5")):
        refused = run_here("precompute.boxes", *common, flag, value)
        assert (refused.returncode, f"{flag}: annotated boxes are not searched" in refused.stderr) == (1, True)
    refused = run_here("precompute.boxes", *common, "--source", "geodesic", "--store-path", "--form", "mass")
    assert (refused.returncode, "for --form tempered only" in refused.stderr) == (2, True)
    assert run_here("precompute.boxes", *common).returncode == 0
    refused = run_here("precompute.search.box_path", "--boxes", out, "--value", 0.1, "--out", tmp_path / "y.h5")
    assert refused.returncode == 1
    assert "holds no box paths" in refused.stderr
    assert run_here("precompute.search.box_path", "--boxes", out, "--value", 3, "--out", out).returncode == 2
