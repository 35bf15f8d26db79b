"""The best box of a saliency map: Eq. 2 of the paper, made well-posed, solved exactly.

Eq. 2 asks for the box with the largest mean. No mean exceeds the brightest pixel, so the 1×1 box there always wins
(`literal` shows it). The forms here constrain or temper it; each is exact over all boxes of the grid:

    tempered   max Σ S′ / |B|^γ     S′ = S where S > 0.75·Otsu(S), else 0; γ = 1 is Eq. 2, γ = 0 the whole support
    literal    max Σ S / |B|
    min-area   max Σ S / |B|        |B| ≥ v · |grid|
    min-side   max Σ S / |B|        height ≥ v · grid's height, width ≥ v · grid's width
    mass       max Σ S / |B|        Σ S ≥ v · the map's total
    tau        max Σ (S − v)        the Lagrangian of a constrained mean; v in [0, 1] of the map's range
    component  the box of the largest 8-connected component of S′

Maps are uint8, so sums are integers and exact, and scores are a single float64 division of integers by a number of one
table: every implementation gets the same score to the last bit. **Tie rule** for equal scores: smallest
area, then smallest y0, then smallest x0, then smallest height. An empty map (all zero) has no box.

Rectangles are int32 x0, y0, x1, y1 on the grid, end-exclusive.
"""

import functools
import heapq
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from precompute.base.errors import BadValue
from precompute.search.pairs import search_pairs

FORMS = {  # name: default value, whether the map is cut at 0.75 · Otsu, what the value means
    "tempered": (0.05, True, "gamma"),
    "literal": (0.0, False, "not used"),
    "min-area": (0.4, False, "the least area, as a share of the picture"),
    "min-side": (0.5, False, "the least sides, as a share of the picture's"),
    "mass": (0.8, False, "the least share of the map's total"),
    "tau": (0.4, False, "the threshold"),
    "component": (0.0, True, "not used"),
}
_AT_ONCE = 262_144  # grid points (64 maps of 64²) that the batched search takes together: what fits the cache
TAU_STEPS = 256  # tau is rounded to 1/256 of a grey level, so that its scores are integers


@dataclass(frozen=True)
class Form:
    """One form of Eq. 2 and its value (None: the form's default)."""

    name: str = "tempered"
    value: float | None = None

    def __post_init__(self) -> None:
        if self.name not in FORMS:
            raise BadValue("form", self.name, list(FORMS))
        if not 0 <= self.number <= 1:
            raise BadValue("value", self.value, f"from 0 to 1; of form {self.name} it is {FORMS[self.name][2]}")

    @property
    def number(self) -> float:
        return FORMS[self.name][0] if self.value is None else self.value

    @property
    def cuts(self) -> bool:
        return FORMS[self.name][1]


