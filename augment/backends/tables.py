"""What the kernels on CUDA must be told of a batch, as tables on the host: crops, views, and the blurs' weights.

The C++ of tables.cpp makes them in one pass; without a compiler NumPy does, in three times as long, to the same bytes.
"""

import ctypes
from collections.abc import Callable
from ctypes import CDLL
from dataclasses import dataclass

import numpy as np

from augment.backends.addressed import Addressed
from augment.backends.layout import JOB, lay_out, view_table
from augment.backends.native import VIEW
from augment.views import colour
from augment.views.plan import HUE, Plan
from augment.views.policy import Policy, blur_radius

BLUR_TILE = 64  # side of what a program of `blur_kernel` composes, colours and blurs


Arrays = dict[str, np.ndarray]  # by the kernels' names: crops (layout.JOB), jobs (native.VIEW), plain, blurred, weights
Rooms = dict[str, tuple[type, int]]  # of arrays: dtype and bytes


@dataclass(frozen=True)
class Tables:
    """Numbers for the kernels' grids."""

    plain: int  # views without a blur
    blurred: int
    reach: int  # the largest radius of a blur, pixels
    chunks: int  # see `blur_kernel`
    crops: int = 0
    widest: int = 0  # pixels of a crop
    highest: int = 0


_OF_PLAN = {
    **dict.fromkeys(("source_slot", "background_slot"), np.int64),
    **dict.fromkeys(("patch", "scene", "rects"), np.int32),
    **dict.fromkeys(("flip", "gray", "jittered"), np.bool_),
    "order": np.uint8,
    **dict.fromkeys(("jitter", "sigma"), np.float32),
}
# By the names in tables.cpp: what a field is called here.
_OF_PICTURES = {"address": "address", "sides": "sides", "corner": "corner", "kept_scenes": "scene"}
_MADE = {"jobs": "crops", "table": "jobs", "plain": "plain", "blurred": "blurred", "weights": "weights"}


