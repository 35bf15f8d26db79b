"""Pictures by address: what is kept on the device, and where a batch's new pictures lie; no kernel runs."""

import ctypes

import numpy as np
import pytest
import torch

from augment.backends.addressed import Addressed, KeptOnDevice
from augment.backends.decoded import DecodedCache, Picture
from augment.backends.layout import CROP
from augment.views.geometry import box_to_pixels
from augment.views.plan import Pool
from augment.views.policy import Policy

COUNT, SIZE = 12, 16
SIDES = np.stack((np.arange(20, 20 + COUNT), np.arange(30, 30 + COUNT)), axis=1)
BOXES = np.tile(np.float32((0.25, 0.25, 0.75, 1.0)), (COUNT, 1))
POOL = Pool(SIDES[:, 0].astype(np.int32), SIDES[:, 1].astype(np.int32), BOXES, np.ones(COUNT, bool))


def kept_by(budget: int) -> tuple[DecodedCache, KeptOnDevice]:
    cache = DecodedCache(Policy(size=SIZE), POOL, budget)
    return cache, KeptOnDevice(cache, torch.device("cpu"))


def images(rows: np.ndarray) -> Addressed:
    return Addressed(np.zeros(len(rows), np.int64), SIDES[rows])


class Cutter:
    """Notes what is to be cut, and writes each part full of its image's number."""

    def __init__(self) -> None:
        self.jobs = 0

    def __call__(self, pictures: Addressed, crops: np.ndarray, slot: np.ndarray, out: torch.Tensor) -> None:
        self.jobs += 1
        pictures.jobs(crops, slot, out.data_ptr())  # checks the regions
        for crop, number in zip(crops, slot.tolist(), strict=True):
            size = 3 * int(crop["width"]) * int(crop["height"])
            ctypes.memset(out.data_ptr() + int(crop["out"].astype(np.int64)), number + 1, size)


def filling(address: int, size: int) -> set[int]:
    return set(ctypes.string_at(int(address), int(size)))


def test_a_batch_is_cut_by_one_call_and_what_does_not_fit_lies_apart() -> None:
    rows, cut = np.array([3, 7, 1, 9]), Cutter()
    needed = [DecodedCache(Policy(size=SIZE), POOL, 0).needed(rows[i : i + 1]) for i in range(4)]
    cache, kept = kept_by(needed[0] + needed[1] + needed[3] - 1)  # not the last one
    assert kept.missing(rows) == [0, 1, 2, 3]
    made, apart = kept.add(rows, images(rows), cut)
    assert cut.jobs == 1
    assert cache.used == sum(needed[:3]) <= cache.budget
    assert kept.missing(rows) == [3]
    assert [row in kept for row in rows.tolist()] == [True, True, True, False]
    now = kept.pictures(rows, [3], Addressed(made.address[3:], made.sides[3:], None, None, made.scene[3:]))
    assert np.array_equal(now.address, made.address)
    assert np.array_equal(now.scene, made.scene)
    for number, (address, scene, (width, height)) in enumerate(zip(now.address, now.scene, now.sides, strict=True)):
        assert address % 16 == scene % 16 == 0
        assert filling(address, 3 * width * height) == filling(scene, 3 * SIZE**2) == {number + 1}, "none overlaps"
    assert now.scale is None
    assert np.array_equal(now.corner, box_to_pixels(BOXES[rows], *SIDES[rows].T)[:, :2])
    assert apart.data_ptr() <= made.address[3] < apart.data_ptr() + apart.numel()


def test_a_second_decode_of_a_kept_picture_takes_no_room_again() -> None:
    rows, cut = np.array([0, 1]), Cutter()
    cache, kept = kept_by(1 << 30)
    kept.add(rows, images(rows), cut)
    before, address = cache.used, kept.pictures(rows, [], None).address
    kept.add(rows, images(rows), cut)
    assert cache.used == before
    assert np.array_equal(kept.pictures(rows, [], None).address, address)


def test_a_picture_that_is_smaller_than_planned_is_not_kept() -> None:
    rows = np.array([0, 1])
    cache, kept = kept_by(1 << 30)
    with pytest.raises(ValueError, match="the plan was drawn for another one"):
        kept.add(rows, Addressed(np.zeros(2, np.int64), SIDES[rows] - 5), Cutter())
    assert kept.missing(rows) == [0, 1]
    assert cache.used == 0


def test_tensors_by_address() -> None:
    pixels = [torch.zeros(4, 5, 3, dtype=torch.uint8), torch.zeros(6, 7, 3, dtype=torch.uint8)]
    listed = Addressed.of([Picture(p, (1, 2), scale=(0.5, 1.0)) for p in pixels])
    assert listed.address.tolist() == [p.data_ptr() for p in pixels]
    assert listed.sides.tolist() == [[5, 4], [7, 6]]
    assert listed.scene is None
    crops = np.zeros(1, CROP)
    crops["roi"], crops["flip"], crops["out"] = (3, 4, 9, 6), 1, 7
    out = torch.empty(10, dtype=torch.uint8)
    jobs = listed.jobs(crops, np.array([1]), out.data_ptr())
    assert jobs["roi"].tolist() == [[1, 2, 4, 4]]
    assert jobs["stride"].tolist() == [21]
    assert out.data_ptr() + jobs["image"][0] == pixels[1].data_ptr()
    assert (jobs["flip"].tolist(), jobs["out"].tolist()) == ([1], [7])
