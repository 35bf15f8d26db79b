"""The search against the size table, and the size table against brute force over all boxes."""

import itertools
import math

import numpy as np
import pytest

from precompute.search.forms import FORMS, Form, Objective, branch_and_bound, cut, find_boxes, otsu, quantise

ALL_FORMS = [
    Form("tempered", 0.0),
    Form("tempered", 0.02),
    Form("tempered", 0.05),
    Form("tempered", 0.4),
    Form("tempered", 1.0),
    Form("literal"),
    Form("min-area", 0.4),
    Form("min-area", 0.05),
    Form("min-side", 0.5),
    Form("min-side", 0.21),
    Form("mass", 0.8),
    Form("mass", 0.3),
    Form("tau", 0.4),
    Form("tau", 0.0),
    Form("tau", 0.93),
]


def score(form: Form, shape: tuple[int, int], mass: int, total: int, h: int, w: int) -> float:
    """A box's score straight from the definitions; -inf where it is not allowed. `mass`: the whole map's."""
    height, width = shape
    v = form.number
    if form.name == "tempered":
        return total / (float(h * w) ** v)
    if form.name == "tau":
        return float(256 * total - round(v * 255 * 256) * h * w)
    allowed = {
        "literal": True,
        "min-area": h * w >= math.ceil(v * height * width),
        "min-side": h >= math.ceil(v * height) and w >= math.ceil(v * width),
        "mass": total >= v * mass,
    }[form.name]
    return total / (h * w) if allowed else -math.inf


def brute_force(one: np.ndarray, form: Form) -> tuple[int, int, int, int]:
    """Every box of the map, summed pixel by pixel; the tie rule as a sort key."""
    height, width = one.shape
    mass = int(one.sum(dtype=np.int64))
    best = None
    for y0, x0 in itertools.product(range(height), range(width)):
        for y1, x1 in itertools.product(range(y0 + 1, height + 1), range(x0 + 1, width + 1)):
            h, w = y1 - y0, x1 - x0
            value = score(form, one.shape, mass, int(one[y0:y1, x0:x1].sum(dtype=np.int64)), h, w)
            key = (-value, h * w, y0, x0, h)
            if value > -math.inf and (best is None or key < best[0]):
                best = (key, (x0, y0, x1, y1))
    assert best is not None
    return best[1]


def size_table(one: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """M[h, w] = the largest sum of any h × w box (int64), and its first position (y0, x0) by rows."""
    height, width = one.shape
    table = np.zeros((height + 1, width + 1), np.int64)
    table[1:, 1:] = one.astype(np.int64).cumsum(0).cumsum(1)
    largest = np.zeros((height + 1, width + 1), np.int64)
    first = np.zeros((height + 1, width + 1, 2), np.int64)
    for h in range(1, height + 1):
        rows = table[h:] - table[:-h]
        for w in range(1, width + 1):
            sums = rows[:, w:] - rows[:, :-w]
            at = int(sums.argmax())
            largest[h, w], first[h, w] = sums.flat[at], divmod(at, sums.shape[1])
    return largest, first


def by_size_table(one: np.ndarray, form: Form) -> tuple[int, int, int, int]:
    largest, first = size_table(one)
    mass = int(one.sum(dtype=np.int64))
    keys = []
    for h, w in itertools.product(range(1, one.shape[0] + 1), range(1, one.shape[1] + 1)):
        value = score(form, one.shape, mass, int(largest[h, w]), h, w)
        if value > -math.inf:
            y0, x0 = first[h, w].tolist()
            keys.append((-value, h * w, y0, x0, h, (x0, y0, x0 + w, y0 + h)))
    return min(keys)[-1]


def some_maps(shape: tuple[int, int], count: int, seed: int) -> np.ndarray:
    """Noise, few levels (many ties), sparse, blobs, constant, one pixel, all zero."""
    rng = np.random.default_rng(seed)
    height, width = shape
    ys, xs = np.mgrid[:height, :width]
    out = np.zeros((count, height, width), np.uint8)
    for i in range(count):
        kind = i % 7
        if kind == 0:
            out[i] = rng.integers(0, 256, shape)
        elif kind == 1:
            out[i] = rng.integers(0, 3, shape) * 100
        elif kind == 2:
            out[i] = rng.integers(0, 256, shape) * (rng.random(shape) < 0.15)
        elif kind == 3:
            cy, cx, s = rng.random() * height, rng.random() * width, 0.1 + 0.3 * rng.random()
            blob = np.exp(-(((ys - cy) / (s * height)) ** 2) - ((xs - cx) / (s * width)) ** 2)
            out[i] = np.rint(255 * blob * (0.8 + 0.2 * rng.random(shape)))
        elif kind == 4:
            out[i] = rng.integers(0, 256)
        elif kind == 5:
            out[i, rng.integers(height), rng.integers(width)] = rng.integers(1, 256)
    return out


def searched(maps: np.ndarray, form: Form) -> np.ndarray:
    return cut(maps) if form.cuts else maps


@pytest.mark.parametrize("form", ALL_FORMS, ids=lambda f: f"{f.name}-{f.number:g}")
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (6, 4), (5, 8)])
def test_oracle_is_brute_force_and_search_is_the_oracle(form, shape):
    maps = some_maps(shape, 28, seed=sum(shape))
    found = find_boxes(maps, form)
    for one, rect in zip(searched(maps, form), found, strict=True):
        if not one.any():
            assert rect.tolist() == [0, 0, 0, 0]
            continue
        expected = brute_force(one, form)
        assert by_size_table(one, form) == expected
        assert tuple(rect.tolist()) == expected


