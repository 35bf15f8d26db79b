"""Decoded pictures by address, for kernels: arrays over a batch instead of a Python object for each picture.

A tensor for each of DALI's pictures costs more host time than all tables of the kernels.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from augment.backends.decoded import DecodedCache, Picture, kept_rois
from augment.backends.layout import CROP, JOB, leaves

_CROP_LONGS = CROP.itemsize // 8
_ALIGNED = 16  # bytes, where kept parts begin: what wide loads ask for


@dataclass(frozen=True, eq=False)
class Addressed:
    """n pictures, uint8 [height, width, 3] each, packed. Who made this keeps their memory alive."""

    address: np.ndarray  # int64 [n]
    sides: np.ndarray  # int64 [n, 2]: width, height
    corner: np.ndarray | None = None  # int32 [n, 2]: see `Picture`; None: 0, 0
    scale: np.ndarray | None = None  # float64 [n, 2]: see `Picture`; None: 1, 1
    scene: np.ndarray | None = None  # int64 [n]; None: scenes are cut from the pictures

    @staticmethod
    def whole(decoded: Any) -> "Addressed":
        """DALI's list of decoded pictures."""
        shape = np.fromiter(itertools.chain.from_iterable(decoded.shape()), np.int64).reshape(-1, 3)
        address = np.fromiter((picture.data_ptr() for picture in decoded), np.int64, len(shape))
        return Addressed(address, shape[:, 1::-1])

    @staticmethod
    def of(pictures: Sequence[Picture]) -> "Addressed":
        """Pictures in tensors; they have scenes if all of them have."""
        scenes = [picture.scene for picture in pictures]
        exist = all(scene is not None for scene in scenes)
        return Addressed(
            np.array([picture.pixels.data_ptr() for picture in pictures], np.int64),
            np.array([picture.pixels.shape[1::-1] for picture in pictures], np.int64),
            np.array([picture.corner for picture in pictures], np.int32),
            np.array([picture.scale for picture in pictures]),
            np.array([scene.data_ptr() for scene in scenes if scene is not None], np.int64) if exist else None,
        )

    def jobs(self, crops: np.ndarray, slot: np.ndarray, out: int) -> np.ndarray:
        """What cuts `crops` (layout.CROP, ROIs in the image's pixels) of pictures `slot` to address `out`: JOB [n].

        Raises ValueError where a crop leaves its picture.
        """
        sides = self.sides.T.take(slot, axis=1)
        roi = crops["roi"]
        if self.corner is not None and self.scale is not None:
            roi = kept_rois(roi, self.corner[slot], self.scale[slot])
        roi = roi.T.copy()  # rows of numbers: NumPy is slow where the last axis is short
        if self.corner is not None and self.scale is None:
            corner = self.corner.T.take(slot, axis=1)
            roi[:2] -= corner
            roi[2:] -= corner
        if leaves(roi, sides):
            raise ValueError("an ROI leaves its image: the plan was drawn for another one")
        jobs = np.empty(len(crops), JOB)
        # Whole crops as numbers of 64 bits: NumPy copies field by field, each at several times the cost.
        jobs.view(np.int64).reshape(len(jobs), -1)[:, :_CROP_LONGS] = crops.view(np.int64).reshape(len(crops), -1)
        jobs["roi"], jobs["image"], jobs["stride"] = roi.T, self.address[slot] - out, 3 * sides[0]
        return jobs


class KeptOnDevice:
    """Pictures that a `DecodedCache` has room for, on the device: what is where, by row of the pool.

    The new pictures of a batch get one piece of memory, and are cut into it by one launch.
    """

    def __init__(self, cache: DecodedCache, device: torch.device) -> None:
        self._cache, self._device = cache, device
        self._pixels, self._scenes = (np.zeros(cache.rows, np.int64) for _ in range(2))  # addresses; 0: not kept
        self._memory: list[Tensor] = []

    def __contains__(self, row: int) -> bool:
        return bool(self._pixels[row])

    def missing(self, rows: np.ndarray) -> list[int]:
        """The places of those `rows` that are not kept."""
        return np.flatnonzero(self._pixels[rows] == 0).tolist()

    def add(self, rows: np.ndarray, images: Addressed, cut: Callable[..., None]) -> "tuple[Addressed, Tensor]":
        """The pictures of different `rows`, cut out of their whole images by one call `cut(images, crops, slot, out)`.

        Those that there is room for are kept. The others lie in the memory that comes second.
        """
        crops = self._cache.crops(rows)
        sizes = 3 * crops["width"].astype(np.int64) * crops["height"]
        new = self._pixels[rows] == 0
        used = self._cache.used
        new[new] = self._cache.reserve(rows[new])
        kept, apart = (self._room(-(-sizes[x] // _ALIGNED) * _ALIGNED) for x in (new, ~new))
        places = np.empty_like(sizes)
        places[new], places[~new] = kept[1], apart[1]
        out = kept[0] if new.any() else apart[0]
        crops["out"] = (places - out.data_ptr()).view(np.uint64)
        try:
            cut(images, crops.reshape(-1), np.repeat(np.arange(len(rows)), crops.shape[1]), out)
        except BaseException:
            self._cache.used = used
            raise
        scenes = places[:, 1] if self._cache.keeps_scenes else None
        if new.any():
            self._memory.append(kept[0])
            self._pixels[rows[new]] = kept[1][:, 0]
            if scenes is not None:
                self._scenes[rows[new]] = scenes[new]
        return Addressed(places[:, 0], *self._parts(rows), scenes), apart[0]

    def pictures(self, rows: np.ndarray, slots: Sequence[int], made: Addressed | None) -> Addressed:
        """The pictures of `rows`; of those at `slots` the ones that were `made`."""
        address, scene = self._pixels[rows], self._scenes[rows] if self._cache.keeps_scenes else None
        if made is not None:
            address[slots] = made.address
            if scene is not None and made.scene is not None:
                scene[slots] = made.scene
        return Addressed(address, *self._parts(rows), scene)

    def _parts(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        sides, corner, scale = self._cache.parts(rows)
        return sides, corner, scale if self._cache.scaled else None

    def _room(self, sizes: np.ndarray) -> tuple[Tensor, np.ndarray]:
        """One piece of memory for parts of `sizes` [n, k] bytes, and their addresses [n, k]."""
        ends = np.cumsum(sizes)
        memory = torch.empty(int(ends[-1]) if len(ends) else 0, dtype=torch.uint8, device=self._device)
        return memory, memory.data_ptr() + (ends - sizes.reshape(-1)).reshape(sizes.shape)
