"""Processes of their own that read views as trainings do, told what to do and when; each counts its own CPU time."""

import gc
import itertools
import multiprocessing
import os
import time
import traceback
import zlib
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.harness import Arm, process_and_family_seconds, settle
from precompute.base.errors import UserError
from precompute.base.parent import end_with_parent


class Readers:
    """Some processes, each with a `worker(**given)` made in it; `tell` calls a method of all of them at once."""

    def __init__(self, worker: type, given: Sequence[dict[str, Any]], stack: ExitStack) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would copy torch without its threads
        self._pipes, self._processes = [], []
        stack.callback(self.end)
        for arguments in given:
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, worker, arguments))
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)
        self._answers()

    def tell(self, name: str, *arguments: Any) -> list[Any]:
        """What `worker.name(*arguments)` returned in each process. UserError with what any of them raised."""
        for pipe in self._pipes:
            pipe.send((name, arguments))
        return self._answers()

    def spent(self) -> tuple[float, float]:
        """CPU seconds so far, without those of the children of the processes, and with them."""
        both = self.tell("spent")
        return sum(own for own, _ in both), sum(own + family for own, family in both)

    def end(self) -> None:
        """Ends them."""
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(30)
            if process.is_alive():
                process.kill()
                process.join()

    def _answers(self) -> list[Any]:
        answers = []
        for pipe, process in zip(self._pipes, self._processes, strict=True):
            try:
                wrong, answer = pipe.recv()
            except EOFError:
                raise UserError(f"a process of the benchmark ended with status {process.exitcode}") from None
            if wrong:
                raise UserError(f"in a process of the benchmark: {wrong}")
            answers.append(answer)
        return answers


def _serve(pipe: Any, kind: type, given: dict[str, Any]) -> None:
    end_with_parent()
    worker: Any = None
    name, arguments = "", ()
    while True:
        try:
            if worker is None:
                worker, answer = kind(**given), None
            else:
                answer = getattr(worker, name)(*arguments)
            pipe.send(("", answer))
        except Exception:
            pipe.send((traceback.format_exc(), None))
        try:
            name, arguments = pipe.recv()
        except EOFError:
            if worker is not None:
                worker.close()
            return


class Worker:
    """What every process can: say its CPU time."""

    def spent(self) -> tuple[float, float]:
        """CPU seconds of this process, and of its children."""
        return process_and_family_seconds()

    def close(self) -> None:
        """Frees everything."""


