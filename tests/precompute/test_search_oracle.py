"""Every form of the search against the size table, on many maps of every kind.

The oracle here is batched, and checked against brute force over all boxes in `test_search`'s manner.
"""

import itertools
import math

import numpy as np
import pytest

from precompute.search.forms import Form, cut, find_boxes, quantise

FORMS = [
    *(Form("tempered", gamma) for gamma in (0.0, 0.02, 0.05, 0.4, 1.0)),
    Form("literal"),
    *(Form("min-area", v) for v in (0.05, 0.4, 1.0)),
    *(Form("min-side", v) for v in (0.21, 0.5)),
    *(Form("mass", v) for v in (0.3, 0.8, 1.0)),
    *(Form("tau", v) for v in (0.0, 0.4, 0.93)),
    Form("component"),
]
each_form = pytest.mark.parametrize("form", FORMS, ids=lambda f: f"{f.name}-{f.number:g}")
FEW = {(1, 1): 40, (1, 9): 80, (7, 5): 400, (8, 8): 600, (12, 12): 400, (13, 31): 40, (16, 16): 400, (24, 24): 40}
MANY = {
    (1, 1): 600,
    (1, 9): 4_000,
    (9, 2): 4_000,
    (7, 5): 20_000,
    (8, 8): 30_000,
    (12, 12): 23_000,
    (13, 31): 1_200,
    (16, 16): 12_000,
    (24, 24): 1_200,
    (64, 64): 80,
    (3, 2000): 24,
}
REAL = {16: 3_000, 32: 800, 64: 160}  # side: real maps, crops of them where the set has fewer pictures
KINDS = 8


def maps_of(shape: tuple[int, int], count: int, seed: int) -> np.ndarray:
    """uint8 [count, H, W]: noise, few levels (ties), sparse, blobs, constant, one pixel, all zero, floats with NaN."""
    rng = np.random.default_rng(seed)
    height, width = shape
    kind = np.arange(count) % KINDS
    out = np.zeros((count, height, width), np.uint8)
    out[kind == 0] = rng.integers(0, 256, out[kind == 0].shape)
    out[kind == 1] = rng.integers(0, 3, out[kind == 1].shape) * 100
    out[kind == 2] = rng.integers(0, 256, out[kind == 2].shape) * (rng.random(out[kind == 2].shape) < 0.15)
    blobs = int((kind == 3).sum())
    cy, cx, spread = (rng.random((blobs, 1, 1)) for _ in range(3))
    ys, xs = (np.arange(height)[:, None] + 0.5) / height, (np.arange(width) + 0.5) / width
    falls = np.exp(-(((ys - cy) ** 2 + (xs - cx) ** 2) / (0.1 + 0.3 * spread) ** 2))
    out[kind == 3] = np.rint(255 * falls * (0.8 + 0.2 * rng.random(falls.shape)))
    out[kind == 4] = rng.integers(0, 256, (int((kind == 4).sum()), 1, 1))
    single = np.flatnonzero(kind == 5)
    out[single, rng.integers(0, height, len(single)), rng.integers(0, width, len(single))] = rng.integers(1, 256)
    floats = rng.normal(size=out[kind == 7].shape)
    floats[rng.random(floats.shape) < 0.1] = np.nan
    out[kind == 7] = quantise(floats)
    return out


def real_maps(shared_data, side: int, count: int) -> np.ndarray:
    """Maps of the default detector on real pictures, then random crops of them at twice the side."""
    from precompute.base.pixels import thumbnail
    from precompute.saliency import make_detector
    from precompute.scan import detect_maps

    detector = make_detector("geodesic-colour")
    files = sorted((shared_data / "CUB_200_2011" / "images").rglob("*.jpg"))[: min(count, 160)]
    small = np.stack([thumbnail(file.read_bytes(), detector.side)[1] for file in files])
    steps = range(0, len(small), detector.batch)
    whole, large = (
        np.concatenate([detect_maps(detector, small[i : i + detector.batch], grid, "cpu") for i in steps])
        for grid in (side, 2 * side)
    )
    rng = np.random.default_rng(side)
    out = list(whole)
    while len(out) < count:
        y, x = rng.integers(0, side, 2)
        out.append(large[len(out) % len(large), y : y + side, x : x + side])
    return quantise(np.stack(out[:count]))


