"""The path of the tempered form's boxes over all γ, and another γ without another search.

    python -m precompute.boxes --dataset folder --root my_pictures --out cache/mine.h5 --source geodesic --store-path
    python -m precompute.search.box_path --boxes cache/mine.h5 --value 0.1 --out cache/mine-0.1.h5

Σ S′ / |B|^γ grows with the sum and is quasi-convex in area and sum, so whatever γ is, its best box lies on the upper
hull of {(area, largest sum of any box of that area)}: a few dozen boxes a map. The file that comes out is the one that
`precompute.boxes --value 0.1` would make, byte for byte.
"""

import dataclasses
import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from precompute.base.errors import UserError
from precompute.base.options import Parser, add_options, option, read_options
from precompute.base.program import main

if TYPE_CHECKING:
    import numpy as np

    from precompute.base.boxfile import BoxCache

RECTS, SUMS = "path_rects", "path_sums"  # the columns of a box file that hold paths


@dataclass(frozen=True)
class Config:
    """The command's settings and their only defaults."""

    boxes: str | None = option(None, "box file made with --store-path")
    value: float | None = option(None, "the new gamma, from 0 to 1")
    out: str | None = option(None, "the file to write")
    json: bool = option(False, "print the summary as one JSON document at the end")

    def __post_init__(self) -> None:
        for name in ("boxes", "value", "out"):
            if getattr(self, name) is None:
                raise ValueError(f"--{name} is needed")
        if self.value is not None and not 0 <= self.value <= 1:
            raise ValueError(f"--value {self.value}: must be from 0 to 1")


def program(argv: list[str] | None = None) -> int:
    parser = Parser("precompute.search.box_path", __doc__)
    add_options(parser, Config)
    config = read_options(Config, parser.parse_args(argv))
    from precompute.base.boxfile import BoxCache, write

    assert config.boxes is not None
    assert config.value is not None
    assert config.out is not None
    old = BoxCache.open(config.boxes)
    new = retemper(old, config.value)
    if os.path.exists(config.out):
        there = BoxCache.open(config.out)  # a file of another kind says so
        if (there.dataset, there.paths.tolist()) != (old.dataset, old.paths.tolist()):
            raise UserError(
                f"{config.out} exists and has the boxes of another set ({there.dataset}). Name another --out"
            )
    write(config.out, new)
    changed = int((new.boxes != old.boxes).any(1).sum())
    before = old.provenance["config"]["value"]
    print(f"gamma {before:g} -> {config.value:g}: {changed} of {len(new)} boxes changed; written: {config.out}")
    if config.json:
        print(json.dumps({"out": config.out, "images": len(new), "changed": changed, "gamma": config.value}))
    return 0


def retemper(cache: "BoxCache", gamma: float) -> "BoxCache":
    """The box file with the boxes of another γ, from its stored paths. Raises UserError where it has none."""
    import numpy as np

    if RECTS not in cache.extras:
        raise UserError(
            f"this box file of {cache.dataset!r} holds no box paths: "
            "make it with python -m precompute.boxes --store-path (a detector's boxes, --form tempered)"
        )
    config = cache.provenance["config"]
    grid = int(config["grid"])
    boxes, scores = cache.boxes.copy(), cache.scores.copy()
    rows = np.flatnonzero(cache.extras[RECTS].any((1, 2)))
    if len(rows):
        rects, inside = choose(cache.extras[RECTS][rows], cache.extras[SUMS][rows], grid * grid, gamma)
        boxes[rows] = (rects / grid).astype(np.float32)
        areas = (rects[:, 2] - rects[:, 0]) * (rects[:, 3] - rects[:, 1])
        scores[rows] = (inside / areas / 255).astype(np.float32)
    provenance: dict[str, Any] = dict(cache.provenance) | {"config": config | {"value": gamma}}
    return dataclasses.replace(cache, boxes=boxes, scores=scores, provenance=provenance)


def choose(rects: "np.ndarray", sums: "np.ndarray", points: int, gamma: float) -> "tuple[np.ndarray, np.ndarray]":
    """The boxes int64 [B, 4] of γ, and the uncut map's sums in them, from paths [B, K, 4] and [B, K, 2]."""
    import numpy as np

    from precompute.search.forms import area_powers

    rects = rects.astype(np.int64)
    areas = (rects[..., 2] - rects[..., 0]) * (rects[..., 3] - rects[..., 1])
    scores = np.where(areas > 0, sums[..., 0] / area_powers(points, gamma)[areas], -np.inf)
    best = scores.argmax(1)  # paths ascend by area, so of equal scores the smallest box comes first: the tie rule
    each = np.arange(len(rects))
    return rects[each, best], sums[each, best, 1]


