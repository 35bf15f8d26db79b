"""Plain, deterministic images for evaluation: kNN, linear probes, localisation."""

import collections
import itertools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from numbers import Real

import numpy as np
import torch
from torch import Tensor

from augment.backends.torch_ops import crop_resize, decode
from augment.request import Making, Source
from augment.stream.imageset import ImageSet
from augment.views import geometry
from augment.views.policy import Policy
from precompute.base.boxfile import BoxCache
from precompute.base.errors import BadFile, BadValue
from precompute.base.options import whole
from precompute.base.program import cores

CROPS = ("center", "box", "whole")


def eval_images(
    source: Source | BoxCache | str | os.PathLike[str],
    root: str | os.PathLike[str] | None = None,
    *,
    size: int = 224,
    crop: str = "center",
    resize: float = 256 / 224,
    mean: tuple[float, ...] = Policy.mean,
    std: tuple[float, ...] = Policy.std,
    batch_size: int = 256,
    making: Making = Making(),
    skip: Callable[[BadFile], None] | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields (images, rows): float32 [N, 3, size, size] channels-last and int64 [N], both on the CPU.

    The rows of the source's split (of a box file that is given with its `root`: "test"), ascending, each once; the last
    batch may be short. `crop`: "center" resizes the shorter side to round(size · resize) and takes the middle
    (torchvision's evaluation); "box" resizes the box to the square; "whole" resizes the whole picture to the square, so
    that a box in [0, 1] stays where it is. `mean` and `std` normalise as in `Policy`. Of `making`, `workers` and
    `check` count. A file that is missing or not the one that was cached raises `BadFile`; `skip`, if given, is called
    with that instead, and the image is left out. Raises BadValue for unknown values.
    """
    if crop not in CROPS:
        raise BadValue("crop", crop, CROPS)
    for name, value in (("size", size), ("batch_size", batch_size)):
        if whole(name, value) < 1:
            raise BadValue(name, value, "at least 1")
    if not isinstance(resize, Real) or not 1 <= resize <= 100:
        raise BadValue("resize", resize, "a number within 1 and 100")
    normal = Policy(mean=mean, std=std)  # checks them
    source = Source.of(source, root, split="test")
    images = ImageSet.open(source.boxes, source.root)
    rows = images.parts[0][0].indices(source.part)
    square = partial(_square, images, size=size, crop=crop, resize=resize, check=making.check)
    return _batches(square, rows, batch_size, normal, making.workers or cores(), skip)


def _batches(
    square: Callable[[int], Tensor],
    rows: np.ndarray,
    batch_size: int,
    normal: Policy,
    workers: int,
    skip: Callable[[BadFile], None] | None,
) -> Iterator[tuple[Tensor, Tensor]]:
    mean, std = (torch.tensor(x, dtype=torch.float32)[:, None, None] for x in (normal.mean, normal.std))
    with ThreadPoolExecutor(workers, thread_name_prefix="augment-eval") as threads:
        # A bounded window of futures: `map` would decode the whole set at once.
        todo = iter(rows.tolist())
        window = collections.deque(threads.submit(square, row) for row in itertools.islice(todo, 2 * batch_size))
        for start in range(0, len(rows), batch_size):
            chosen, pixels = [], []
            for row in rows[start : start + batch_size].tolist():
                try:
                    pixels.append(window.popleft().result())
                    chosen.append(row)
                except BadFile as error:
                    if skip is None:
                        raise
                    skip(error)
                window.extend(threads.submit(square, row) for row in itertools.islice(todo, 1))
            if pixels:
                batch = ((torch.stack(pixels).float() / 255) - mean) / std
                yield batch.contiguous(memory_format=torch.channels_last), torch.tensor(chosen)


def _square(images: ImageSet, row: int, *, size: int, crop: str, resize: float, check: str) -> Tensor:
    """One image as uint8 [3, size, size]."""
    data = images.read(row, check)
    try:
        picture = decode(data)
    except RuntimeError as error:
        reason = images.diagnose(row, data) or str(error)
        raise BadFile(images.path(row), reason) from error
    pool = images.pool
    width, height = int(pool.widths[row]), int(pool.heights[row])
    if crop == "box":
        return crop_resize(picture, geometry.box_to_pixels(pool.boxes[row], width, height), size, size)
    roi = np.array((0, 0, width, height))
    if crop == "whole":
        return crop_resize(picture, roi, size, size)
    shorter = round(size * resize)
    # torchvision's Resize: the longer side is cut down to a whole number of pixels; CenterCrop: rounded offsets.
    w = shorter if width <= height else int(shorter * width / height)
    h = shorter if height <= width else int(shorter * height / width)
    x, y = round((w - size) / 2), round((h - size) / 2)
    return crop_resize(picture, roi, h, w)[:, y : y + size, x : x + size]
