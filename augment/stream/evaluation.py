"""Plain, deterministic images for evaluation: kNN, linear probes, localisation."""

import collections
import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from augment.stream.imageset import ImageSet
from augment.views import geometry
from augment.views.policy import Policy
from precompute.base.boxfile import BoxCache
from precompute.base.errors import BadFile, UserError
from precompute.base.program import cores

if TYPE_CHECKING:
    from torch import Tensor

CROPS = ("center", "box", "whole")


def eval_images(
    boxes: Path | str | BoxCache,
    root: Path | str,
    *,
    split: str | None = "test",
    size: int = 224,
    resize: float = 256 / 224,
    batch_size: int = 256,
    crop: str = "center",
    workers: int | None = None,
    mean: tuple[float, ...] = Policy.mean,
    std: tuple[float, ...] = Policy.std,
    check: str = "size",
    skip: Callable[[BadFile], None] | None = None,
) -> "Iterator[tuple[Tensor, Tensor]]":
    """Yields (images, indices): float32 [N, 3, size, size] channels-last and normalised on the CPU, int64 [N].

    Ascending rows of the split (None: all), each once; the last batch may be short. `crop`:
    "center" resizes the shorter side to round(size · resize) and takes the middle (torchvision's evaluation);
    "box" resizes the box to the square; "whole" resizes the whole picture to the square, so that a box in [0, 1] stays
    where it is. A file that is missing or not the one that was cached raises `BadFile`; `skip`, if given, is called
    with that instead, and the image is left out. Raises UserError for unknown names.
    """
    if crop not in CROPS:
        raise UserError(f"crop={crop!r}: must be one of {', '.join(CROPS)}")
    if size < 1 or batch_size < 1 or resize < 1:
        raise UserError(f"size={size}, batch_size={batch_size}, resize={resize}: must be at least 1")
    images = ImageSet.open(boxes, root)
    rows = images.parts[0][0].indices(split)
    return _batches(images, rows, size, resize, batch_size, crop, workers, (mean, std), check, skip)


def _batches(
    images: ImageSet,
    rows: np.ndarray,
    size: int,
    resize: float,
    batch_size: int,
    crop: str,
    workers: int | None,
    normalisation: tuple[tuple[float, ...], tuple[float, ...]],
    check: str,
    skip: Callable[[BadFile], None] | None,
) -> "Iterator[tuple[Tensor, Tensor]]":
    import torch

    mean, std = (torch.tensor(x, dtype=torch.float32)[:, None, None] for x in normalisation)
    workers = workers or cores()
    with ThreadPoolExecutor(workers, thread_name_prefix="augment-eval") as threads:
        # A bounded window of futures: `map` would decode the whole set at once.
        todo = iter(rows.tolist())
        make = lambda row: threads.submit(_square, images, row, size, resize, crop, check)  # noqa: E731
        window = collections.deque(make(row) for row in itertools.islice(todo, 2 * batch_size))
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
                window.extend(make(row) for row in itertools.islice(todo, 1))
            if pixels:
                batch = ((torch.stack(pixels).float() / 255) - mean) / std
                yield batch.contiguous(memory_format=torch.channels_last), torch.tensor(chosen)


def _square(images: ImageSet, row: int, size: int, resize: float, crop: str, check: str) -> "Tensor":
    """One image as uint8 [3, size, size]."""
    from augment.backends.torch_ops import crop_resize, decode

    data = images.read(row, check)
    try:
        picture = decode(data)
    except RuntimeError as error:
        reason = images.diagnose(row, data) or str(error)
        raise BadFile(images.path(row), reason) from error
    pool = images.pool
    width, height = int(pool.widths[row]), int(pool.heights[row])
    whole = np.array((0, 0, width, height))
    if crop == "whole":
        return crop_resize(picture, whole, size, size)
    if crop == "box":
        return crop_resize(picture, geometry.box_to_pixels(pool.boxes[row], width, height), size, size)
    shorter = max(round(size * resize), size)
    # torchvision's Resize: the longer side is cut down to a whole number of pixels; CenterCrop: rounded offsets.
    w = shorter if width <= height else int(shorter * width / height)
    h = shorter if height <= width else int(shorter * height / width)
    x, y = round((w - size) / 2), round((h - size) / 2)
    return crop_resize(picture, whole, h, w)[:, y : y + size, x : x + size]