def quantise(maps: np.ndarray) -> np.ndarray:
    """float [B, H, W] of any range -> uint8 over the full range, each map by itself; NaN and constant maps -> 0."""
    maps = np.nan_to_num(np.asarray(maps, np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    low = maps.min((1, 2), keepdims=True)
    span = maps.max((1, 2), keepdims=True) - low
    scaled = np.divide(maps - low, span, out=np.zeros_like(maps), where=span > 0)
    return np.rint(scaled * 255).astype(np.uint8)


def otsu(maps: np.ndarray) -> np.ndarray:
    """Otsu's threshold of each map uint8 [B, H, W]: the first t with the largest variance between `<= t` and `> t`."""
    # 256 maps at a time share one histogram: value and map number fit 16 bits together.
    parts = [maps[i : i + 256].reshape(len(maps[i : i + 256]), -1) for i in range(0, len(maps), 256)]
    numbered = [part + 256 * np.arange(len(part), dtype=np.uint16)[:, None] for part in parts]
    counts = np.concatenate([np.bincount(part.ravel(), minlength=256 * len(part)) for part in numbered])
    counts = counts.reshape(-1, 256).astype(np.float64)  # whole numbers far below 2^53: exact, and faster than int64
    below = counts.cumsum(1)
    mass = (counts * np.arange(256.0)).cumsum(1)
    apart = mass[:, -1:] * below - below[:, -1:] * mass
    between = apart * apart / np.maximum(below * (below[:, -1:] - below), 1)
    return between.argmax(1)


def cut(maps: np.ndarray) -> np.ndarray:
    """S′: uint8 [B, H, W] with everything at or below 0.75 · Otsu set to 0."""
    highest = (3 * otsu(maps) // 4).astype(np.uint8)  # 4·S > 3·t is S > ⌊3·t / 4⌋ for whole numbers
    return maps * (maps > highest[:, None, None])


@functools.lru_cache(maxsize=8)
def area_powers(largest: int, gamma: float) -> np.ndarray:
    """float64 [largest + 1]: area^γ. The table behind all scores; never decreasing, as the bounds need it."""
    table = np.arange(largest + 1, dtype=np.float64) ** gamma
    table[0] = 1.0
    table = np.maximum.accumulate(table)
    table.flags.writeable = False  # the cache returns it again
    return table


def find_boxes(maps: np.ndarray, form: Form | None = None) -> np.ndarray:
    """The best box int32 [B, 4] of each map (uint8 [B, H, W]), exactly, by `form` (default: tempered); 0: no box.

    Raises ValueError for maps of another shape or dtype.
    """
    form = form or Form()
    if maps.dtype != np.uint8 or maps.ndim != 3:
        raise ValueError(f"maps {maps.dtype} {maps.shape}: uint8 [B, H, W] expected; see quantise")
    if not len(maps):
        return np.zeros((0, 4), np.int32)
    if form.cuts:
        maps = cut(maps)
    rects = np.zeros((len(maps), 4), np.int32)
    left = np.flatnonzero(maps.any((1, 2)))  # to search
    if form.name == "tempered" and len(left):
        powers = area_powers(maps.shape[1] * maps.shape[2], form.number)
        at_once = max(1, _AT_ONCE // max(maps.shape[1:]) ** 2)
        unsolved = []
        for some in np.array_split(left, -(-len(left) // at_once)):
            rects[some], solved = search_pairs(maps[some], powers)
            unsolved.append(some[~solved])
        left = np.concatenate(unsolved)
    for i in left:
        if form.name == "literal":
            y, x = divmod(int(maps[i].argmax()), maps.shape[2])  # the first brightest pixel: no mean is above it
            rects[i] = x, y, x + 1, y + 1
        elif form.name == "component":
            rects[i] = component(maps[i])
        else:
            rects[i] = branch_and_bound(maps[i], Objective.of(form, maps[i]))
    return rects


@dataclass(frozen=True)
class Objective:
    """A form for a map: the score of a box, and an upper bound for all boxes of a block of sizes.

    `score(sum, h, w)` never falls with the sum. -inf: not allowed.
    """

    score: Callable[[int, int, int], float]
    upper: Callable[[int, int, int, int, int], float]  # largest sum, h_low, w_low, h_high, w_high

    @staticmethod
    def of(form: Form, grid: np.ndarray) -> "Objective":
        height, width = grid.shape
        if form.name == "tau":
            step = round(form.number * 255 * TAU_STEPS)  # the threshold in 1/256 grey levels
            return Objective(
                lambda s, h, w: float(TAU_STEPS * s - step * h * w),
                lambda s, h0, w0, h1, w1: float(TAU_STEPS * s - step * h0 * w0),
            )
        powers = area_powers(height * width, form.number if form.name == "tempered" else 1.0)
        least_area, least_h, least_w, least_sum = 1, 1, 1, 0.0
        if form.name == "min-area":
            least_area = max(1, int(np.ceil(form.number * height * width)))
        elif form.name == "min-side":
            least_h, least_w = max(1, int(np.ceil(form.number * height))), max(1, int(np.ceil(form.number * width)))
        elif form.name == "mass":
            least_sum = form.number * int(grid.sum(dtype=np.int64))

        def upper(s: int, h0: int, w0: int, h1: int, w1: int) -> float:
            if h1 * w1 < least_area or h1 < least_h or w1 < least_w or s < least_sum:
                return -np.inf
            return s / powers[max(max(h0, least_h) * max(w0, least_w), least_area)]

        return Objective(lambda s, h, w: upper(s, h, w, h, w) if h * w >= least_area else -np.inf, upper)


def integral(grid: np.ndarray) -> np.ndarray:
    """int64 [H + 1, W + 1]: sums over all rectangles that begin in the corner."""
    return np.pad(grid.astype(np.int64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))


def largest_sum(table: np.ndarray, h: int, w: int) -> tuple[int, int, int]:
    """The largest sum over boxes of h × w and the first (y0, x0) that has it, by rows."""
    rows = table[h:] - table[:-h]
    sums = rows[:, w:] - rows[:, :-w]
    at = int(sums.argmax())
    y0, x0 = divmod(at, sums.shape[1])
    return int(sums[y0, x0]), y0, x0


def branch_and_bound(grid: np.ndarray, objective: Objective) -> tuple[int, int, int, int]:
    """The best box of a map with a positive pixel: best-first over blocks of sizes, split down to single sizes.

    For S ≥ 0 no box of a block has a larger sum than the best box of the block's largest size.
    """
    height, width = grid.shape
    table = integral(grid)
    at = functools.cache(functools.partial(largest_sum, table))
    best: tuple[float, int, int, int, int] | None = None  # score, -area, -y0, -x0, -h: larger is better
    answer = (0, 0, width, height)
    queue = [(-objective.upper(at(height, width)[0], 1, 1, height, width), 1, 1, height, width)]
    while queue:
        bound, h0, w0, h1, w1 = heapq.heappop(queue)
        if best is not None and -bound < best[0]:
            break
        if (h0, w0) == (h1, w1):
            total, y0, x0 = at(h0, w0)
            score = objective.score(total, h0, w0)
            key = (score, -h0 * w0, -y0, -x0, -h0)
            if score > -np.inf and (best is None or key > best):
                best, answer = key, (x0, y0, x0 + w0, y0 + h0)
            continue
        for block in _split(h0, w0, h1, w1):
            upper = objective.upper(at(block[2], block[3])[0], *block)
            if upper > -np.inf and (best is None or upper >= best[0]):
                heapq.heappush(queue, (-upper, *block))
    return answer


def _split(h0: int, w0: int, h1: int, w1: int) -> list[tuple[int, int, int, int]]:
    """A block of sizes in two or four."""
    hm, wm = (h0 + h1) // 2, (w0 + w1) // 2
    rows = [(h0, hm), (hm + 1, h1)] if h1 > h0 else [(h0, h1)]
    columns = [(w0, wm), (wm + 1, w1)] if w1 > w0 else [(w0, w1)]
    return [(a, c, b, d) for a, b in rows for c, d in columns]


def component(grid: np.ndarray) -> tuple[int, int, int, int]:
    """The bounding box of the largest 8-connected component (equal sizes: the first by rows)."""
    from scipy.ndimage import find_objects, label

    labels, _ = label(grid > 0, np.ones((3, 3)))  # type: ignore[misc]
    largest = int(np.bincount(labels.ravel())[1:].argmax())
    rows, columns = find_objects(labels)[largest]
    return columns.start, rows.start, columns.stop, rows.stop
