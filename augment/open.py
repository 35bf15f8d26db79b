"""`open_views`: from a box file and its images to a loader, in one call."""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any

from augment import backends
from augment.stream.alpha import MapFolder
from augment.stream.imageset import ImageSet
from augment.stream.request import CACHES, CHECKS, ON_BAD
from augment.views.policy import Policy
from augment.views.schedule import Schedule
from precompute.base.boxfile import BoxCache
from precompute.base.errors import UserError
from precompute.base.options import whole
from precompute.base.program import cores

if TYPE_CHECKING:
    import numpy as np
    import torch

    from augment.backends.decoded import DecodedCache
    from augment.stream.loader import ViewLoader


def open_views(
    boxes: Path | str | BoxCache,
    root: Path | str,
    *,
    policy: Policy | None = None,
    batch_size: int = 256,
    split: str | None = "train",
    backend: str = "auto",
    device: "torch.device | str | None" = None,
    dtype: "torch.dtype | None" = None,
    seed: int = 0,
    drop_last: bool = True,
    rank: int = 0,
    world_size: int = 1,
    workers: int | None = None,
    prefetch: int = 2,
    check: str = "size",
    on_bad: str = "replace",
    background_sets: Sequence[tuple[Path | str | BoxCache, Path | str]] = (),
    own_backgrounds: bool = True,
    cache: str = "off",
    cache_bytes: int | None = None,
    cache_side: int | None = None,
    maps: Path | str | None = None,
    say: Callable[[str], None] | None = None,
) -> "ViewLoader":
    """Opens a stream of views with their geometry; see `augment.ViewLoader` and `augment.Batch`.

    boxes: the box file (or an opened one); root: the folder its paths are relative to.
    batch_size: source images per step over all ranks; this rank gets batch_size / world_size of them.
    split: None for all images. backend: auto, or one of `augment.backends.NAMES`.
    device, dtype: of the views; None: CUDA where it is available, float32.
    workers: threads for reading and for the backend; None: the cores this process may use.
    prefetch: batches made ahead. check: "size" or "hash" (see `ImageSet.read`). on_bad: "replace" or "fail".
    background_sets: further (boxes, root) whose images, of all splits, may be backgrounds, beside those of the split
    (own_backgrounds) or instead of them, but for those that are in the split; their rows are numbered on after those
    of `boxes`.
    cache: "ram" or "gpu" keep decoded pictures from epoch to epoch in at most cache_bytes (None: half of what is free);
    the views stay the same to the bit, and backgrounds may come from anywhere (policy.group) at no cost.
    cache_side: keeps at most this many pixels of a picture's (or its box's) longer side, so that more fit; views are
    then near, not equal: crops' edges move by up to half a kept pixel. Twice the view's size is little with whole
    scenes; where they are zoomed into, detail is lost.
    maps: folder of saliency maps for the policy copy-paste, PATH-OF-THE-PICTURE.png (see `MapFolder`).
    say: takes the lines that tell what was chosen and what went wrong; None: stderr.

    Raises UserError (missing files or folders, unknown names, a batch that cannot be made), each with its remedy.
    """
    import torch

    from augment.stream.loader import ViewLoader

    say = say or (lambda text: print(f"augment: {text}", file=sys.stderr, flush=True))
    policy = Policy() if policy is None else policy
    _refuse_kinds(boxes=boxes, root=root, split=split, background_sets=background_sets)
    _refuse_values(check=check, on_bad=on_bad, cache=cache, dtype=dtype, policy=policy, maps=maps)
    workers, cache_bytes, cache_side = (
        None if value is None else whole(name, value)
        for name, value in (("workers", workers), ("cache_bytes", cache_bytes), ("cache_side", cache_side))
    )
    batch_size, seed, prefetch = whole("batch_size", batch_size), whole("seed", seed), whole("prefetch", prefetch)
    rank, world_size = whole("rank", rank), whole("world_size", world_size)
    if cache == "off" and (cache_bytes is not None or cache_side is not None):
        given = f"cache_bytes={cache_bytes}" if cache_side is None else f"cache_side={cache_side}"
        raise UserError(f"{given} without a cache: name one, cache=ram or cache=gpu")
    where = backends.find_device(device)
    chosen, reason = backends.choose(backend, where, policy.colour, cache != "off")
    images = ImageSet.open(boxes, root)
    rows = images.parts[0][0].indices(split)
    images, pool = _with_backgrounds(images, rows, background_sets, own_backgrounds, say)
    schedule = Schedule(policy, rows, batch_size, seed, bool(drop_last), rank, world_size, pool)
    if cache != "off" and (cache == "gpu") != (where.type == "cuda"):
        raise UserError(f"cache={cache} for views on {where}: use {'gpu' if where.type == 'cuda' else 'ram'} or off")
    kept = None if cache == "off" else _decoded_cache(images, policy, rows, where, (cache_bytes, cache_side), say)
    workers = workers or cores()
    made = backends.build(chosen, policy, where, dtype or torch.float32, workers, schedule.largest, say, kept)
    say(
        f"{chosen} backend on {where} ({reason}); {policy}; {len(rows)} images, {len(schedule)} batches of {batch_size}"
    )
    return ViewLoader(
        images, schedule, made, check=check, on_bad=on_bad, workers=workers, prefetch=prefetch, say=say, device=where,
        maps=None if maps is None else MapFolder(maps, images, rows),
    )  # fmt: skip


