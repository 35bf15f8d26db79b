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
    size, area = plan.size, 3 * plan.size**2
    shape = np.maximum(plan.rects[..., 2:] - plan.rects[..., :2], 0)
    width, height = shape[..., 0], shape[..., 1]
    patch_bytes = 3 * width.reshape(-1).astype(np.int64) * height.reshape(-1)
    # A patch that covers its view needs no scene, unless it is transparent.
    needed = ((width < size) | (height < size) | (plan.alpha is not None)) & (not scenes_exist)
    number = plan.background_slot if shared else np.arange(needed.size).reshape(needed.shape)
    count = (len(plan.images) if shared else needed.size) if needed.any() else 0
    scenes = number * area
    ends = count * area + np.cumsum(patch_bytes)
    patches = (ends - patch_bytes).reshape(needed.shape)
    wanted = np.flatnonzero(patch_bytes)
    crops = np.zeros(len(wanted), CROP)
    crops["roi"], crops["out"] = plan.patch.reshape(-1, 4)[wanted], patches.reshape(-1)[wanted]
    for name, values in (("width", width), ("height", height), ("flip", plan.flip)):
        crops[name] = values.reshape(-1)[wanted]
    slot = plan.source_slot[wanted // plan.views]
    if count:
        wanted = np.flatnonzero(needed)
        if shared:  # of each image the first that is wanted
            one = np.full(len(plan.images), -1)
            one[plan.background_slot.reshape(-1)[wanted[::-1]]] = wanted[::-1]
            wanted = one[one >= 0]
        cut = np.zeros(len(wanted), CROP)
        cut["roi"], cut["out"] = plan.scene.reshape(-1, 4)[wanted], scenes.reshape(-1)[wanted]
        cut["width"] = cut["height"] = size
        crops, slot = np.concatenate((crops, cut)), np.concatenate((slot, plan.background_slot.reshape(-1)[wanted]))
    by_image = np.argsort(slot, kind="stable")
    return Layout(int(ends[-1]) + 1, scenes, patches, crops[by_image], slot[by_image])


def leaves(rois: np.ndarray, sides: np.ndarray | tuple[int, int]) -> bool:
    """Whether one of the ROIs [n, 4] is empty or leaves its image; `sides`: width and height, of all or [n, 2] of each.

    Box files are checked when they are opened, but the image may be another one than the plan was drawn for.
    """
    low, high = rois[:, :2], rois[:, 2:]
    return bool((low < 0).any() or (low >= high).any() or (high > sides).any())