class Reader(Worker):
    """Reads the views of one training.

    It takes each batch from the loader's `Maker` in its own thread: a loader makes some ahead, and on a busy machine
    nobody could say when it has done so.
    """

    def __init__(self, source: Any, policy: Any, batch: int, seed: int, making: Any, cores: set[int]) -> None:
        """`cores`: the only ones that this process and those that it begins run on."""
        import torch

        os.sched_setaffinity(0, cores)
        torch.set_num_threads(1)
        self._given = source, policy, batch, seed, making
        self._loader: Any = None
        self._decoded = 0

    def open(self, changes: dict[str, Any]) -> None:
        """Opens the views, with these changes to how they are made; makes none."""
        from dataclasses import replace

        from augment import Share, open_views
        from augment.stream.maker import BatchMaker

        source, policy, batch, seed, making = self._given
        making = replace(making, say=lambda line: None, **changes)
        share = Share(drop_last=False)
        self._loader = open_views(source, policy=policy, batch_size=batch, seed=seed, making=making, share=share)
        self._maker, self._steps, self._decoded = self._loader._maker, len(self._loader), 0
        self._maker.begin_here()
        if isinstance(self._maker, BatchMaker):
            self._take_memory(self._maker.backend, (batch, policy.size, policy.size, 3), policy.views)
        self._made = self._maker.make((i // self._steps, i % self._steps) for i in itertools.count())
        # A collection of torch's many objects takes a tenth of a second, in any process at any time: none is timed.
        gc.collect()
        gc.freeze()

    @staticmethod
    def _take_memory(backend: Any, shape: tuple[int, ...], views: int) -> None:
        """Writes to the memory of two batches, the one that is read and the one that is made, which is used again.

        A training takes it once, however many batches it reads. In a first epoch of few, it would be most of the time:
        fresh pages cost as much as filling them.
        """
        for view in [backend._memory.take(shape) for _ in range(2 * views)]:
            view.zero_()

    def shut(self) -> None:
        """Closes them."""
        if self._loader is not None:
            self._loader.close()
            self._loader = None

    close = shut

    def read(self) -> None:
        """The views of an epoch, and a value of every page of them: all must be there."""
        for _ in range(self._steps):
            made = next(self._made)
            self._decoded += made.counts["decoded"]
            for view in made.batch.views:
                view.permute(0, 2, 3, 1).view(-1)[:: 4096 // view.itemsize].sum()

    def sums(self) -> list[int]:
        """A check sum of every batch of an epoch."""
        sums = []
        for _ in range(self._steps):
            batch, total = next(self._made).take(), 0
            for view in (*batch.views, batch.rects, batch.sources, batch.backgrounds):
                # Views lie with their channels last; what counts is their values.
                rows = view.permute(0, 2, 3, 1) if view.ndim == 4 else view
                total = zlib.crc32(rows.contiguous().numpy().tobytes(), total)
            sums.append(total)
        return sums

    def decoded(self) -> int:
        """Images decoded since the views were opened, but for those of `sums`."""
        return self._decoded

    def status(self) -> dict[str, Any]:
        """What the maker says of itself."""
        return self._maker.status()

    def wait_for_helpers(self, count: int) -> None:
        """Until so many serve. UserError after two minutes."""
        until = time.monotonic() + 120
        while self.status()["service"]["helpers"] < count:
            if time.monotonic() > until:
                raise UserError(f"no {count} helpers in two minutes: {self.status()['service']}")
            time.sleep(0.05)

    def memory(self) -> float:
        """MiB that the kept pictures take in this process; of pages that others have too, its share (PSS)."""
        from augment.backends.decoded_file import ENDING

        lines = Path("/proc/self/smaps").read_text().splitlines()
        total, ours = 0, False
        for line in lines:
            name, *rest = line.split()
            if "-" in name:  # the first line of a mapping: its addresses, and its file at the end
                ours = line.endswith(ENDING)
            elif name == "Pss:" and ours:
                total += int(rest[0]) << 10
        return (total or self._maker.backend._cache.used) / 2**20


class ReadersArm(Arm):
    """An arm whose `work` is done by readers, whose CPU time alone counts: other processes may be there, idle."""

    def __init__(self, name: str, readers: Readers, samples: int, inside: str, *calls: Any) -> None:
        """`calls`: what the readers are told, as `Readers.tell` takes it."""
        super().__init__(name, lambda: readers.tell(*calls), samples, inside)
        self.readers = readers
        self.own: list[float] = []  # CPU seconds without those of the readers' children, one a repeat

    def turn(self) -> None:
        """Does the work once, and takes its times."""
        self.before()
        settle(0.2, idle=0.05, most=20.0)
        own, tree = self.readers.spent()
        began = time.perf_counter()
        self.parts[0]()
        # What is made ahead is part of it; what others do meanwhile is not waited for, nor are Ray's own processes,
        # which are never quite idle.
        idle = settle(0.2, idle=0.05, most=20.0, spent=lambda: self.readers.spent()[1])
        self.wall.append(time.perf_counter() - began - idle)
        now = self.readers.spent()
        self.own.append(now[0] - own)
        self.cpu.append(now[1] - tree)
        self.after()


def in_turns(arms: Sequence[Any], repeats: int, *, warm: bool = True) -> None:
    """Every arm once untimed (`warm`), then `repeats` times in turns, every other time backwards."""
    if warm:
        for arm in arms:
            arm.turn()
            arm.own, arm.cpu, arm.wall = [], [], []
    for repeat in range(repeats):
        for arm in reversed(arms) if repeat % 2 else arms:
            arm.turn()
