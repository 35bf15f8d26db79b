"""Decoded pictures kept from epoch to epoch, so that nothing is decoded twice.

The cache keeps the pixels that views read, so views stay the same to the bit: an image's box at full resolution (a
patch never leaves the box; `rrc`, `instloc` and cropped scenes need the whole picture), and its scene at the size of a
view. `side` caps the resolution: larger parts are kept scaled down, and views are cut from those (edges move by at most
half a kept pixel).
Nothing is evicted: images that do not fit into the budget are decoded in every epoch, as without a cache.
"""

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from augment.backends.layout import CROP
from augment.views.geometry import box_to_pixels
from augment.views.plan import Pool
from augment.views.policy import Policy


@dataclass(frozen=True, eq=False)
class Picture:
    """Decoded pixels of an image, or of a part of it."""

    pixels: Tensor  # uint8 [h, w, 3], packed
    corner: tuple[int, int] = (0, 0)  # x, y in the image of the first kept pixel
    scene: Tensor | None = None  # uint8 [size, size, 3], packed; None where scenes are cut from `pixels`
    scale: tuple[float, float] = (1.0, 1.0)  # kept pixels per pixel of the image, across and down

    @property
    def bytes(self) -> int:
        """Memory that it takes."""
        return self.pixels.numel() + (0 if self.scene is None else self.scene.numel())


def kept_rois(rois: np.ndarray, corner: Any, scale: Any) -> np.ndarray:
    """ROIs [n, 4] in an image's pixels as pixels of its picture, int32, never empty.

    `corner`, `scale`: the picture's, or [n, 2] of several.
    """
    local = rois - np.concatenate((corner, corner), axis=-1, dtype=np.int32)
    if np.all(np.asarray(scale) == 1.0):
        return local
    exact = local * np.concatenate((scale, scale), axis=-1)
    local = np.rint(exact).astype(np.int32)
    # An empty ROI becomes the pixel that holds its middle: the next pixel could lie beyond the picture.
    middle = ((exact[:, :2] + exact[:, 2:]) / 2).astype(np.int32)
    empty = local[:, 2:] <= local[:, :2]
    return np.concatenate((np.where(empty, middle, local[:, :2]), np.where(empty, middle + 1, local[:, 2:])), axis=1)


