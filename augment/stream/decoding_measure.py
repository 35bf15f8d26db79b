"""The decoder's rate on some of a set's files, for `augment.backends.decoding`."""

import itertools
import time
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch

from augment.backends import decoding
from augment.backends.dali import pipeline_settings
from augment.backends.decoding import Decoding
from augment.stream.imageset import ImageSet

DEPTH, WARM, RUNS = 3, 4, 6  # runs queued at once, before the clock starts, and while it runs
SAMPLE = 1024  # files at most


def find(
    images: ImageSet, rows: np.ndarray, batch: int, device: torch.device, workers: int, *, plain: bool
) -> tuple[Decoding, dict[str, float]]:
    """`decoding.choose` on some of the images `rows`, in runs of `batch`."""
    some = rows[np.linspace(0, len(rows) - 1, min(len(rows), SAMPLE)).astype(int)]
    files = [images.read(row) for row in some.tolist()]
    pool = images.pool
    # Rare giants do not count: memory would be set aside for them in every slot.
    width, height = (int(np.quantile(sides[some], 0.99, method="higher")) for sides in (pool.widths, pool.heights))
    measure = partial(rate, files, batch, device, workers)
    return decoding.choose(measure, (width, height), workers, plain)


def rate(files: Sequence[bytes], batch: int, device: torch.device, workers: int, settings: Decoding) -> float:
    """Pictures a second, runs queued ahead. Raises RuntimeError as DALI does."""
    from augment.backends.dali_graph import decode_graph

    batch = min(batch, len(files))
    own = pipeline_settings(device, batch, workers, settings) | {"prefetch_queue_depth": DEPTH}
    pipe = decode_graph(**own)  # type: ignore[call-arg]
    pipe.build()
    arrays = itertools.cycle([np.frombuffer(data, np.uint8) for data in files])
    wait = (lambda: torch.cuda.synchronize(device)) if device.type == "cuda" else (lambda: None)
    for _ in range(DEPTH - 1):
        pipe.feed_input("encoded", list(itertools.islice(arrays, batch)))
    began = 0.0
    for run in range(WARM + RUNS):
        if run == WARM:
            wait()
            began = time.perf_counter()
        pipe.feed_input("encoded", list(itertools.islice(arrays, batch)))
        pipe.run()
    wait()
    return RUNS * batch / (time.perf_counter() - began)
