"""A process of `benchmarks.versions`: it does the parts of the jobs that it is asked for, and says what each cost.

It runs in older checkouts of this project too, by the code that PYTHONPATH names. So it imports only what all of them
have, or asks what is there. It reads lines of JSON on stdin, and answers each by one on stdout.
"""

import hashlib
import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any


def _of(module: str, name: str) -> Any:
    """A name of `augment`'s module; in older checkouts these lie in `augment` itself, not in a room of it."""
    try:
        return getattr(importlib.import_module(f"augment.{module}"), name)
    except ModuleNotFoundError:
        return getattr(importlib.import_module(f"augment.{module.rpartition('.')[2]}"), name)


class Bytes:
    """JPEG bytes in memory to two normalised views by `fused` in one thread. A part is a batch."""

    def __init__(self, case: dict[str, Any]) -> None:
        """`case`: a `versions.Case` as a dictionary, with the `folder` that holds its pictures."""
        import numpy as np
        import torch

        from augment import backends

        folder, batch = Path(case["folder"]), case["batch"]
        with np.load(folder / "pool.npz") as columns:
            pool = _of("views.plan", "Pool")(*(columns[c] for c in ("widths", "heights", "boxes", "has_box")))
        policy = _of("views.policy", "Policy")(name=case["policy"])
        rows = np.arange(batch * case["batches"])
        schedule = _of("views.schedule", "Schedule")(policy, rows, batch, seed=0, drop_last=True)
        build: Any = backends.build
        try:
            making = _of("request", "Making")(device="cpu", workers=1, decode=case["decode"], say=lambda line: None)
            self._backend = build("fused", policy, making, batch, None, pool)
            self._plan: Callable[[int, int], Any] = lambda epoch, k: schedule.plan(pool, epoch, k)
        except ModuleNotFoundError:
            self._backend = build("fused", policy, torch.device("cpu"), torch.float32, 1, batch)
            self._plan = lambda epoch, k: schedule.plan(pool, schedule.order(epoch), epoch, k)
        plans = [self._plan(0, k) for k in range(case["batches"])]
        self._parts = [(plan, [(folder / f"{i}.jpg").read_bytes() for i in plan.images.tolist()]) for plan in plans]

    def do(self, part: int) -> list[list[float]]:
        """What the part cost: CPU seconds, seconds on the clock, source images."""
        plan, files = self._parts[part]
        return [_cost(lambda: self._backend.render(plan, files), lambda: len(plan))]

    def digest(self) -> str:
        """Of the first batch's views: equal where these are, to the bit."""
        views = self._backend.render(*self._parts[0])
        return hashlib.sha256(b"".join(view.contiguous().numpy().tobytes() for view in views)).hexdigest()


class Python(Bytes):
    """What Python costs of plan and views: all but the calls of C++, of libjpeg and of torchvision's decoder.

    A part is a batch. Every pass over the parts is another epoch, so that no plan comes twice.
    """

    def __init__(self, case: dict[str, Any]) -> None:
        """`case`: see `Bytes`."""
        super().__init__(case)
        self._files = {int(i): data for plan, files in self._parts for i, data in zip(plan.images, files, strict=True)}
        self._epoch, self._native = 0, 0.0
        fused: Any = importlib.import_module("augment.backends.fused")
        fused.decode = self._counted(fused.decode)
        backend: Any = self._backend
        backend._library = library = _Library(backend._library, self._counted)
        if (reader := getattr(backend, "_jpeg", None)) is not None:
            reader._compiled = library

    def do(self, part: int) -> list[list[float]]:
        """See `Bytes`."""
        self._epoch += part == 0
        self._native = 0.0
        plan, drawn = self._timed(lambda: self._plan(self._epoch, part))
        files = [self._files[i] for i in plan.images.tolist()]
        _, made = self._timed(lambda: self._backend.render(plan, files))
        return [[drawn[0] + made[0] - self._native, drawn[1] + made[1], len(plan)]]

    @staticmethod
    def _timed(work: Callable[[], Any]) -> tuple[Any, list[float]]:
        """What `work` returns, and its CPU seconds and seconds on the clock."""
        out: list[Any] = []
        *cost, _ = _cost(lambda: out.append(work()), lambda: 1)
        return out[0], cost

    def _counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*given: Any) -> Any:
            began = time.thread_time()
            try:
                return function(*given)
            finally:
                self._native += time.thread_time() - began

        return counted


