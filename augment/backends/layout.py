"""The buffer in which the fused backends collect a batch's crops: scenes first, then patches."""

from dataclasses import dataclass

import numpy as np

from augment.views.plan import Plan

# The struct Crop of crops.cpp; `out` is an offset into the buffer until an address is added.
CROP = np.dtype([("roi", "i4", 4), ("width", "i4"), ("height", "i4"), ("flip", "i4"), ("unit", "i4"), ("out", "u8")])


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
    size, area, uses = plan.size, 3 * plan.size**2, plan.background_slot.size
    shape = np.maximum(plan.rects[..., 2:] - plan.rects[..., :2], 0).astype(np.int64)
    patch_bytes = 3 * shape.prod(axis=-1).reshape(-1)
    # A patch that covers its view needs no scene, unless it is transparent.
    needed = ((shape < size).any(axis=-1) | (plan.alpha is not None)) & (not scenes_exist)
    number = plan.background_slot if shared else np.arange(uses).reshape(needed.shape)
    count = (len(plan.images) if shared else uses) if needed.any() else 0
    scenes = number * area
    ends = count * area + np.cumsum(patch_bytes)
    patches = (ends - patch_bytes).reshape(needed.shape)
    crops = np.zeros(2 * uses, CROP)
    slot = np.concatenate((np.repeat(plan.source_slot[:, None], plan.views, 1), plan.background_slot)).reshape(-1)
    crops["roi"] = np.concatenate((plan.patch.reshape(-1, 4), plan.scene.reshape(-1, 4)))
    crops["width"][:uses], crops["height"][:uses] = shape.reshape(-1, 2).T
    crops["width"][uses:] = crops["height"][uses:] = size
    crops["flip"][:uses] = plan.flip.reshape(-1)
    crops["out"] = np.concatenate((patches.reshape(-1), scenes.reshape(-1)))
    wanted = np.concatenate((patch_bytes > 0, needed.reshape(-1)))
    if shared:
        used = np.flatnonzero(wanted[uses:]) + uses
        wanted[uses:] = False
        wanted[used[np.unique(slot[used], return_index=True)[1]]] = True
    crops, slot = crops[wanted], slot[wanted]
    by_image = np.argsort(slot, kind="stable")
    return Layout(int(ends[-1]) + 1, scenes, patches, crops[by_image], slot[by_image])


def leaves(rois: np.ndarray, sides: np.ndarray | tuple[int, int]) -> bool:
    """Whether one of the ROIs [n, 4] is empty or leaves its image; `sides`: width and height, of all or [n, 2] of each.

    Box files are checked when they are opened, but the image may be another one than the plan was drawn for.
    """
    low, high = rois[:, :2], rois[:, 2:]
    return bool(((low < 0) | (low >= high) | (high > sides)).any())
