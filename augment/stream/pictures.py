"""From a `Source` to its images and the schedule of their batches."""

from collections.abc import Callable

import numpy as np

from augment.request import Share, Source
from augment.stream.imageset import ImageSet
from augment.views.policy import Policy
from augment.views.schedule import Schedule
from precompute.base.boxfile import BoxCache
from precompute.base.errors import BadValue, UserError
from precompute.base.options import whole


def schedule_of(
    source: Source, policy: Policy, batch_size: int, seed: int, share: Share, say: Callable[[str], None]
) -> tuple[ImageSet, Schedule]:
    """All images of the source, and which of them are in which batch. Raises UserError as `open_views` does."""
    images, rows, pool = _images_of(source, say)
    return images, Schedule(
        policy, rows, whole("batch_size", batch_size), whole("seed", seed), bool(share.drop_last), share.rank,
        share.world, pool, images.twins() if policy.kind.pastes else None,
    )  # fmt: skip


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
