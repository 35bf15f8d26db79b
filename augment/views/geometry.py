"""Boxes, rectangles, crops and masks. The conventions of the whole package are defined here.

Box: x0, y0, x1, y1, floats in [0, 1] of the picture as a person sees it (EXIF applied, banner excluded), end-exclusive.
Rectangle, ROI: the same order in whole pixels, end-exclusive; empty when x1 <= x0 or y1 <= y0.
Pixel i covers [i, i + 1) and has its centre at i + 0.5. A crop never reads pixels outside of its ROI.
Everything here is vectorised over leading dimensions and pure.
"""

import operator
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


def box_to_pixels(boxes: np.ndarray, width: np.ndarray | int, height: np.ndarray | int) -> np.ndarray:
    """Boxes [..., 4] to int32 pixels [..., 4]: edges to the nearest pixel edge, inside the picture, never empty."""
    boxes = np.asarray(boxes, np.float64)
    out = np.empty((*np.broadcast_shapes(boxes.shape[:-1], np.shape(width), np.shape(height)), 4), np.int32)
    for axis, side in enumerate((width, height)):  # apart: NumPy is slow where the last axis is short
        side = np.asarray(side, np.int64)
        low = np.minimum(np.maximum(np.rint(boxes[..., axis] * side), 0), side - 1)
        out[..., axis] = low
        out[..., axis + 2] = np.minimum(np.maximum(np.rint(boxes[..., axis + 2] * side), low + 1), side)
    return out


def cap_boxes(boxes: np.ndarray, cap: float) -> tuple[np.ndarray, np.ndarray]:
    """Boxes [..., 4] whose area exceeds `cap` are shrunk about their centre to that area; bool [...] says which."""
    boxes = np.asarray(boxes, np.float64)
    sides = boxes[..., 2:] - boxes[..., :2]
    area = sides.prod(axis=-1)
    bitten = area > cap
    scale = np.sqrt(cap / np.where(bitten, area, cap))[..., None]
    centre = (boxes[..., :2] + boxes[..., 2:]) / 2
    half = sides * scale / 2
    capped = np.concatenate((centre - half, centre + half), axis=-1)
    return np.where(bitten[..., None], capped, boxes), bitten