def box_paths(maps: "np.ndarray", searched: "np.ndarray") -> "tuple[np.ndarray, np.ndarray]":
    """Paths of B maps uint8 [B, H, W] and of what is left of them after the cut.

    Rectangles uint8 (uint16 where a side is above 255) [B, K, 4] by ascending area, padded with 0; int32 [B, K, 2]:
    their sums after and before the cut.
    """
    import numpy as np

    from precompute.search.forms import integral

    paths = [_path(one) if one.any() else [] for one in searched]
    longest = max(map(len, paths), default=0)
    rects = np.zeros((len(maps), longest, 4), np.uint8 if max(maps.shape[1:]) < 256 else np.uint16)
    sums = np.zeros((len(maps), longest, 2), np.int32)
    for i, path in enumerate(paths):
        if path:
            rects[i, : len(path)] = path
            x0, y0, x1, y1 = np.array(path).T
            for j, table in enumerate((integral(searched[i]), integral(maps[i]))):
                sums[i, : len(path), j] = table[y1, x1] - table[y0, x1] - table[y1, x0] + table[y0, x0]
    return rects, sums


def stack_paths(paths: "list[tuple[np.ndarray, np.ndarray] | None]", grid: int) -> "dict[str, np.ndarray]":
    """The columns of N rows: paths of different lengths padded to the longest, None (no map) all 0."""
    import numpy as np

    longest = max((len(path[0]) for path in paths if path is not None), default=0)
    rects = np.zeros((len(paths), longest, 4), np.uint8 if grid < 256 else np.uint16)
    sums = np.zeros((len(paths), longest, 2), np.int32)
    for i, path in enumerate(paths):
        if path is not None:
            rects[i, : len(path[0])], sums[i, : len(path[0])] = path
    return shortest({RECTS: rects, SUMS: sums})


def shortest(columns: "dict[str, np.ndarray]") -> "dict[str, np.ndarray]":
    """The same columns without padding that no row needs, so that the rows alone decide their width."""
    used = int(columns[RECTS].any(2).sum(1).max(initial=0))
    return {name: column[:, :used] for name, column in columns.items()}


def _path(one: "np.ndarray") -> list[tuple[int, int, int, int]]:
    """x0, y0, x1, y1 of every box on the hull of one map with a positive pixel; points on its edges are kept."""
    import numpy as np

    from precompute.search.forms import integral, largest_sum

    # No best box reaches beyond what is left of the map.
    rows, columns = np.flatnonzero(one.any(1)), np.flatnonzero(one.any(0))
    top, left = int(rows[0]), int(columns[0])
    one = one[top : rows[-1] + 1, left : columns[-1] + 1]
    height, width = one.shape
    largest = _size_table(one)
    by_area = np.zeros(height * width + 1, np.int64)
    areas = np.outer(np.arange(1, height + 1), np.arange(1, width + 1))
    np.maximum.at(by_area, areas.ravel(), largest.ravel())
    best = np.maximum.accumulate(by_area)
    records = np.flatnonzero(by_area[1:] > best[:-1]) + 1  # areas that hold more than any smaller one
    table = integral(one)
    path = []
    for area, total in _upper_hull(records.tolist(), by_area[records].tolist()):
        sizes = np.argwhere((areas == area) & (largest == total)) + 1
        places = [(*largest_sum(table, h, w)[1:], h, w) for h, w in sizes.tolist()]
        y0, x0, h, w = min(places)  # the tie rule within an area: y0, x0, height
        path.append((left + x0, top + y0, left + x0 + w, top + y0 + h))
    return path


def _size_table(one: "np.ndarray") -> "np.ndarray":
    """The largest sum int64 [H, W] of any box of height h + 1 and width w + 1."""
    import numpy as np
    from numpy.lib.stride_tricks import as_strided

    height, width = one.shape
    kind = np.int32 if one.size < 2**23 else np.int64
    table = np.zeros((height + 1, width + 1), kind)
    table[1:, 1:] = one.astype(kind).cumsum(0).cumsum(1)
    padded = np.full((height, 2 * width + 1), np.iinfo(kind).min // 2, kind)  # beyond the edge: never the largest
    largest = np.zeros((height, width), np.int64)
    step = padded.itemsize
    for h in range(1, height + 1):
        rows = padded[: height - h + 1]
        np.subtract(table[h:], table[:-h], out=rows[:, : width + 1])
        ends = as_strided(rows[:, 1:], (len(rows), width, width), (rows.strides[0], step, step))  # [y0, w, x0]
        largest[h - 1] = (ends - rows[:, None, :width]).max(0).max(1)
    return largest


def _upper_hull(areas: list[int], sums: list[int]) -> list[tuple[int, int]]:
    """The points on the upper hull, in whole numbers and so exactly; those on its edges belong to it."""
    hull: list[tuple[int, int]] = []
    for area, total in zip(areas, sums, strict=True):
        while len(hull) > 1:
            (a0, s0), (a1, s1) = hull[-2:]
            if (s1 - s0) * (area - a0) >= (total - s0) * (a1 - a0):
                break
            hull.pop()
        hull.append((area, total))
    return hull


if __name__ == "__main__":
    main(program)