class _Library:
    """A library of C++ whose calls are counted."""

    def __init__(self, library: Any, counted: Callable[..., Any]) -> None:
        self._library, self._counted = library, counted

    def __getattr__(self, name: str) -> Any:
        setattr(self, name, self._counted(getattr(self._library, name)))
        return self.__dict__[name]


class Files:
    """Files on disk to batches by the whole loader, one thread, with a cache of decoded pictures or without.

    A part is `epochs` epochs of a loader that is opened for it; the opening is not counted. The batches that it makes
    ahead are, as samples too. The memory of its batches, which it takes once, is counted by itself.
    """

    def __init__(self, case: dict[str, Any]) -> None:
        """`case`: see `Bytes`, and `boxes`, `root`."""
        self._case = case

    def do(self, part: int, cache: str = "off", folder: str | None = None, epochs: int = 1) -> list[list[float]]:
        """What the memory of batches cost (of 0 samples), then each epoch, see `Bytes`; `folder`: for cache disk."""
        _touch_memory()
        with self._opened(cache, folder) as loader:
            owner = getattr(getattr(loader, "_maker", loader), "backend", None) or loader.backend
            render, made = owner.render, [0]

            def counted(plan: Any, files: Any) -> Any:
                made[0] += len(plan)
                return render(plan, files)

            owner.render = counted
            memory = _cost(lambda: self._take_memory(owner), lambda: 0)
            return [
                memory,
                *(_cost(lambda: self._epoch(loader), lambda before=made[0]: made[0] - before) for _ in range(epochs)),
            ]

    def _take_memory(self, backend: Any) -> None:
        """Writes to the memory of as many batches as there are at a time; the backend then uses it again.

        Two lie ready, a third waits for its place, one is the loop's and one is made.
        """
        shape = (self._case["batch"], 224, 224, 3)
        for view in [backend._memory.take(shape) for _ in range(5 * 2)]:
            view.zero_()

    @staticmethod
    def _epoch(loader: Any) -> None:
        """An epoch, and the batches ahead: until nothing is made any more."""
        for _ in loader:
            pass
        before = -1.0
        while (now := time.process_time()) - before > 0.005:
            before = now
            time.sleep(0.05)

    def _opened(self, cache: str, folder: str | None) -> Any:
        import augment

        open_views: Any = augment.open_views
        policy = _of("views.policy", "Policy")(name=self._case["policy"])
        boxes, root, batch = (self._case[name] for name in ("boxes", "root", "batch"))
        common: dict[str, Any] = {"policy": policy, "batch_size": batch}
        making: dict[str, Any] = {
            "backend": "fused", "device": "cpu", "workers": 1, "cache": cache, "say": lambda line: None,
        }  # fmt: skip
        if not hasattr(augment, "Making"):
            return open_views(boxes, root, split=None, **common, **making)
        making |= {} if folder is None else {"cache_dir": folder}
        return open_views(augment.Source(boxes, root, "all"), making=augment.Making(**making), **common)


def _touch_memory() -> None:
    """Takes as much memory as a loader, and gives it back to the system.

    A virtual machine's host gives memory slowly (measured: 120 ms for a batch's 38 MB, then 5 ms), and who is first
    would pay for that.
    """
    import numpy as np

    np.ones(384 << 20, np.uint8)


def _cost(work: Callable[[], object], samples: Callable[[], float]) -> list[float]:
    cpu, wall = time.process_time(), time.perf_counter()  # no process is started, so this one's time is the tree's
    work()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return [cpu, wall, samples()]


def serve() -> None:
    """Answers until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to stderr
    import torch

    torch.set_num_threads(1)
    jobs: dict[str, Any] = {}
    versions = {name: metadata.version(name) for name in ("torch", "torchvision", "numpy", "pillow")}
    answer: Any = {"python": sys.version.split()[0], **versions}
    while True:
        print(json.dumps(answer), file=answers, flush=True)
        if not (line := sys.stdin.readline()):
            return
        name, method, values = json.loads(line)
        if method == "open":
            jobs[name] = {"bytes": Bytes, "files": Files, "python": Python}[values["kind"]](values)
            answer = None
        else:
            answer = getattr(jobs[name], method)(**values)
