"""`open_views`: from a box file and its images to a loader, in one call."""

import os
from collections.abc import Callable

import numpy as np
import torch

from augment import backends
from augment.backends.decoded import DecodedCache, default_budget
from augment.request import Making, Share, Source
from augment.stream.alpha import MapFolder
from augment.stream.imageset import ImageSet
from augment.stream.loader import ViewLoader
from augment.stream.maker import BatchMaker
from augment.views.policy import Policy
from augment.views.schedule import Schedule
from precompute.base.boxfile import BoxCache
from precompute.base.errors import BadValue, UserError
from precompute.base.options import whole


def open_views(
    source: Source | BoxCache | str | os.PathLike[str],
    root: str | os.PathLike[str] | None = None,
    *,
    policy: Policy | None = None,
    batch_size: int = 256,
    seed: int = 0,
    making: Making = Making(),
    share: Share = Share(),
) -> ViewLoader:
    """Opens a stream of views with their geometry; see `augment.ViewLoader` and `augment.Batch`.

    source: a `Source`, or a box file with `root`, the folder of its images; then the split is "train".
    batch_size: source images per step over all ranks; this rank gets batch_size / share.world of them.

    Raises UserError (missing files or folders, a batch that cannot be made), or its subclass BadValue, which names the
    argument or the record's field, its valid values and the remedy.
    """
    source, making = Source.of(source, root), making.settled()
    policy = Policy() if policy is None else policy
    if not isinstance(policy, Policy):
        raise BadValue("policy", policy, "an augment.Policy, such as Policy(name='rrc')")
    source.check_maps(policy)
    device = torch.device(making.device)
    name, reason = backends.choose(making.backend, device, policy.colour, making.cache != "off")
    images, rows, pool = _images_of(source, making.say)
    schedule = Schedule(
        policy, rows, whole("batch_size", batch_size), whole("seed", seed), bool(share.drop_last), share.rank,
        share.world, pool, images.twins() if policy.kind.pastes else None,
    )  # fmt: skip
    cache = _decoded_cache(images, policy, rows, making, device)
    backend = backends.build(name, policy, making, schedule.largest, cache)
    making.say(f"{name} backend on {device} ({reason}); {policy}; {len(rows)} images, "
               f"{len(schedule)} batches of {batch_size}")  # fmt: skip
    maps = None if source.maps is None else MapFolder(source.maps, images, rows)
    return ViewLoader(schedule, images, BatchMaker(images, schedule, backend, making, maps), making.prefetch)


def _images_of(source: Source, say: Callable[[str], None]) -> tuple[ImageSet, np.ndarray, np.ndarray | None]:
    """All images, the split's rows, and the rows that may be backgrounds (None: the split's)."""
    images = ImageSet.open(source.boxes, source.root, say)
    rows = _rows_of(images.parts[0][0], source)
    if not source.background_sets:
        return images, rows, None
    more = [part for pair in source.background_sets for part in ImageSet.open(*pair).parts]
    images = ImageSet([*images.parts, *more], say)
    # An image of the split is left out of the further sets, so that none is its own background.
    further = np.arange(images.offsets[1], len(images))
    keys = [cache.keys for cache, _ in images.parts]
    also = np.isin(np.concatenate(keys[1:]), keys[0][rows])
    if also.any():
        say(f"backgrounds: {also.sum()} of {len(further)} images are of the split too, and left out")
    further = further[~also]
    return images, rows, np.concatenate((rows, further)) if source.own_backgrounds else further


def _rows_of(cache: BoxCache, source: Source) -> np.ndarray:
    """The rows of the source's split. BadValue names the splits there are, where it is not one or has no image."""
    splits = (*(name for name, count in cache.counts()[0].items() if count), "all")
    remedy = "'all' takes every image; NAME/fit and NAME/dev are two thirds and one third of a split"
    try:
        rows = cache.indices(source.part)
    except UserError as error:
        raise BadValue("split", source.split, splits, remedy) from error
    if not len(rows):
        raise BadValue("split", source.split, splits, f"There is no image in it; {remedy}")
    return rows


def _decoded_cache(
    images: ImageSet, policy: Policy, rows: np.ndarray, making: Making, device: torch.device
) -> DecodedCache | None:
    """The cache of `making`, which says how much of the split fits. Raises BadValue for one on another device."""
    if making.cache == "off":
        return None
    right = "gpu" if device.type == "cuda" else "ram"
    if making.cache != right:
        raise BadValue("cache", making.cache, f"{right} or off for views on {device}")
    budget = default_budget(device) if making.cache_bytes is None else making.cache_bytes
    kept = DecodedCache(policy, images.pool, budget, making.cache_side)
    needed = kept.needed(rows)
    share = min(budget / max(needed, 1), 1.0)
    rest = "" if share == 1 else f": about {share:.0%} of the images are kept, the others decoded in every epoch"
    making.say(f"decoded pictures take {needed / 1e9:.3g} GB of the {budget / 1e9:.3g} GB for them{rest}")
    return kept
