"""The worker of benchmarks.host: what one build's Python threads do around the kernels and the decoder, without either.

It imports `augment` and `precompute` of the build that stands first in PYTHONPATH and nothing else of the project, so
that one file measures several builds. For each line of its input, the name of a part in JSON, `serve` does that part
once and answers {"cpu": seconds, "wall": seconds, "samples": source images}.

Real: plans, files, checks, the feeding of DALI, DALI's lists of decoded pictures, the tables of the kernels, the queue
to the training loop. Not there: the decoder's work (each batch's pictures are decoded before the clock starts, and
handed over as DALI hands them over), the kernels (their launches return at once), and the mapping of memory.
"""

import ctypes
import importlib
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

BUDGET = 64 << 30  # bytes of a cache: all pictures fit


def serve(boxes: str, root: str, batch: int, batches: int, times: int, size: int, threads: int, one_core: bool) -> None:
    """Answers until the input ends."""
    if one_core and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    keep_freed_memory()
    forget_launches()
    work = Work(boxes, root, batch, batches, size, threads)
    # What prepares a part, and how often it is done then.
    parts: dict[str, tuple[Callable[[], Callable[[int], object]], int]] = {
        "views": (work.views, times),
        "cache fill": (work.fill, 1),
        "loader, cached": (lambda: work.loader(cached=True), times),
        "loader, uncached": (lambda: work.loader(cached=False), times),
    }
    print(json.dumps({"augment": str(importlib.import_module("augment").__path__[0])}), flush=True)
    for line in sys.stdin:
        prepare, count = parts[json.loads(line)]
        part = prepare()
        cpu, wall = time.process_time(), time.perf_counter()
        part(count)
        done = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
        print(json.dumps(done | {"samples": batch * batches * count}), flush=True)


def keep_freed_memory() -> None:
    """As the allocators of CUDA and of pinned memory do. glibc would map and unmap the memory of each batch's views."""
    libc, most_maps, trim_at = ctypes.CDLL(None), -4, -1
    if hasattr(libc, "mallopt"):
        libc.mallopt(most_maps, 0)
        libc.mallopt(trim_at, (1 << 31) - 1)


def forget_launches() -> None:
    """From now on a launch of any of the kernels does nothing."""
    kernels = importlib.import_module("augment.backends.triton_kernels")

    class Nothing:
        def __getitem__(self, grid: Any) -> Callable[..., None]:
            return lambda *arguments, **options: None

    for name in [name for name in vars(kernels) if name.endswith("_kernel")]:
        setattr(kernels, name, Nothing())


