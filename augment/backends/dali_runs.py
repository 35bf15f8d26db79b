"""Runs of DALI pipelines that are begun ahead, and DALI's memory while kernels of torch still read it."""

from collections import deque
from collections.abc import Callable
from typing import Any

import torch

LANES = {"cpu": 1, "cuda": 2}  # pipelines in turns: on a CPU a second one would only want the same cores


class Held:
    """DALI's memory that kernels of torch still read.

    DALI gives memory to its next run as soon as the tensor over it dies, and knows nothing of torch's streams: so it is
    kept until an event behind the last reader has passed, and no view that is handed out lies in it. On a CPU there is
    nothing to wait for: views are handed out as they are, and die with their last holder.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._kept: tuple[Any, torch.cuda.Event] | None = None

    def keep(self, tensors: Any) -> None:
        """Until the work that is in torch's current stream now is done."""
        if self._device.type == "cuda":
            event = torch.cuda.Event()
            event.record(torch.cuda.current_stream(self._device))
            self._kept = tensors, event

    def release(self) -> None:
        """Waits for that work; to be called before DALI's next run."""
        if self._kept is not None:
            self._kept[1].synchronize()
            self._kept = None


class _Lane:
    """A pipeline with what it was fed and what is still read of its results."""

    def __init__(self, device: torch.device) -> None:
        self.pipe: Any = None
        self.rows = 0  # the most samples that it takes
        self.fed: dict[str, Any] = {}
        self.held = Held(device)


class Runs:
    """One pipeline, or on CUDA two in turns: one decodes the next batch while the other's pictures become views.

    Two pipelines and not one with a queue: so a run's results are waited for without waiting for the next run, and what
    kernels still read of one never holds up the other.
    """

    def __init__(self, device: torch.device, build: Callable[[int], tuple[Any, int]]) -> None:
        """`build(rows)` gives a pipeline of depth 1 for that many samples or more, and how many it takes."""
        self.device, self._build = device, build
        self._free = deque(_Lane(device) for _ in range(LANES[device.type]))
        self._begun: deque[tuple[object, _Lane]] = deque()
        self.ahead = len(self._free) > 1  # whether there is any use in beginning a run before it is needed

    def begun(self, key: object) -> bool:
        """Whether a run of that key is under way."""
        return any(other is key for other, _ in self._begun)

    def begin(self, key: object, rows: int, fed: dict[str, Any]) -> None:
        """Starts a run of `rows` samples on what is fed (nothing is copied) and returns."""
        if not self._free:
            self._forget_first()
        lane = self._free.popleft()
        self._begun.append((key, lane))
        if lane.pipe is None or rows > lane.rows:
            lane.pipe, lane.rows = self._build(rows)
        lane.held.release()
        lane.fed = fed
        for name, value in fed.items():
            lane.pipe.feed_input(name, value)
        lane.pipe.schedule_run()

    def finish(self, key: object) -> Any:
        """The outputs of the run of that key, once; on CUDA they are ready in torch's current stream.

        Other runs stay under way: one that is never asked for gives up its lane when a new one needs it.
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
        self._free[-1].held.keep(tensors)

    def drop(self) -> None:
        """Frees the pipelines; what was begun is lost. After an error a pipeline is of no use any more."""
        while self._begun:
            self._free.append(self._begun.popleft()[1])
        for lane in self._free:
            lane.pipe, lane.rows = None, 0
            lane.fed = {}  # after the pipeline, which reads it

    def _forget_first(self) -> None:
        _, lane = self._begun.popleft()
        self._free.append(lane)
        lane.pipe.outputs()
