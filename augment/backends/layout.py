"""The buffer in which the fused backends collect a batch's crops: scenes first, then patches."""

from dataclasses import dataclass

import numpy as np

from augment.backends.native import VIEW
from augment.views import colour, geometry
from augment.views.plan import Plan

# The struct Crop of crops.cpp; `out` is an offset into the buffer until an address is added.
_CROP = [("roi", "i4", 4), ("width", "i4"), ("height", "i4"), ("flip", "i4"), ("unit", "i4"), ("out", "u8")]
CROP = np.dtype(_CROP)
# On CUDA: the crop, where its image begins (an offset in bytes from the buffer), and the bytes of a row of that.
JOB = np.dtype([*_CROP, ("image", "i8"), ("stride", "i4"), ("unused", "i4")])


@dataclass(frozen=True, eq=False)
class Layout:
    """Offsets in bytes. Scenes and patches are packed, [height, width, 3]; patches are flipped as their views are."""

    total: int  # bytes of the buffer
    scenes: np.ndarray  # int64 [B, V]: the scene of each view, size × size, before the flip
    patches: np.ndarray  # int64 [B, V]
    crops: np.ndarray  # CROP [n]: the crops to cut, ordered by image
    slot: np.ndarray  # int64 [n]: the plan's image of each crop


def lay_out(plan: Plan, shared: bool, scenes_exist: bool = False) -> Layout:
    """The layout of a batch. `shared`: an image's scene is the same in all views, so one copy serves them all.

    `scenes_exist`: the scenes are in memory already (see `augment.backends.decoded`); only patches are cut.
    """
    size, area, views = plan.size, 3 * plan.size**2, plan.views
    x0, y0, x1, y1 = plan.rects.reshape(-1, 4).T
    width, height = np.maximum(x1 - x0, 0), np.maximum(y1 - y0, 0)
    patch_bytes = 3 * width.astype(np.int64) * height
    # A patch that covers its view needs no scene, unless it is transparent.
    needed = np.flatnonzero((width < size) | (height < size) | (plan.alpha is not None)) if not scenes_exist else ()
    number = plan.background_slot if shared else np.arange(len(width)).reshape(-1, views)
    count = (len(plan.images) if shared else len(width)) if len(needed) else 0
    scenes = number * area
    ends = count * area + np.cumsum(patch_bytes)
    patches = ends - patch_bytes
    wanted = slice(None) if patch_bytes.all() else np.flatnonzero(patch_bytes)  # all: nothing is gathered
    slot = np.repeat(plan.source_slot, views)[wanted]
    crops = np.zeros(len(slot), CROP)
    crops["roi"], crops["out"], crops["flip"] = (
        plan.patch.reshape(-1, 4)[wanted],
        patches[wanted],
        plan.flip.flat[wanted],
    )
    crops["width"], crops["height"] = width[wanted], height[wanted]
    if count:
        if shared:  # of each image the first that is wanted
            one = np.full(len(plan.images), -1)
            one[plan.background_slot.reshape(-1)[needed[::-1]]] = needed[::-1]
            needed = one[one >= 0]
        cut = np.zeros(len(needed), CROP)
        cut["roi"], cut["out"] = plan.scene.reshape(-1, 4)[needed], scenes.reshape(-1)[needed]
        cut["width"] = cut["height"] = size
        crops, slot = np.concatenate((crops, cut)), np.concatenate((slot, plan.background_slot.reshape(-1)[needed]))
    if (slot[1:] < slot[:-1]).any():
        by_image = np.argsort(slot, kind="stable")
        crops, slot = crops[by_image], slot[by_image]
    return Layout(int(ends[-1]) + 1, scenes, patches.reshape(-1, views), crops, slot)


def view_table(plan: Plan, scenes: np.ndarray, patches: np.ndarray) -> np.ndarray:
    """What finishes the plan's views: `native.VIEW` [B, V], but for `out`; `scenes`, `patches` [B, V] as given."""
    table = np.empty(scenes.shape, VIEW)
    table["scene"], table["patch"] = scenes, patches
    table["rect"] = geometry.flip_rects(plan.rects, plan.flip, plan.size)
    for name in ("flip", "gray", "jittered", "order", "jitter", "sigma"):
        table[name] = getattr(plan, name)
    table["radius"] = np.ceil(3 * plan.sigma)  # `blur_radius` of each, in float32: in doubles it may be one more
    table["matrix"], table["offset"] = colour.collapse(plan.jitter, plan.gray)
    return table


def leaves(rois: np.ndarray, sides: np.ndarray) -> bool:
    """Whether one of the ROIs, rows x0, y0, x1, y1 [4, n], is empty or leaves its image, of `sides` [2, n or 1].

    Box files are checked when they are opened, but the image may be another one than the plan was drawn for.
    """
    low, high = rois[:2], rois[2:]
    return bool(low.min() < 0 or (high - low).min() < 1 or (sides - high).min() < 0)
