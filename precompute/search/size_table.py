"""The search in torch, for whole batches on any device: what CUDA runs.

The size table holds, for every height and width, the largest sum of any box of that size and its first place by rows.
Every form of Eq. 2 is answered from it. Sum and place travel in one integer, so that equal sums are told apart the
same way on every device, and scores are one float64 division by the table of `search.area_powers`: boxes are those
of the search on the CPU, ties included.
"""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from precompute.search.forms import Form

_AT_ONCE = 2**25  # entries of the widest tensor: 256 MB
_LARGEST = torch.iinfo(torch.int64).max


def search_batch(maps: np.ndarray, form: "Form", device: str) -> np.ndarray:
    """Best boxes int32 [B, 4] of maps uint8 [B, H, W], cut already where the form cuts; 0 where a map is empty."""
    count, height, width = maps.shape
    step = max(1, _AT_ONCE // (height * width * width))
    parts = [torch.from_numpy(np.ascontiguousarray(maps[i : i + step])).to(device) for i in range(0, count, step)]
    found = [largest_component(part) if form.name == "component" else best_by_size(part, form) for part in parts]
    rects = torch.cat(found).cpu().numpy()
    rects[~maps.any((1, 2))] = 0
    return rects


def size_table(maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Largest sums int64 [B, H, W] of boxes of height h + 1 and width w + 1, and their first places y0 · W + x0."""
    count, height, width = maps.shape
    table = torch.zeros(count, height + 1, width + 1, dtype=torch.int64, device=maps.device)
    table[:, 1:, 1:] = maps.to(torch.int64).cumsum(1).cumsum(2)
    points = height * width
    keys = torch.empty(count, height, width, dtype=torch.int64, device=maps.device)
    column = torch.arange(width, device=maps.device)
    fits = column[:, None] + column < width  # [w, x0]: x0 + w + 1 ≤ W
    for h in range(1, height + 1):
        rows = table[:, h:] - table[:, :-h]  # [B, y0, W + 1]
        ends = F.pad(rows, (0, width)).unfold(2, width, 1)[:, :, 1 : width + 1]  # [B, y0, w, x0]
        sums = ends - rows[:, :, None, :-1]
        place = torch.arange(height - h + 1, device=maps.device)[:, None] * width + column  # [y0, x0]
        key = sums * points + (points - 1 - place)[:, None]
        keys[:, h - 1] = torch.where(fits, key, -1).amax((1, 3))
    return keys // points, points - 1 - keys % points


def best_by_size(maps: torch.Tensor, form: "Form") -> torch.Tensor:
    """Best boxes int32 [B, 4] of maps uint8 [B, H, W] by a form that scores size and sum."""
    height, width = maps.shape[1:]
    points = height * width
    sums, places = size_table(maps)
    h = torch.arange(1, height + 1, device=maps.device)[:, None]
    w = torch.arange(1, width + 1, device=maps.device)
    scores = _scores(sums, maps, h, w, form)
    best = scores.amax((1, 2), keepdim=True)
    # The tie rule as one number: area, then place (y0, then x0), then height.
    order = ((h * w) * points + places) * (height + 1) + h
    first = torch.where(scores == best, order, _LARGEST).amin((1, 2))
    rest, h = first // (height + 1), first % (height + 1)
    area, place = rest // points, rest % points
    y0, x0 = place // width, place % width
    return torch.stack((x0, y0, x0 + area // h, y0 + h), 1).to(torch.int32)


def _scores(sums: torch.Tensor, maps: torch.Tensor, h: torch.Tensor, w: torch.Tensor, form: "Form") -> torch.Tensor:
    """Scores float64 [B, H, W] of the best box of every size; -inf: not allowed."""
    from precompute.search.forms import TAU_STEPS, area_powers

    height, width = maps.shape[1:]
    area = h * w
    if form.name == "tau":
        return (TAU_STEPS * sums - round(form.number * 255 * TAU_STEPS) * area).to(torch.float64)
    gamma = form.number if form.name == "tempered" else 1.0
    powers = torch.from_numpy(area_powers(height * width, gamma).copy()).to(maps.device)
    scores = sums.to(torch.float64) / powers[area]
    if form.name == "min-area":
        allowed = area >= max(1, int(np.ceil(form.number * height * width)))
    elif form.name == "min-side":
        allowed = (h >= np.ceil(form.number * height)) & (w >= np.ceil(form.number * width))
    elif form.name == "mass":
        allowed = sums >= form.number * sums[:, -1:, -1:].to(torch.float64)  # the largest size holds the total
    else:
        return scores
    return torch.where(allowed, scores, -torch.inf)


def largest_component(maps: torch.Tensor) -> torch.Tensor:
    """The bounding box int32 [B, 4] of each map's largest 8-connected component; equal sizes: the first by rows."""
    count, height, width = maps.shape
    points = height * width
    inside = maps > 0
    # A pixel's label is the largest number in its component; numbers fall by rows, so it is that of its first pixel.
    numbers = torch.arange(points, 0, -1, device=maps.device).reshape(height, width)
    labels = torch.where(inside, numbers, 0).to(torch.float64)  # max_pool2d takes no integers on CUDA
    while True:
        spread = torch.where(inside, F.max_pool2d(labels[:, None], 3, 1, 1)[:, 0], 0)
        if torch.equal(spread, labels):
            break
        # Follow the label of the label: a path as long as the map closes in a few steps.
        flat = torch.cat((spread.flatten(1), spread.new_zeros(count, 1)), 1)  # the last stands for "no label"
        spread = flat.gather(1, torch.where(inside, points - spread.to(torch.int64), points).flatten(1))
        labels = spread.reshape(count, height, width)
    labels = labels.to(torch.int64)
    sizes = torch.zeros(count, points + 1, dtype=torch.int64, device=maps.device)
    sizes.scatter_add_(1, labels.flatten(1), inside.flatten(1).to(torch.int64))
    sizes = sizes * (points + 1) + torch.arange(points + 1, device=maps.device)  # equal sizes: the larger label
    mine = labels == (sizes.amax(1) % (points + 1))[:, None, None]
    mine &= inside
    rows, columns = mine.any(2).to(torch.int64), mine.any(1).to(torch.int64)
    y = torch.arange(1, height + 1, device=maps.device)
    x = torch.arange(1, width + 1, device=maps.device)
    y1, x1 = (rows * y).amax(1), (columns * x).amax(1)
    y0, x0 = height - (rows * y.flip(0)).amax(1), width - (columns * x.flip(0)).amax(1)
    return torch.stack((x0, y0, x1, y1), 1).to(torch.int32)