class Work:
    """The fused backend of CUDA on pictures in host memory."""

    def __init__(self, boxes: str, root: str, batch: int, batches: int, size: int, threads: int) -> None:
        from augment.stream.imageset import ImageSet
        from augment.views.policy import Policy
        from augment.views.schedule import Schedule

        self.images = ImageSet.open(boxes, root)
        self.policy, self.threads = Policy(size=size), threads

        class Same(Schedule):
            """Every epoch is the first one, so that its decoded pictures serve again."""

            def plan(self, pool: Any, epoch: int, step: int) -> Any:
                return super().plan(pool, 0, step)

        self.schedule = Same(self.policy, np.arange(batch * batches), batch, seed=0, drop_last=True)
        self.plans = [self.schedule.plan(self.images.pool, 0, step) for step in range(batches)]
        self.files = [[self.images.read(row) for row in plan.images.tolist()] for plan in self.plans]
        self.decoded = [_decoded(files, threads) for files in self.files]
        self._warm = self._backend(cached=True)
        self._fill(self._warm)
        self._loaders: dict[bool, tuple[Any, Iterator[Any]]] = {}

    def views(self) -> Callable[[int], object]:
        """Views of all batches from kept pictures."""
        nothing = [[b""] * len(plan.images) for plan in self.plans]
        jobs = list(zip(self.plans, nothing, strict=True))
        return lambda times: [self._warm.render(*job) for job in times * jobs]

    def fill(self) -> Callable[[int], object]:
        """Views of all batches of pictures that an empty cache is to keep: the decoder's list is there already.

        So is its pipeline, which is built once, not once an epoch.
        """
        backend = self._backend(cached=True)
        backend._decoder.keep(backend._decoder.decode(self.files[0]))
        return lambda times: self._fill(backend)

    def loader(self, cached: bool) -> Callable[[int], object]:
        """Epochs of the whole loader."""
        if cached not in self._loaders:
            from augment.request import Making
            from augment.stream.loader import ViewLoader
            from augment.stream.maker import BatchMaker

            making = Making(device="cpu", workers=self.threads, say=lambda _: None)
            backend = self._warm if cached else self._backend(cached=False)
            made = ViewLoader(self.schedule, self.images, BatchMaker(self.images, self.schedule, backend, making))
            endless = itertools.chain.from_iterable(itertools.repeat(made))
            self._loaders[cached] = made, endless
        _, batches = self._loaders[cached]
        for _ in range(5):  # takes what was made ahead, so that the clock sees as many made as taken
            next(batches)
        time.sleep(0.3)
        return lambda times: ([next(batches) for _ in times * self.plans], time.sleep(0.3))

    def _fill(self, backend: Any) -> None:
        for plan, files in zip(self.plans, self.files, strict=True):
            backend.render(plan, files)

    def _backend(self, cached: bool) -> Any:
        from augment.backends.decoded import DecodedCache
        from augment.backends.fused_cuda import FusedCudaBackend
        from augment.request import Making

        cache = DecodedCache(self.policy, self.images.pool, BUDGET) if cached else None
        making = Making(device="cpu", workers=self.threads).settled()
        backend = FusedCudaBackend(self.policy, making, self.schedule.largest, cache)
        ready = {_name(files): outputs for files, outputs in zip(self.files, self.decoded, strict=True)}
        backend._decoder = without_decoding(backend._decoder, ready)  # type: ignore[assignment]
        return backend


def without_decoding(decoder: Any, ready: dict[tuple[int, int], Any]) -> Any:
    """`decoder`, fed as ever, whose pipelines do not decode: its results are those of `ready`."""
    kind = type(decoder)

    class Ready(kind):  # type: ignore[valid-type, misc]
        def _graph(self, rows: int) -> Any:
            return _fed_only(rows)

        def _finish(self, key: Any, files: Any) -> Any:
            super()._finish(key, files)
            return ready[_name(files)]

    decoder.__class__ = Ready
    return decoder


def _name(files: Any) -> tuple[int, int]:
    """Tells a run's batches apart."""
    return len(files[0]), len(files[-1])


def _fed_only(rows: int) -> Any:
    """A pipeline that takes files and returns only their lengths: to return them would copy them."""
    from nvidia.dali import fn, pipeline_def

    types: Any = importlib.import_module("nvidia.dali.types")  # its members are made at run time

    @pipeline_def
    def graph() -> Any:
        files: Any = fn.external_source(name="encoded", dtype=types.UINT8, ndim=1, no_copy=True)
        return files.shape()

    return graph(batch_size=rows, num_threads=1, device_id=None, prefetch_queue_depth=1, exec_dynamic=True)


def _decoded(files: list[bytes], threads: int) -> Any:
    """What the decoder's pipeline returns of these files."""
    from nvidia.dali import fn, pipeline_def

    types: Any = importlib.import_module("nvidia.dali.types")  # its members are made at run time

    @pipeline_def
    def graph() -> Any:
        encoded: Any = fn.external_source(name="encoded", dtype=types.UINT8, ndim=1, no_copy=True)
        return fn.decoders.image(encoded, device="cpu", output_type=types.RGB)

    pipe = graph(batch_size=len(files), num_threads=threads, device_id=None, prefetch_queue_depth=1, exec_dynamic=True)
    pipe.build()
    pipe.feed_input("encoded", [np.frombuffer(data, np.uint8) for data in files])
    return pipe.run()
