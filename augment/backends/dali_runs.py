"""Runs of DALI pipelines begun ahead, and the lifetime of DALI's memory while kernels of torch read it."""

from collections import deque
from collections.abc import Callable
from typing import Any

import torch

LANES = {"cpu": 1, "cuda": 2}  # pipelines that take turns: on a CPU a second one would compete for the same cores


class Lane:
    """A pipeline, its inputs, and its outputs that kernels of torch still read.

    DALI reuses memory as soon as the tensor over it dies, and does not know torch's streams. So the tensors are kept
    until an event behind their last reader has passed, and views are copied out of them. On a CPU nothing has to wait:
    views lie in DALI's memory and die with their last holder.
    """

    def __init__(self, device: torch.device) -> None:
        self.pipe: Any = None
        self.rows = 0  # the most samples of a run
        self.fed: dict[str, Any] = {}
        self._device = device
        self._kept: tuple[Any, torch.cuda.Event] | None = None

    def keep(self, tensors: Any) -> None:
        """Keeps `tensors` until the work that is now in torch's current stream is done."""
        if self._device.type == "cuda":
            event = torch.cuda.Event()
            event.record(torch.cuda.current_stream(self._device))
            self._kept = tensors, event

    def release(self) -> None:
        """Waits for that work; to be called before DALI's next run."""
        if self._kept is not None:
            self._kept[1].synchronize()
            self._kept = None


class Runs:
    """One pipeline, or on CUDA two that take turns: one decodes the next batch while kernels read the other's pictures.

    One pipeline with a queue would not do: waiting for a run's results would wait for the next run too, and memory that
    kernels still read would delay it.
    """

    def __init__(self, device: torch.device, build: Callable[[int], tuple[Any, int]]) -> None:
        """`build(rows)` returns a pipeline of depth 1 for at least that many samples, and its number of samples."""
        self.device, self._build = device, build
        self._free = deque(Lane(device) for _ in range(LANES[device.type]))
        self._begun: deque[tuple[object, Lane]] = deque()
        self.ahead = len(self._free) > 1  # whether beginning a run early is of use

    def begun(self, key: object) -> bool:
        """Whether a run with that key is under way."""
        return any(other is key for other, _ in self._begun)

    def begin(self, key: object, rows: int, fed: dict[str, Any]) -> None:
        """Starts a run of `rows` samples on the inputs `fed`, which are not copied, and returns."""
        if not self._free:  # the oldest run was never finished
            self.finish(self._begun[0][0])
        lane = self._free.popleft()
        self._begun.append((key, lane))
        if lane.pipe is None or rows > lane.rows:
            lane.pipe, lane.rows = self._build(rows)
        lane.release()
        lane.fed = fed
        for name, value in fed.items():
            lane.pipe.feed_input(name, value)
        lane.pipe.schedule_run()

    def finish(self, key: object) -> Any:
        """The outputs of the run with that key, once; on CUDA they are ready in torch's current stream.

        Other runs stay under way; a run that is never finished loses its lane when a new one needs it.
        """
        entry = next(entry for entry in self._begun if entry[0] is key)
        self._begun.remove(entry)
        lane = entry[1]
        self._free.append(lane)
        if self.device.type == "cuda":
            return lane.pipe.outputs(cuda_stream=torch.cuda.current_stream(self.device))
        return lane.pipe.outputs()

    def keep(self, tensors: Any) -> None:
        """Holds the outputs that `finish` gave last until the work that is in torch's current stream now is done."""
        self._free[-1].keep(tensors)

    def drop(self) -> None:
        """Frees the pipelines (after an error they are unusable); runs that were begun are lost."""
        while self._begun:
            self._free.append(self._begun.popleft()[1])
        for lane in self._free:
            lane.pipe, lane.rows = None, 0
            lane.fed = {}  # after the pipeline, which reads it