class _Tables(ctypes.Structure):
    """The struct Tables of tables.cpp."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in (*_OF_PLAN, "cosine", "sine", "colour", *_OF_PICTURES, *_MADE)),
        ("cuts", ctypes.c_int64),
        ("total", ctypes.c_int64),
        *((name, ctypes.c_int32) for name in ("sources", "views", "images", "size", "shared", "transparent")),
        *((name, ctypes.c_int32) for name in ("tile", "chunks", "crops", "widest", "highest", "blurs", "reach")),
    )


def in_numpy(policy: Policy, plan: Plan, pictures: Addressed, room: Callable[[int], int]) -> tuple[Tables, Arrays]:
    """The tables of a batch. `room(bytes)` makes memory for the crops, and returns its address.

    Raises ValueError where a crop leaves its picture.
    """
    layout = lay_out(plan, shared=policy.scene == "whole", scenes_exist=pictures.scene is not None)
    cuts = room(layout.total)
    scenes = layout.scenes
    if pictures.scene is not None:  # as offsets from the crops, wherever they are
        scenes = pictures.scene[plan.background_slot] - cuts
    made, arrays = of_views(policy, plan, scenes, layout.patches)
    if not len(layout.crops):
        return made, arrays
    jobs = pictures.jobs(layout.crops, layout.slot, cuts)
    sides = int(jobs["width"].max()), int(jobs["height"].max())
    return Tables(made.plain, made.blurred, made.reach, made.chunks, len(jobs), *sides), {
        "crops": jobs.view(np.int32)
    } | arrays


def of_views(policy: Policy, plan: Plan, scenes: np.ndarray, patches: np.ndarray) -> tuple[Tables, Arrays]:
    """Tables without crops; `scenes` and `patches`, int64 [B, V], are places in the memory of the crops."""
    table = view_table(plan, scenes.view(np.uint64), patches)
    shape = plan.background_slot.shape
    table["out"] = np.arange(plan.sigma.size).reshape(shape[::-1]).T * (3 * plan.size**2)  # V runs of B
    table = table.reshape(-1)
    plain, blurred = (np.flatnonzero(which).astype(np.int32) for which in (table["sigma"] <= 0, table["sigma"] > 0))
    soft = table[blurred]
    reach = int(soft["radius"].max(initial=0))
    chunks = _chunks(policy, reach)
    weights = _weights(soft["sigma"], soft["radius"], chunks)
    arrays = {"jobs": table.view(np.int32), "plain": plain, "blurred": blurred, "weights": weights}
    return Tables(len(plain), len(blurred), reach, chunks), arrays


def compiled(
    library: CDLL,
    policy: Policy,
    plan: Plan,
    pictures: Addressed,
    room: Callable[[int], int],
    memory: Callable[[Rooms], dict[str, int]],
) -> Tables:
    """What `in_numpy` returns, made by the C++ of `native.load`. Pictures must be kept unscaled.

    The arrays are written to the addresses that `memory` returns.
    """
    assert pictures.scale is None
    angle = colour.angles(plan.jitter[..., HUE])
    given = [np.ascontiguousarray(getattr(plan, name), kind) for name, kind in _OF_PLAN.items()]
    given += [np.cos(angle), np.sin(angle), colour.CONSTANTS]
    found = [getattr(pictures, name) for name in _OF_PICTURES.values()]
    found = [None if array is None else np.ascontiguousarray(array) for array in found]
    of = _Tables(*map(_address, (*given, *found)))
    of.sources, of.views, of.images, of.size = *plan.background_slot.shape, len(plan.images), plan.size
    of.shared, of.transparent, of.tile = policy.scene == "whole", plan.alpha is not None, BLUR_TILE
    library.measure_tables(ctypes.addressof(of))
    chunks = of.chunks = _chunks(policy, of.reach)
    count = of.sources * of.views
    bytes_of = {
        "crops": of.crops * JOB.itemsize, "jobs": count * VIEW.itemsize, "plain": 4 * (count - of.blurs),
        "blurred": 4 * of.blurs, "weights": 2 * of.blurs * BLUR_TILE * (chunks + 1),
    }  # fmt: skip
    kinds = dict.fromkeys(bytes_of, np.int32) | {"weights": np.float16}
    addresses = memory({name: (kinds[name], size) for name, size in bytes_of.items()})
    for field, name in _MADE.items():
        setattr(of, field, addresses[name])
    of.cuts = room(of.total)
    if library.fill_tables(ctypes.addressof(of)):
        raise ValueError("an ROI leaves its image: the plan was drawn for another one")
    return Tables(count - of.blurs, of.blurs, of.reach, chunks, of.crops, of.widest, of.highest)


def _address(array: np.ndarray | None) -> int | None:
    return None if array is None else array.__array_interface__["data"][0]


def _chunks(policy: Policy, reach: int) -> int:
    """Tiles of a program across and down, for blurs of at most `reach` pixels; usually one, whatever the batch."""
    return 1 if blur_radius(policy.blur_sigma[1]) <= BLUR_TILE // 4 else 1 - (-2 * reach // BLUR_TILE)


def _weights(sigma: np.ndarray, radius: np.ndarray, chunks: int) -> np.ndarray:
    """The blurs' weights as `blur_kernel` reads them, float16 [n, BLUR_TILE · (chunks + 1)]."""
    # No further than the widest blur: a multiple of 8, with which NumPy adds the same numbers in the same order.
    room = min(-(-(2 * int(radius.max(initial=0)) + 1) // 8) * 8, BLUR_TILE * chunks)
    distance = np.arange(room, dtype=np.float64) - radius[:, None]
    weights = np.exp(-0.5 * (distance / sigma[:, None]) ** 2)
    weights *= distance <= radius[:, None]
    table = np.zeros((len(sigma), BLUR_TILE * (chunks + 1)), np.float16)
    table[:, BLUR_TILE : BLUR_TILE + room] = weights / weights.sum(axis=1, keepdims=True)
    return table
