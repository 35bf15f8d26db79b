"""Several runs of a comparison side by side, each in a process of its own."""

import json
import multiprocessing
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from precompute.base.options import as_json
from trainer.comparison.arms import Arm

Run = tuple[Arm, int]  # an arm and a seed
Ring = tuple[str, int]  # the name that runs of equal views share, and how many they are; "": shared with none


def waves(runs: Sequence[Run], jobs: int) -> Iterator[list[tuple[Run, Ring]]]:
    """The runs, at most `jobs` at a time, with those of equal views together."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(_views(run), []).append(run)
    ordered = [run for group in sorted(groups.values(), key=len, reverse=True) for run in group]
    for start in range(0, len(ordered), jobs):
        wave = ordered[start : start + jobs]
        alike = [[_views(other) for other in wave].count(_views(run)) if _on_cpu(run) else 1 for run in wave]
        yield [
            (run, (f"compare {os.getpid()} {start} {_views(run)}" if count > 1 else "", count))
            for run, count in zip(wave, alike, strict=True)
        ]


def side_by_side(run: Callable[..., int], wave: Sequence[tuple[Run, Ring]]) -> int:
    """Runs all of a wave at once; the first status that is not 0. Upon a signal every run saves and ends."""
    context = multiprocessing.get_context("spawn")  # a fork would copy torch without its threads
    processes = [
        context.Process(target=_child, args=(run, arm, seed, ring), name=f"{arm.name} seed {seed}")
        for (arm, seed), ring in _with_pictures_in_common(wave)
    ]
    for process in processes:
        process.start()
    try:
        for process in processes:
            process.join()
    except KeyboardInterrupt:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()
        raise
    return next((code if code > 0 else 1 for process in processes if (code := process.exitcode or 0)), 0)


def _with_pictures_in_common(wave: Sequence[tuple[Run, Ring]]) -> list[tuple[Run, Ring]]:
    """The wave, with `cache="shared"` for the runs that say nothing of a cache and can have that one."""
    import torch

    from augment.backends.decoded import default_budget
    from augment.service.kept import MEMORY

    if len(wave) == 1 or not MEMORY.is_dir():
        return [*wave]
    # One figure for all: who comes later finds the file of the first.
    room = min(shutil.disk_usage(MEMORY).free // 2, default_budget(torch.device("cpu")))
    changed = []
    for (arm, seed), ring in wave:
        making = arm.config(seed).making
        plain = making.service == "off" and making.decode == "exact" and making.backend in ("auto", "fused", "eager")
        if plain and "cache" not in arm.values and _on_cpu((arm, seed)):
            arm = replace(arm, values=arm.values | {"cache": "shared", "cache_bytes": room})
        changed.append(((arm, seed), ring))
    return changed


def _views(run: Run) -> str:
    """What the views of a run depend on, but for the settings that it chooses itself."""
    arm, seed = run
    config = arm.config(seed)
    parts: tuple[Any, ...] = (config.data, config.views, config.schedule.batch_size, config.making.dtype, seed)
    return json.dumps([as_json(part) if hasattr(part, "__dataclass_fields__") else str(part) for part in parts])


def _on_cpu(run: Run) -> bool:
    """Views are shared there alone."""
    from precompute.base.device import find_device

    arm, seed = run
    return find_device(arm.config(seed).making.device).type == "cpu"


def _child(run: Callable[..., int], arm: Arm, seed: int, ring: Ring) -> None:
    from precompute.base.parent import end_with_parent
    from precompute.base.program import main
    from precompute.base.ranks import GRACE

    # It saves and ends where the comparison was killed: its folder would stay locked against the next one.
    end_with_parent(signal.SIGHUP, GRACE)
    sys.stdout = _Named(sys.stdout, f"[{arm.name} seed {seed}] ")
    main(lambda _: run(arm, seed, ring))


class _Named:
    """A stream whose lines begin with a name: those of several runs come mixed."""

    def __init__(self, stream: Any, name: str) -> None:
        self._stream, self._name, self._begins = stream, name, True

    def write(self, text: str) -> int:
        lines = text.splitlines(keepends=True)
        named = []
        for line in lines:
            named.append((self._name if self._begins else "") + line)
            self._begins = line.endswith("\n")
        self._stream.write("".join(named))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