def random_resized_crop(
    region: np.ndarray, scale: tuple[float, float], aspect: tuple[float, ...], u: np.ndarray
) -> np.ndarray:
    """torchvision's RandomResizedCrop rule inside `region` int [..., 4]; returns int32 [..., 4] in the same pixels.

    `u` [..., 22] in [0, 1): ten attempts at (area, log aspect), then the place in y and x. The first attempt that fits
    is taken; where none does, the central crop of the nearest allowed aspect (torchvision's fallback).
    """
    width = (region[..., 2] - region[..., 0]).astype(np.float64)
    height = (region[..., 3] - region[..., 1]).astype(np.float64)
    low, high = np.log(aspect[0]), np.log(aspect[1])

    def tried(width: np.ndarray, height: np.ndarray, u_area: np.ndarray, u_ratio: np.ndarray) -> tuple:
        area = (width * height) * (scale[0] + (scale[1] - scale[0]) * u_area)
        ratio = np.exp(low + (high - low) * u_ratio)
        w, h = np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))
        return w, h, (w > 0) & (w <= width) & (h > 0) & (h <= height)

    w, h, found = tried(width, height, u[..., 0], u[..., 1])
    if not found.all():  # the others' further attempts, all at once
        left = np.nonzero(~found)
        again = u[..., 2:20][left].T  # attempts first: NumPy is slow where the last axis is short
        ws, hs, fits = tried(width[left], height[left], again[0::2], again[1::2])
        first = fits.argmax(axis=0), np.arange(len(left[0]))
        w[left], h[left], found[left] = ws[first], hs[first], fits.any(axis=0)
    own = width / height
    w = np.where(found, w, np.where(own > aspect[1], np.rint(height * aspect[1]), width))
    h = np.where(found, h, np.where(own < aspect[0], np.rint(width / aspect[0]), height))
    w, h = np.maximum(w, 1), np.maximum(h, 1)  # a region one pixel wide has no crop twice as wide as high
    y = np.where(found, np.floor(u[..., 20] * (height - h + 1)), (height - h) // 2)
    x = np.where(found, np.floor(u[..., 21] * (width - w + 1)), (width - w) // 2)
    x, y = x + region[..., 0], y + region[..., 1]
    return np.stack((x, y, x + w, y + h), axis=-1).astype(np.int32)


def place(area: np.ndarray, ratio: np.ndarray, size: int, u: np.ndarray) -> np.ndarray:
    """Rectangles of `area` (share of the view) and `ratio` (width/height) at random places u [..., 2] of the view.

    Where the ratio would not fit, the rectangle spans the view and the area is kept instead. int32 [..., 4].
    """
    w = np.clip(np.sqrt(area * ratio), area, 1.0)  # below `area` the height, area / w, would exceed 1
    h = area / w
    w, h = np.clip(np.rint(w * size), 1, size), np.clip(np.rint(h * size), 1, size)
    x, y = np.floor(u[..., 0] * (size - w + 1)), np.floor(u[..., 1] * (size - h + 1))
    return np.stack((x, y, x + w, y + h), axis=-1).astype(np.int32)


def square_around(boxes: np.ndarray, width: np.ndarray, height: np.ndarray, u: np.ndarray) -> np.ndarray:
    """The picture's largest square at a random place `u` [...] that keeps the box (its middle, where it is too long).

    Boxes [..., 4] to int32 pixels [..., 4].
    """
    side = np.minimum(width, height).astype(np.int64)
    box = box_to_pixels(boxes, width, height).astype(np.int64)
    start = []
    for axis, length in enumerate((width, height)):
        # Starts that keep the box lie in [end - side, begin], and inside the picture in [0, length - side].
        low = np.clip(box[..., axis + 2] - side, 0, length - side)
        high = np.clip(box[..., axis], 0, length - side)
        middle = (low + high) // 2
        kept = low <= high
        start.append(np.where(kept, low + np.floor(u * (high - low + 1)).astype(np.int64), middle))
    x, y = start
    return np.stack((x, y, x + side, y + side), axis=-1).astype(np.int32)


def crop_around(
    boxes: np.ndarray, width: np.ndarray, height: np.ndarray, least: float, aspect: tuple[float, ...], u: np.ndarray
) -> np.ndarray:
    """A crop of the picture, sized by torchvision's rule, at a random place that keeps the middle of the box.

    Boxes [..., 4]; scale (`least`, 1) and u [..., 22] as for `random_resized_crop`; to int32 pixels [..., 4].
    """
    zero = np.zeros_like(width)
    whole = np.stack((zero, zero, width, height), axis=-1)
    roi = random_resized_crop(whole, (least, 1.0), aspect, u).astype(np.int64)
    box = box_to_pixels(boxes, width, height).astype(np.int64)
    middle, extent = (box[..., :2] + box[..., 2:]) // 2, roi[..., 2:] - roi[..., :2]
    room = np.stack((width, height), axis=-1) - extent
    low, high = np.clip(middle - extent + 1, 0, room), np.clip(middle, 0, room)
    start = low + np.floor(u[..., [21, 20]] * (high - low + 1)).astype(np.int64)
    return np.concatenate((start, start + extent), axis=-1).astype(np.int32)


def box_in_roi(boxes: np.ndarray, roi: np.ndarray, width: np.ndarray, height: np.ndarray) -> np.ndarray:
    """Boxes of the picture as boxes of its ROI (pixels), cut to it. float64 [..., 4]."""
    side = np.stack((width, height, width, height), axis=-1)
    start = np.concatenate((roi[..., :2], roi[..., :2]), axis=-1)
    extent = (roi[..., 2:] - roi[..., :2]).astype(np.float64)
    return np.clip((boxes * side - start) / np.concatenate((extent, extent), axis=-1), 0.0, 1.0)


def is_empty(rects: np.ndarray) -> np.ndarray:
    """bool [...] for rectangles [..., 4]."""
    return (rects[..., 2] <= rects[..., 0]) | (rects[..., 3] <= rects[..., 1])


def flip_rects(rects: np.ndarray, flip: np.ndarray, size: int) -> np.ndarray:
    """Rectangles [..., 4] mirrored left to right where `flip` [...]; empty ones become zeros. int32."""
    out = rects.astype(np.int32)
    left, right = out[..., 0], out[..., 2]
    np.copyto(left, size - rects[..., 2], where=flip)
    np.copyto(right, size - rects[..., 0], where=flip)
    out[is_empty(rects)] = 0
    return out


def turn_rects(rects: np.ndarray, turns: np.ndarray, size: int) -> np.ndarray:
    """Rectangles [..., 4] after `turns` [...] quarter turns of their view, counter-clockwise; empty ones stay zeros."""
    out, empty = rects.astype(np.int32), is_empty(rects)[..., None]
    if not turns.any():
        return out
    for turn in (1, 2, 3):
        x0, y0, x1, y1 = np.moveaxis(out, -1, 0)
        once = np.stack((y0, size - x1, y1, size - x0), axis=-1)
        out = np.where((turns >= turn)[..., None] & ~empty, once, out)
    return out


def view_to_source(roi: np.ndarray, rects: np.ndarray, flip: np.ndarray, turns: np.ndarray, size: int) -> np.ndarray:
    """Affine maps [..., 2, 3] (float64) from points of finished views to points of the picture that they show.

    `roi` [..., 4] of the picture was resized into `rects` [..., 4] of a view, which was then flipped (bool [...]) and
    turned (quarters [...]). Points are x, y in pixels; the centre of pixel i is at i + 0.5. With M the map, the point p
    shows what lies at M[:, :2] @ p + M[:, 2].
    """
    across, down = (np.float64((roi[..., i + 2] - roi[..., i]) / (rects[..., i + 2] - rects[..., i])) for i in (0, 1))
    one, zero = np.ones_like(across), np.zeros_like(across)

    def affine(*rows: tuple) -> np.ndarray:
        return np.stack([np.stack(np.broadcast_arrays(*row, one)[:3], -1) for row in rows], -2)

    # Backwards: first the turns are undone, then the flip, then the resize.
    cut = affine((across, zero, roi[..., 0] - across * rects[..., 0]), (zero, down, roi[..., 1] - down * rects[..., 1]))
    out = chained(cut, affine((np.where(flip, -1.0, 1.0), zero, np.where(flip, size, 0.0)), (zero, one, zero)))
    back = np.array(((0.0, -1.0, size), (1.0, 0.0, 0.0)))  # of `turn_rects`: (x, y) went to (y, size - x)
    for turn in (1, 2, 3):
        out = np.where((turns >= turn)[..., None, None], chained(out, back), out)
    return out


def chained(outer: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """The affine map [..., 2, 3] that does first `inner`, then `outer`."""
    linear, shift = outer[..., :2] @ inner[..., :2], outer[..., :2] @ inner[..., 2:] + outer[..., 2:]
    return np.concatenate((linear, shift), axis=-1)


def inverted(affine: np.ndarray) -> np.ndarray:
    """The affine map [..., 2, 3] that undoes `affine`."""
    linear = np.linalg.inv(affine[..., :2])
    return np.concatenate((linear, -linear @ affine[..., 2:]), axis=-1)


def cell_centres(size: int, grid: int | tuple[int, int]) -> np.ndarray:
    """The middles of the cells of a grid over a view, x, y in pixels: float64 [rows, columns, 2]."""
    rows, columns = _cells(grid)
    x, y = ((np.arange(cells) + 0.5) * (size / cells) for cells in (columns, rows))
    return np.stack(np.meshgrid(x, y), axis=-1)


def in_rects(points: np.ndarray, rects: np.ndarray) -> np.ndarray:
    """bool [...]: which points [..., 2] lie in rectangles [..., 4], whose right and lower edges are outside."""
    inside = (points >= rects[..., :2]) & (points < rects[..., 2:])
    return inside[..., 0] & inside[..., 1]


def masks(rects: Any, size: int, grid: int | tuple[int, int]) -> Any:
    """The share of each cell of a grid that the rectangle covers: exact, float32 [..., rows, columns].

    `rects` [..., 4] in pixels of a view of `size`, as a NumPy array or a torch tensor (the answer is of the same kind,
    on the same device). The cover of a cell is separable, so it is an outer product; cells need not be whole pixels.
    """
    rows, columns = _cells(grid)
    cover: Any = _cover_numpy if isinstance(rects, np.ndarray) else _cover_torch
    across = cover(rects[..., 0], rects[..., 2], size, columns)
    down = cover(rects[..., 1], rects[..., 3], size, rows)
    return down[..., :, None] * across[..., None, :]


def cell_means(values: "Tensor", grid: int | tuple[int, int]) -> "Tensor":
    """Means of values [..., S, S] over the cells of a grid, exact where cells are not whole pixels either; float32."""
    import torch

    size = values.shape[-1]
    rows, columns = _cells(grid)
    low = torch.arange(size, device=values.device)
    down, across = (_cover_torch(low, low + 1, size, cells) for cells in (rows, columns))  # [S, cells]
    # In double precision, which autocast and TF32 leave alone.
    return (down.double().T @ values.double() @ across.double()).float()


def _cells(grid: Any) -> tuple[int, int]:
    """Rows and columns of a grid. ValueError for what is not one whole number or two of them, or below 1."""
    try:
        rows, columns = map(operator.index, grid if isinstance(grid, tuple | list) else (grid, grid))
    except (TypeError, ValueError):
        raise ValueError(f"grid={grid!r}: must be a whole number, or rows and columns") from None
    if min(rows, columns) < 1:
        raise ValueError(f"grid={grid}: must be at least 1")
    return rows, columns


def _cover_numpy(low: np.ndarray, high: np.ndarray, size: int, cells: int) -> np.ndarray:
    edges = np.arange(cells + 1, dtype=np.float32) * np.float32(size / cells)
    inside = np.minimum(high[..., None], edges[1:]) - np.maximum(low[..., None], edges[:-1])
    return np.clip(inside * np.float32(cells / size), 0.0, 1.0).astype(np.float32)


def _cover_torch(low: "Tensor", high: "Tensor", size: int, cells: int) -> "Tensor":
    import torch

    edges = torch.arange(cells + 1, dtype=torch.float32, device=low.device) * (size / cells)
    inside = torch.minimum(high[..., None].float(), edges[1:]) - torch.maximum(low[..., None].float(), edges[:-1])
    return (inside * (cells / size)).clamp(0.0, 1.0)
