"""The tempered form for whole batches, exact and fast: pruned pairs of row and column intervals.

Maximise S(box) / |box|^γ for S ≥ 0. A box is a row interval times a column interval. Its sum is at most the sum of
all rows of its row interval, and of all columns of its column interval. With a good box at hand, of score L, only
intervals whose own sums reach L·(h·w)^γ for some width w that the columns can feed may belong to a better box. On real
maps a few dozen are left, and their pairs are summed exactly. Where thousands of pairs are left (γ near 1), the map
goes to the branch and bound of `forms`.

Everything that prunes has a margin and keeps ties; the boxes left are scored as `forms` does, so the winner is the
same to the last bit.
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

_MARGIN = 1 - 1e-6  # larger than all rounding of float32 products below
_MOST_PAIRS = 20_000  # a map; beyond, branch and bound is faster

# float32 holds sums exactly up to 2^24; beyond, they are rounded by less than the margin.


def search_pairs(maps: np.ndarray, powers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Best boxes int32 [B, 4] of maps uint8 [B, H, W], none of them empty; and bool [B]: solved here.

    `powers`: float64 [H·W + 1], area^γ.
    """
    above = _sums_above(maps)
    rows = _interval_sums(_running(maps.sum(2, dtype=above.dtype)))  # [B, y0, h - 1]
    columns = _interval_sums(_running(above[-1]))  # [B, x0, w - 1]
    most_rows, most_columns = rows.max(1), columns.max(1)  # by height, by width
    floor = _a_good_score(above, rows, columns, most_rows, most_columns, powers) * _MARGIN  # L, float64 [B]
    needed_rows, needed_columns = _needed(most_rows, most_columns, floor, powers)
    kept_rows = np.flatnonzero(rows >= needed_rows[:, None])
    kept_columns = np.flatnonzero(columns >= needed_columns[:, None])
    return _best_pairs(above, kept_rows, kept_columns, floor, powers)


def _sums_above(maps: np.ndarray) -> np.ndarray:
    """[H + 1, B, W]: sums of the first rows of each column. int32 where that is exact, else int64."""
    count, height, width = maps.shape
    above = np.zeros((height + 1, count, width), np.int32 if height * width < 2**23 else np.int64)
    above[1:] = maps.transpose(1, 0, 2)
    for y in range(1, height):  # rows of all maps at once: several times faster than cumsum over each map
        above[y + 1] += above[y]
    return above


def _running(values: np.ndarray) -> np.ndarray:
    """[N, n + 1]: running sums from 0 of [N, n]."""
    out = np.zeros((values.shape[0], values.shape[1] + 1), values.dtype)
    np.cumsum(values, axis=1, out=out[:, 1:])
    return out


def _interval_sums(prefix: np.ndarray) -> np.ndarray:
    """float32 [B, n, n]: sum of `length` (axis 2, from 1) entries from `start` (axis 1); negative where it cannot fit.

    `prefix` [B, n + 1] are running sums from 0.
    """
    count, n = prefix.shape[0], prefix.shape[1] - 1
    padded = np.full((count, 2 * n + 1), -1, np.float32)  # less than any running sum
    padded[:, : n + 1] = prefix
    return sliding_window_view(padded[:, 1:-1], n, axis=1) - padded[:, :n, None]


def _a_good_score(above, rows, columns, most_rows, most_columns, powers):
    """float64 [B]: the score of the best rows of the whole width with the best columns of the whole height."""
    each = np.arange(rows.shape[0])
    y0, y1 = _best_interval(rows, most_rows, powers)
    x0, x1 = _best_interval(columns, most_columns, powers)
    sums = _running(above[y1, each] - above[y0, each])
    return (sums[each, x1] - sums[each, x0]) / powers[(y1 - y0) * (x1 - x0)]


def _best_interval(sums: np.ndarray, most: np.ndarray, powers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Start and end [B] of the interval with the best score; `most`: the largest of `sums` by length."""
    length = (most / powers[1 : most.shape[1] + 1].astype(np.float32)).argmax(1)
    start = sums[np.arange(len(sums)), :, length].argmax(1)
    return start, start + length + 1


def _needed(most_rows, most_columns, floor, powers):
    """Least sums float32 [B, H] of row intervals by height, [B, W] of column intervals by width; inf: none will do."""
    least = (floor * _MARGIN).astype(np.float32)[:, None]

    def needed(sizes: int, most: np.ndarray) -> np.ndarray:
        """The least sum that a box must hold, for each size 1 to `sizes` of this side, whatever the other side's size.

        `most`: the largest sum by size of the other side. The least sum grows with the other size, so the smallest
        that can hold it decides: (m·n)^γ is m^γ · n^γ. That smallest size grows with this side's size, so it is looked
        up for every fourth size only and is a bound for the three above.
        """
        n = most.shape[1]
        powers_n = powers[1 : n + 1].astype(np.float32)
        densest = most / powers_n
        base = least * powers[1 : sizes + 1].astype(np.float32)
        at = (densest[:, None] >= base[:, ::4, None]).argmax(2)  # 0 where none is enough: reset below
        need = base * powers_n[at].repeat(4, 1)[:, :sizes]
        return np.where(base * _MARGIN <= densest.max(1, keepdims=True), need, np.float32(np.inf))

    return needed(most_rows.shape[1], most_columns), needed(most_columns.shape[1], most_rows)


def _best_pairs(above, kept_rows, kept_columns, floor, powers):
    """The best of all pairs of kept intervals (flat indices into [B, start, length - 1]), by score and the tie rule."""
    height, count, width = above.shape[0] - 1, above.shape[1], above.shape[2]
    image_r, rest = np.divmod(kept_rows, height * height)
    y0, h = np.divmod(rest, height)
    image_c, rest = np.divmod(kept_columns, width * width)
    x0, w = np.divmod(rest, width)
    h, w = h + 1, w + 1
    per_image_r = np.bincount(image_r, minlength=count)
    per_image_c = np.bincount(image_c, minlength=count)
    solved = per_image_r * per_image_c <= _MOST_PAIRS
    keep = solved[image_r]
    image_r, h, y0 = image_r[keep], h[keep], y0[keep]
    sums = _running(above[y0 + h, image_r] - above[y0, image_r])  # of the kept rows, along their columns
    first_c = np.cumsum(per_image_c) - per_image_c
    repeats = per_image_c[image_r]
    ends = np.cumsum(repeats)
    if not len(ends):
        return np.zeros((count, 4), np.int32), solved
    of_column = np.arange(ends[-1]) + np.repeat(first_c[image_r] - ends + repeats, repeats)
    left = np.repeat(np.arange(len(h)) * (width + 1), repeats) + x0[of_column]
    flat = sums.ravel()
    inside = flat[left + w[of_column]] - flat[left]
    score = inside / powers[np.repeat(h, repeats) * w[of_column]]
    good = np.flatnonzero(score >= np.repeat(floor[image_r], repeats))
    of_row = np.searchsorted(ends, good, side="right")
    image, h, y0 = image_r[of_row], h[of_row], y0[of_row]
    w, x0, score = w[of_column[good]], x0[of_column[good]], score[good]
    top = np.full(count, -np.inf)
    np.maximum.at(top, image, score)
    ties = np.flatnonzero(score == top[image])
    ties = ties[np.lexsort((h[ties], x0[ties], y0[ties], h[ties] * w[ties], image[ties]))]
    first = ties[np.unique(image[ties], return_index=True)[1]]
    rects = np.zeros((count, 4), np.int32)
    rects[image[first]] = np.stack((x0[first], y0[first], x0[first] + w[first], y0[first] + h[first]), 1)
    return rects, solved
