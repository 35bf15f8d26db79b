"""Means of a step's figures over a log interval, and its speed."""

import time
from typing import Any

import torch
from torch import Tensor

from trainer.parallel import collectives


class Meter:
    """Means over a log interval, summed on the device: reading them is the only sync, once an interval.

    The sums are part of a checkpoint, so the first line after a resume equals that of the unbroken run.
    """

    def __init__(self) -> None:
        self.reset()

    def restart_clock(self) -> None:
        """Time before now is not counted."""
        self.started, self.waited, self.timed = time.perf_counter(), 0.0, 0

    def add(self, terms: dict[str, Tensor], waited: float) -> None:
        """One step's scalars (detached) and the seconds that its batch kept the loop waiting."""
        for name, value in terms.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value.clone()
        self.count += 1
        self.waited += waited
        self.timed += 1

    def share(self) -> None:
        """Replaces the sums of every rank by their mean; all must call it at the same step.

        Only rank 0 writes the checkpoint, so its sums must hold the mean over ranks before they are saved.
        """
        if collectives.world() > 1 and self.sums:
            some = next(iter(self.sums.values()))
            means = collectives.average({name: value.item() for name, value in self.sums.items()}, str(some.device))
            self.sums = {name: torch.tensor(value, dtype=some.dtype).to(some.device) for name, value in means.items()}

    def means(self) -> dict[str, float]:
        """Means since the last `reset`, in float32."""
        return {name: value.item() / self.count for name, value in self.sums.items()}

    def timing(self, images_per_step: int) -> dict[str, float]:
        """Wall-clock figures of the steps timed since `restart_clock`."""
        seconds = max(time.perf_counter() - self.started, 1e-9)
        return {
            "images_per_second": round(self.timed * images_per_step / seconds, 2),
            "step_ms": round(1e3 * seconds / max(self.timed, 1), 2),
            "data_wait": round(self.waited / seconds, 4),
        }

    def reset(self) -> None:
        """A new interval."""
        self.sums: dict[str, Tensor] = {}
        self.count = 0
        self.restart_clock()

    def state_dict(self) -> dict[str, Any]:
        """The sums of the interval so far."""
        return {"sums": {k: v.detach().cpu() for k, v in self.sums.items()}, "count": self.count}

    def load_state_dict(self, state: dict[str, Any], device: str | torch.device = "cpu") -> None:
        """Back to the middle of an interval."""
        self.sums, self.count = {k: v.to(device) for k, v in state["sums"].items()}, state["count"]
