"""Everything that moves during a run, in one object: what a checkpoint holds and a resume restores."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from precompute.cli import UserError, as_json
from trainer import checkpoint
from trainer.checkpoint import Resumed
from trainer.config import RunConfig
from trainer.journal import Meter
from trainer.methods import Method
from trainer.settings import Settings

# Settings that a continuation may have otherwise: they do not enter the mathematics.
_FREE = {"log_every", "save_every"}


@dataclass
class TrainingState:
    """Networks, optimizer, gradient scaler, loader position, running means and step of one run."""

    config: RunConfig
    settings: Settings
    method: Method
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    loader: Any
    meter: Meter
    step: int = 0

    def as_dict(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {
            "config": as_json(self.config),
            "settings": as_json(self.settings),
            "step": self.step,
            "method": self.method.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "loader": self.loader.state_dict(),
            "meter": self.meter.state_dict(),
            "rng": torch.get_rng_state(),
        }

    def restore(self, resumed: Resumed) -> None:
        """Back to where the checkpoint was made. UserError where data or hardware no longer give the same settings."""
        saved, now = resumed.state["settings"], as_json(self.settings)
        changed = [f"{k} was {v}, is {now.get(k)}" for k, v in saved.items() if k not in _FREE and v != now.get(k)]
        if changed:
            raise UserError(
                f"{resumed.path} does not fit this continuation: {'; '.join(changed)}. "
                "Resume with the same data and the same kind of device"
            )
        self.method.load_state_dict(resumed.state["method"])
        self.optimizer.load_state_dict(resumed.state["optimizer"])
        self.scaler.load_state_dict(resumed.state["scaler"])
        self.loader.load_state_dict(resumed.state["loader"])
        self.meter.load_state_dict(resumed.state["meter"], next(self.method.parameters()).device)
        torch.set_rng_state(resumed.state["rng"])
        self.step = resumed.state["step"]

    def check_finite(self, terms: dict[str, float], out: Path, weights: bool = False) -> None:
        """UserError naming the last good checkpoint where a loss (or a weight, if asked) is not finite."""
        losses = {k: v for k, v in terms.items() if k in ("loss", "contrastive", "alignment")}
        bad = {k: v for k, v in losses.items() if not abs(v) < float("inf")}
        if not bad and weights:
            norms = torch.stack(torch._foreach_norm(list(self.method.online.parameters())))
            bad = {} if bool(norms.isfinite().all()) else {"weights": float("nan")}
        if bad:
            what = ", ".join(f"{k} {v}" for k, v in bad.items())
            good = checkpoint.load(out / checkpoint.NAME)["step"]
            raise UserError(
                f"training diverged before step {self.step} ({what}) and is stopped. Last good checkpoint: "
                f"{out / checkpoint.NAME} (step {good}). "
                "Try a lower --base-lr or --align-weight, --loss stable, or --amp off"
            )


class Saver:
    """Decides when a checkpoint is due, and writes it (in the first process only)."""

    def __init__(self, folder: Path, every: int | None, first: bool) -> None:
        self.folder, self.every, self.first = folder, every, first
        self.last, self.cost = time.monotonic(), 0.0

    def due(self, step: int) -> bool:
        """Every `every` steps; else by the clock: each minute, and at most a fiftieth of the time spent writing."""
        if self.every is not None:
            return step % self.every == 0
        return time.monotonic() - self.last > max(60.0, 50 * self.cost)

    def save(self, state: TrainingState) -> None:
        """Writes the checkpoint."""
        started = time.monotonic()
        if self.first:
            checkpoint.save(self.folder, state.as_dict())
        self.last = time.monotonic()
        self.cost = self.last - started


@dataclass
class Stop:
    """Whether a signal asked to stop."""

    is_set: bool = False


@contextmanager
def stop_signal() -> Iterator[Stop]:
    """SIGTERM and SIGINT ask the loop to save and end after its step; a second one ends it at once."""
    stop = Stop()
    before: dict[int, Any] = {int(n): signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}

    def ask(number: int, _: object) -> None:
        stop.is_set = True
        signal.signal(number, before[number])

    for number in before:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