@pytest.mark.parametrize("form", ALL_FORMS, ids=lambda f: f"{f.name}-{f.number:g}")
@pytest.mark.parametrize("shape", [(16, 16), (24, 24), (13, 31)])
def test_search_is_the_size_table(form, shape):
    maps = some_maps(shape, 14, seed=shape[1])
    found = find_boxes(maps, form)
    for one, rect in zip(searched(maps, form), found, strict=True):
        expected = by_size_table(one, form) if one.any() else (0, 0, 0, 0)
        assert tuple(rect.tolist()) == expected


@pytest.mark.parametrize("gamma", [0.0, 0.02, 0.05, 0.5])
def test_the_batched_search_is_branch_and_bound_at_the_usual_size(gamma):
    maps = some_maps((64, 64), 21, seed=11)
    form = Form("tempered", gamma)
    found = find_boxes(maps, form)
    for one, rect in zip(cut(maps), found, strict=True):
        expected = branch_and_bound(one, Objective.of(form, one)) if one.any() else (0, 0, 0, 0)
        assert tuple(rect.tolist()) == expected


def test_a_map_alone_or_in_a_batch_gives_the_same_box():
    maps = some_maps((32, 32), 21, seed=5)
    for form in (Form(), Form("mass"), Form("component")):
        together = find_boxes(maps, form)
        for i in range(len(maps)):
            np.testing.assert_array_equal(find_boxes(maps[i : i + 1], form)[0], together[i])


def test_a_long_strip_and_an_empty_batch():
    strip = np.zeros((1, 3, 2000), np.uint8)
    strip[0, 1, 700:900] = 200
    assert find_boxes(strip).tolist() == [[700, 1, 900, 2]]
    assert find_boxes(np.zeros((0, 8, 8), np.uint8)).shape == (0, 4)


def test_literal_is_one_bright_pixel_and_gamma_nought_the_support():
    rng = np.random.default_rng(3)
    one = np.zeros((1, 20, 20), np.uint8)
    one[0, 4:12, 6:15] = rng.integers(120, 255, (8, 9))
    one[0, 7, 9] = 255
    assert find_boxes(one, Form("literal")).tolist() == [[9, 7, 10, 8]]
    assert find_boxes(one, Form("tempered", 0.0)).tolist() == [[6, 4, 15, 12]]


def test_component_takes_the_largest():
    one = np.zeros((1, 12, 12), np.uint8)
    one[0, 1:3, 1:3] = 250
    one[0, 6:10, 5:11] = 200
    one[0, 5, 4] = 200  # touches by a corner
    assert find_boxes(one, Form("component")).tolist() == [[4, 5, 11, 10]]


def test_otsu_is_scipys_definition():
    """The threshold against the textbook double loop."""
    rng = np.random.default_rng(0)
    for _ in range(10):
        values = rng.choice([10, 12, 60, 200, 201], 300).astype(np.uint8)
        best, where = -1.0, 0
        for t in range(256):
            low, high = values[values <= t].astype(float), values[values > t].astype(float)
            if len(low) and len(high):
                between = len(low) * len(high) * (low.mean() - high.mean()) ** 2
                if between > best * (1 + 1e-12):
                    best, where = between, t
        assert otsu(values.reshape(1, 20, 15)).tolist() == [where]


def test_quantise_takes_any_floats():
    maps = np.array([[[np.nan, 1.0], [3.0, 5.0]], [[2.0, 2.0], [2.0, 2.0]], [[np.inf, 0.0], [1.0, -1.0]]])
    out = quantise(maps)
    assert out.dtype == np.uint8
    assert out[0].tolist() == [[0, 51], [153, 255]]
    assert not out[1].any()
    assert out[2].tolist() == [[128, 128], [255, 0]]


def test_wrong_values_are_named():
    with pytest.raises(ValueError, match="form='best': must be one of tempered"):
        Form("best")
    with pytest.raises(ValueError, match=r"value=1\.5: must be from 0 to 1; of form mass"):
        Form("mass", 1.5)
    with pytest.raises(ValueError, match="uint8"):
        find_boxes(np.zeros((1, 4, 4)))
    assert set(FORMS) == {f.name for f in ALL_FORMS} | {"component"}
