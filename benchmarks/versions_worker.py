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
            plans = [schedule.plan(pool, 0, k) for k in range(case["batches"])]
        except ModuleNotFoundError:
            self._backend = build("fused", policy, torch.device("cpu"), torch.float32, 1, batch)
            plans = [schedule.plan(pool, schedule.order(0), 0, k) for k in range(case["batches"])]
        self._parts = [(plan, [(folder / f"{i}.jpg").read_bytes() for i in plan.images.tolist()]) for plan in plans]

    def do(self, part: int) -> list[list[float]]:
        """What the part cost: CPU seconds, seconds on the clock, source images."""
        plan, files = self._parts[part]
        return [_cost(lambda: self._backend.render(plan, files), lambda: len(plan))]

    def digest(self) -> str:
        """Of the first batch's views: equal where these are, to the bit."""
        views = self._backend.render(*self._parts[0])
        return hashlib.sha256(b"".join(view.contiguous().numpy().tobytes() for view in views)).hexdigest()


class Files:
    """Files on disk to batches by the whole loader, one thread, with a cache of decoded pictures or without.

    A part is `epochs` epochs of a loader that is opened for it; the opening is not counted. The batches that it makes
    ahead are, as samples too.
    """

    def __init__(self, case: dict[str, Any]) -> None:
        """`case`: see `Bytes`, and `boxes`, `root`."""
        self._case = case

    def do(self, part: int, cache: str = "off", folder: str | None = None, epochs: int = 1) -> list[list[float]]:
        """What each epoch cost, see `Bytes`; `folder`: of the file of cache disk."""
        _touch_memory()
        with self._opened(cache, folder) as loader:
            owner = getattr(getattr(loader, "_maker", loader), "backend", None) or loader.backend
            render, made = owner.render, [0]

            def counted(plan: Any, files: Any) -> Any:
                made[0] += len(plan)
                return render(plan, files)

            owner.render = counted
            return [_cost(lambda: self._epoch(loader), lambda before=made[0]: made[0] - before) for _ in range(epochs)]

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
            jobs[name] = (Files if values["files"] else Bytes)(values)
            answer = None
        else:
            answer = getattr(jobs[name], method)(**values)
