"""The tempered form for whole batches, exact and fast: pruned pairs of row and column intervals.

Maximise S(box) / |box|^γ for S ≥ 0. A box is a row interval times a column interval. Its sum is at most the sum of
all rows of its row interval, and of all columns of its column interval. With a good box at hand, of score L, only
intervals whose own sums reach L·(h·w)^γ for some width w that the columns can feed may belong to a better one. On real
maps a few dozen are left, and their pairs are summed exactly. Where thousands of pairs are left (γ near 1), the map
goes to the branch and bound of `search`.

Everything that prunes has a margin and keeps ties; the boxes left are scored as `search` does, so the winner is the
same to the last bit.
"""

import numpy as np
from numpy.lib.stride_tricks import as_strided

_MARGIN = 1 - 1e-6  # larger than all rounding of float32 products below
_BLOCK = 2
_MOST_PAIRS = 20_000  # a map; beyond, branch and bound is faster

# float32 holds sums exactly up to 2^24; beyond, they are rounded by less than the margin.


def search_pairs(maps: np.ndarray, powers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Best boxes int32 [B, 4] of maps uint8 [B, H, W], none of them empty; and bool [B]: solved here.

    `powers`: float64 [H·W + 1], area^γ.
    """
    count, height, width = maps.shape
    table = np.zeros((count, height + 1, width + 1), np.int32 if height * width < 2**23 else np.int64)
    np.cumsum(maps, axis=1, dtype=table.dtype, out=table[:, 1:, 1:])
    np.cumsum(table[:, 1:, 1:], axis=2, out=table[:, 1:, 1:])
    rows = _interval_sums(table[:, :, -1])  # [B, y0, h - 1]
    columns = _interval_sums(table[:, -1, :])  # [B, x0, w - 1]
    fair_h = (1 / powers[np.arange(1, height + 1)]).astype(np.float32)
    fair_w = (1 / powers[np.arange(1, width + 1)]).astype(np.float32)
    best = _a_good_box(table, rows, fair_h, fair_w)
    floor = _score(table, np.arange(count), *best, powers) * _MARGIN  # L, float64 [B]
    needed_rows, needed_columns = _needed(rows, columns, floor, powers)
    kept_rows = np.flatnonzero(rows >= needed_rows[:, None])
    kept_columns = np.flatnonzero(columns >= needed_columns[:, None])
    return _best_pairs(table, kept_rows, kept_columns, floor, powers)


def _interval_sums(prefix: np.ndarray) -> np.ndarray:
    """float32 [B, n, n]: sum of `length` (axis 2, from 1) entries from `start` (axis 1); negative where it cannot fit.

    `prefix` [B, n + 1] are running sums from 0.
    """
    count, n = prefix.shape[0], prefix.shape[1] - 1
    padded = np.full((count, 2 * n + 1), -1, np.float32)  # less than any running sum
    padded[:, : n + 1] = prefix
    step = padded.strides[1]
    ends = as_strided(padded[:, 1:], (count, n, n), (padded.strides[0], step, step))
    return ends - padded[:, :n, None]


def _a_good_box(table, rows, fair_h, fair_w):
    """y0, y1, x0, x1 [B]: best rows of the whole width, then the best columns of those."""
    each = np.arange(len(table))
    y0, y1 = _best_interval(rows, fair_h)
    x0, x1 = _best_interval(_interval_sums(table[each, y1] - table[each, y0]), fair_w)
    return y0, y1, x0, x1


def _best_interval(sums: np.ndarray, fair: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    n = sums.shape[1]
    start, length = np.divmod((sums * fair).reshape(len(sums), -1).argmax(1), n)
    return start, np.minimum(start + length + 1, n)


def _score(table, each, y0, y1, x0, x1, powers):
    return _sums(table, each, y0, y1, x0, x1) / powers[(y1 - y0) * (x1 - x0)]


def _sums(table, each, y0, y1, x0, x1):
    total = table[each, y1, x1].astype(np.int64)
    return total - table[each, y0, x1] - table[each, y1, x0] + table[each, y0, x0]


def _needed(rows, columns, floor, powers):
    """Least sums float32 [B, H] of row intervals by height, [B, W] of column intervals by width; inf: none will do."""
    most_rows, most_columns = rows.max(1), columns.max(1)  # by height, by width
    least = (floor * _MARGIN).astype(np.float32)[:, None, None]

    def needed(mine: np.ndarray, others: np.ndarray) -> np.ndarray:
        """For each of my sizes the least sum that a box must hold, over the other's sizes where both can hold it.

        The other's sizes are taken in blocks: the area of the smallest, the sums of the largest, so nothing is lost.
        """
        low = np.arange(1, others.shape[1] + 1, _BLOCK)
        high = np.minimum(low + _BLOCK - 1, others.shape[1])
        fair = powers[low[:, None] * np.arange(1, mine.shape[1] + 1)].astype(np.float32)
        need = least * fair
        np.copyto(need, np.inf, where=need > np.minimum(mine[:, None], others[:, high - 1, None]))
        return need.min(1)

    return needed(most_rows, most_columns), needed(most_columns, most_rows)


def _best_pairs(table, kept_rows, kept_columns, floor, powers):
    """The best of all pairs of kept intervals (flat indices into [B, start, length - 1]), by score and the tie rule."""
    count, height, width = len(table), table.shape[1] - 1, table.shape[2] - 1
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
    first_c = np.cumsum(per_image_c) - per_image_c
    repeats = per_image_c[image_r]
    ends = np.cumsum(repeats)
    total = int(ends[-1]) if len(ends) else 0
    of_row = np.repeat(np.arange(len(repeats)), repeats)
    of_column = np.arange(total) - np.repeat(ends - repeats, repeats) + first_c[image_r[of_row]]
    image, h, y0 = image_r[of_row], h[of_row], y0[of_row]
    w, x0 = w[of_column], x0[of_column]
    area = h * w
    score = _sums(table, image, y0, y0 + h, x0, x0 + w) / powers[area]
    good = np.flatnonzero(score >= floor[image])
    image, h, y0, w, x0, area, score = (v[good] for v in (image, h, y0, w, x0, area, score))
    top = np.full(count, -np.inf)
    np.maximum.at(top, image, score)
    ties = np.flatnonzero(score == top[image])
    ties = ties[np.lexsort((h[ties], x0[ties], y0[ties], area[ties], image[ties]))]
    first = ties[np.unique(image[ties], return_index=True)[1]]
    rects = np.zeros((count, 4), np.int32)
    rects[image[first]] = np.stack((x0[first], y0[first], x0[first] + w[first], y0[first] + h[first]), 1)
    return rects, solved