class DecodedCache:
    """Pictures by row of the pool, up to a budget in bytes."""

    chunk = 1 << 30  # the most pictures that are decoded before they are added

    def __init__(self, policy: Policy, pool: Pool, budget: int, side: int | None = None) -> None:
        """`side`: the most pixels of a kept part's longer side; None: full resolution."""
        self.policy, self.budget, self.used = policy, budget, 0
        self.keeps_scenes = policy.kind.pastes and policy.scene == "whole"
        whole = np.broadcast_to(np.array((0.0, 0.0, 1.0, 1.0)), pool.boxes.shape)
        boxes_only = self.keeps_scenes and policy.kind.boxed
        self._regions = box_to_pixels(pool.boxes if boxes_only else whole, pool.widths, pool.heights)
        self._scene_sides = np.stack((pool.widths, pool.heights), axis=1)
        full = self._regions[:, 2:] - self._regions[:, :2]
        shrink = 1.0 if side is None else np.minimum(1.0, side / full.max(axis=1, keepdims=True))
        self._sides = np.maximum(np.rint(full * shrink), 1).astype(np.int64)  # width, height of what is kept
        self._scale = self._sides / full
        self.scaled = not (self._scale == 1).all()  # whether any picture is kept smaller than it is
        self._kept: dict[int, Picture] = {}
        self._lock = threading.Lock()

    @property
    def rows(self) -> int:
        """Rows of the pool."""
        return len(self._regions)

    def __len__(self) -> int:
        return len(self._kept)

    def __contains__(self, row: int) -> bool:
        return row in self._kept

    def get(self, row: int) -> Picture | None:
        """The picture of a row, if it is kept."""
        return self._kept.get(row)

    def needed(self, rows: np.ndarray) -> int:
        """Bytes for all of `rows`."""
        return int(3 * self._sides[rows].prod(axis=1).sum() + len(rows) * self.keeps_scenes * 3 * self.policy.size**2)

    def layout(self, rows: np.ndarray) -> bytes:
        """What is kept of which part of the images, as bytes: equal where the kept pixels of equal images are."""
        numbers = self._regions[rows], self._scene_sides[rows], self._sides[rows], self.keeps_scenes * self.policy.size
        return b"".join(np.ascontiguousarray(number, "<i8").tobytes() for number in numbers)

    def crops(self, rows: np.ndarray | Sequence[int]) -> np.ndarray:
        """The crops that make the rows' pictures of their images; places are left at 0.

        `layout.CROP` [n, k]: of each image its part and, if scenes are kept, its scene.
        """
        crops = np.zeros((len(rows), 2 if self.keeps_scenes else 1), CROP)
        width, height = self._sides[rows].T
        crops["roi"][:, 0], crops["width"][:, 0], crops["height"][:, 0] = self._regions[rows], width, height
        if self.keeps_scenes:
            crops["roi"][:, 1, 2:] = self._scene_sides[rows]
            crops["width"][:, 1] = crops["height"][:, 1] = self.policy.size
        return crops

    def parts(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Width and height int64 [n, 2], `corner` int32 [n, 2] and `scale` float64 [n, 2] of the rows' pictures."""
        return self._sides[rows], self._regions[rows, :2], self._scale[rows]

    def blank(self, rows: Sequence[int]) -> tuple[list[Picture], np.ndarray]:
        """Memory for the rows' pictures on the host, and the `crops` that fill it from their images."""
        crops = self.crops(rows)
        sides = np.stack((crops["height"], crops["width"]), axis=-1).tolist()
        parts = [[torch.empty((height, width, 3), dtype=torch.uint8) for height, width in own] for own in sides]
        crops["out"] = [[part.data_ptr() for part in own] for own in parts]
        _, corners, scales = (x.tolist() for x in self.parts(np.asarray(rows)))
        pictures = [
            Picture(own[0], tuple(corner), own[1] if self.keeps_scenes else None, tuple(scale))
            for own, corner, scale in zip(parts, corners, scales, strict=True)
        ]
        return pictures, crops

    def reserve(self, rows: np.ndarray) -> np.ndarray:
        """bool [n]: which of the rows there is room for, in their order; it is theirs from now on."""
        sizes = 3 * self._sides[rows].prod(axis=1) + self.keeps_scenes * 3 * self.policy.size**2
        if self.used + sizes.sum() <= self.budget:
            self.used += int(sizes.sum())
            return np.ones(len(rows), bool)
        fits = np.zeros(len(rows), bool)
        for i, size in enumerate(sizes.tolist()):
            if self.used + size <= self.budget:
                fits[i], self.used = True, self.used + size
        return fits

    def add(self, row: int, picture: Picture) -> None:
        """Keeps a picture, if there is room."""
        with self._lock:
            if row not in self._kept and self.used + picture.bytes <= self.budget:
                self.used += picture.bytes
                self._kept[row] = picture

    def begin(self, row: int) -> bool:
        """Whether this process is to decode a row that is not there; False where another does it now."""
        return True

    def end(self, row: int) -> None:
        """The end of `begin`, where the row was not added."""

    def clear(self) -> None:
        """Frees everything."""
        self._kept.clear()
        self.used = 0


class RecentPictures(DecodedCache):
    """Pictures of the group that is under way, for batches that end within one: each is decoded once all the same.

    A group's images are its backgrounds, so a later batch needs those of an earlier one. What has not been used for as
    many batches as a group takes is dropped. Beyond `BUDGET` bytes nothing more is kept.
    """

    BUDGET = 512 << 20

    def __init__(self, policy: Policy, pool: Pool, batch: int) -> None:
        """`batch`: sources in a batch."""
        super().__init__(policy, pool, self.BUDGET)
        self._span = -(-policy.group // batch) + 1
        self._uses: deque[set[int]] = deque()  # rows of the latest batches

    @staticmethod
    def needed_for(policy: Policy, batch: int) -> bool:
        """Whether batches of so many sources end within groups."""
        return policy.kind.pastes and batch % policy.group != 0

    def used_now(self, rows: Sequence[int]) -> None:
        """Notes the rows of a batch, and drops what no batch of late has used."""
        self._uses.append(set(rows))
        if len(self._uses) > self._span:
            for row in self._uses.popleft().difference(*self._uses):
                if (picture := self._kept.pop(row, None)) is not None:
                    self.used -= picture.bytes


def default_budget(device: torch.device) -> int:
    """Half of the memory that is free now, on the host or the device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] // 2
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]) * 1024 // 2
    except (OSError, StopIteration):
        return 4 << 30