def _refuse_kinds(**values: Any) -> None:
    """UserError for what cannot name data at all."""
    path = (str, os.PathLike)
    kinds = {
        "boxes": (*path, BoxCache),
        "root": (*path, NoneType),
        "split": (str, NoneType),
        "background_sets": Sequence,
    }
    for name, value in values.items():
        if not isinstance(value, kinds[name]):
            raise UserError(f"{name}={value!r}: a {type(value).__name__} names none; see the signature of open_views")


def _refuse_values(
    *, check: str, on_bad: str, cache: str, dtype: "torch.dtype | None", policy: Policy, maps: Path | str | None
) -> None:
    """UserError for values that `open_views` does not know, or that do not go together."""
    import torch

    if not isinstance(policy, Policy):
        raise UserError(f"policy={policy!r}: must be an augment.Policy, such as Policy(name='rrc')")
    dtypes = None, torch.float32, torch.bfloat16, torch.float16
    if dtype not in dtypes:
        raise UserError(f"dtype={dtype}: must be one of {', '.join(map(str, dtypes[1:]))}")
    for name, value, valid in (("check", check, CHECKS), ("on_bad", on_bad, ON_BAD), ("cache", cache, CACHES)):
        if value not in valid:
            raise UserError(f"{name}={value!r}: must be one of {', '.join(valid)}")
    if (policy.name == "copy-paste") != (maps is not None):
        raise UserError("the policy copy-paste and maps=FOLDER, its saliency maps, belong together")


def _with_backgrounds(
    images: ImageSet,
    rows: "np.ndarray",
    sets: Sequence[tuple[Path | str | BoxCache, Path | str]],
    own: bool,
    say: Callable[[str], None],
) -> "tuple[ImageSet, np.ndarray | None]":
    """`images` and the further sets as one, and which of it may be backgrounds (None: `rows`, the split itself)."""
    import numpy as np

    if not sets:
        if not own:
            raise UserError("own_backgrounds=False without background_sets: no backgrounds are left; name some")
        return images, None
    if bad := [pair for pair in sets if not isinstance(pair, tuple | list) or len(pair) != 2]:
        raise UserError(f"background_sets: {bad[0]!r}: each must be a pair of a box file and its folder")
    images = ImageSet([*images.parts, *(part for pair in sets for part in ImageSet.open(*pair).parts)])
    others = _others(images, rows, say)
    return images, np.concatenate((rows, others)) if own else others


def _others(images: ImageSet, rows: "np.ndarray", say: Callable[[str], None]) -> "np.ndarray":
    """Images of the further sets, int64; without those of `rows` among them: none may be its own background."""
    import numpy as np

    others = np.arange(images.offsets[1], len(images))
    hashes = [np.ascontiguousarray(cache.hashes[:]).view("V16")[:, 0] for cache, _ in images.parts]
    also = np.isin(np.concatenate(hashes[1:]), hashes[0][rows])
    if also.any():
        say(f"background_sets: {also.sum()} of {len(others)} images are of the split too, and left out")
    return others[~also]


def _decoded_cache(
    images: ImageSet,
    policy: Policy,
    rows: "np.ndarray",
    device: "torch.device",
    limits: tuple[int | None, int | None],
    say: Callable[[str], None],
) -> "DecodedCache":
    """The cache for `limits`: bytes, and pixels of a side (None: half of what is free; as they are)."""
    from augment.backends.decoded import DecodedCache, default_budget

    budget, side = limits
    if side is not None and side < 1:
        raise UserError(f"cache_side={side}: must be at least 1; twice the view's size ({2 * policy.size}) is usual")
    kept = DecodedCache(policy, images.pool, default_budget(device) if budget is None else budget, side)
    needed = kept.needed(rows)
    share = min(kept.budget / max(needed, 1), 1.0)
    rest = "" if share == 1 else f": about {share:.0%} of the images are kept, the others decoded in every epoch"
    say(f"decoded pictures take {_in_words(needed)} of the {_in_words(kept.budget)} for them{rest}")
    return kept


def _in_words(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