def size_tables(maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """M[b, h, w] = the largest sum of any h × w box, int64, and its first place by rows, y0 · W + x0."""
    count, height, width = maps.shape
    table = np.zeros((count, height + 1, width + 1), np.int64)
    table[:, 1:, 1:] = maps.astype(np.int64).cumsum(1).cumsum(2)
    largest = np.zeros((count, height + 1, width + 1), np.int64)
    first = np.zeros((count, height + 1, width + 1), np.int64)
    for h, w in itertools.product(range(1, height + 1), range(1, width + 1)):
        sums = table[:, h:, w:] - table[:, :-h, w:] - table[:, h:, :-w] + table[:, :-h, :-w]
        flat = sums.reshape(count, -1)
        at = flat.argmax(1)
        largest[:, h, w] = flat[np.arange(count), at]
        first[:, h, w] = at // sums.shape[2] * width + at % sums.shape[2]
    return largest, first


def scores_of(form: Form, largest: np.ndarray) -> np.ndarray:
    """float64 [B, H + 1, W + 1] straight from the definitions, one size after the other; -inf: not allowed."""
    height, width = largest.shape[1] - 1, largest.shape[2] - 1
    scores = np.full(largest.shape, -np.inf)
    v, mass = form.number, largest[:, height, width]
    for h, w in itertools.product(range(1, height + 1), range(1, width + 1)):
        sums = largest[:, h, w]
        if form.name == "tempered":
            scores[:, h, w] = sums / float(h * w) ** v
        elif form.name == "tau":
            scores[:, h, w] = 256 * sums - round(v * 255 * 256) * h * w
        else:
            allowed = {
                "literal": True,
                "min-area": h * w >= math.ceil(v * height * width),
                "min-side": h >= math.ceil(v * height) and w >= math.ceil(v * width),
                "mass": sums >= v * mass,
            }[form.name]
            scores[:, h, w] = np.where(allowed, sums / (h * w), -np.inf)
    return scores


def flooded(one: np.ndarray) -> tuple[int, int, int, int]:
    """The bounding box of the largest 8-connected component, by flooding from every pixel in turn."""
    open_ = {(int(y), int(x)) for y, x in np.argwhere(one)}
    best: list[tuple[int, int]] = []
    for start in sorted(open_):
        if start not in open_:
            continue
        open_.remove(start)
        piece, at = [start], 0
        while at < len(piece):
            y, x = piece[at]
            at += 1
            for near in itertools.product((y - 1, y, y + 1), (x - 1, x, x + 1)):
                if near in open_:
                    open_.remove(near)
                    piece.append(near)
        if len(piece) > len(best):
            best = piece
    ys, xs = zip(*best, strict=True)
    return min(xs), min(ys), max(xs) + 1, max(ys) + 1


def oracle(searched: np.ndarray, tables: tuple[np.ndarray, np.ndarray], form: Form) -> np.ndarray:
    """Rectangles [B, 4] by the form's definition and the tie rule: area, y0, x0, height; 0 for empty maps."""
    rects = np.zeros((len(searched), 4), np.int64)
    full = searched.any((1, 2))
    if form.name == "component":
        for i in np.flatnonzero(full):
            rects[i] = flooded(searched[i])
        return rects
    largest, first = tables
    scores = scores_of(form, largest)
    image, h, w = np.nonzero(scores == scores.max((1, 2), keepdims=True))
    y0, x0 = np.divmod(first[image, h, w], searched.shape[2])
    order = np.lexsort((h, x0, y0, h * w, image))
    _, at = np.unique(image[order], return_index=True)
    pick = order[at]
    rects[:] = np.stack((x0, y0, x0 + w, y0 + h), 1)[pick]
    rects[~full] = 0
    return rects


class Sets:
    """Sets of maps with their size tables, raw and cut, made once for all forms."""

    def __init__(self, maps: list[np.ndarray]) -> None:
        self.maps = maps
        self.cut = [cut(some) for some in maps]
        self.raw_tables = [size_tables(some) for some in maps]
        self.cut_tables = [size_tables(some) for some in self.cut]

    def __len__(self) -> int:
        return sum(map(len, self.maps))

    def check(self, form: Form) -> None:
        """The search against the oracle, box for box."""
        for i, maps in enumerate(self.maps):
            searched = self.cut[i] if form.cuts else maps
            expected = oracle(searched, (self.cut_tables if form.cuts else self.raw_tables)[i], form)
            found = find_boxes(maps, form)
            np.testing.assert_array_equal(found, expected, err_msg=f"{form} {maps.shape}")


@pytest.fixture(scope="module")
def few() -> Sets:
    return Sets([maps_of(shape, count, seed=count + shape[0]) for shape, count in FEW.items()])


@pytest.fixture(scope="module")
def many(shared_data) -> Sets:
    made = [maps_of(shape, count, seed=count) for shape, count in MANY.items()]
    # In parts, so that the tables of many maps fit the memory.
    parts = [part for some in made for part in np.array_split(some, -(-len(some) // 2000))]
    return Sets([*parts, *(real_maps(shared_data, side, count) for side, count in REAL.items())])


def test_the_oracle_is_brute_force():
    maps = maps_of((4, 5), KINDS, seed=1)
    for form in FORMS[:-1]:
        searched = cut(maps) if form.cuts else maps
        expected = oracle(searched, size_tables(searched), form)
        for one, rect in zip(searched, expected.tolist(), strict=True):
            if not one.any():
                continue
            keys = []
            for y0, x0 in itertools.product(range(4), range(5)):
                for y1, x1 in itertools.product(range(y0 + 1, 5), range(x0 + 1, 6)):
                    table = np.zeros((1, 5, 6), np.int64)
                    table[0, y1 - y0, x1 - x0] = one[y0:y1, x0:x1].sum(dtype=np.int64)
                    table[0, 4, 5] = one.sum(dtype=np.int64)
                    score = float(scores_of(form, table)[0, y1 - y0, x1 - x0])
                    if score > -math.inf:
                        keys.append((-score, (y1 - y0) * (x1 - x0), y0, x0, y1 - y0, [x0, y0, x1, y1]))
            assert min(keys)[-1] == rect


@each_form
def test_search_is_the_oracle(few, form):
    few.check(form)


@pytest.mark.slow
@each_form
def test_search_is_the_oracle_on_100_000_maps(many, form):
    assert len(many) >= 100_000
    many.check(form)
