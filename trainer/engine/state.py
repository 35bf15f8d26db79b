"""Everything that changes during a run, in one object: the content of a checkpoint."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from precompute.base.errors import UserError
from precompute.base.options import as_json
from trainer.config.choices import Settings
from trainer.config.run import FREE, RunConfig
from trainer.engine.meter import Meter
from trainer.methods.base import Method
from trainer.parallel import collectives
from trainer.record import checkpoint
from trainer.record.checkpoint import Resumed

_PARTS = ("method", "optimizer", "scaler", "loader", "meter")  # of a TrainingState, which have states of their own


@dataclass
class TrainingState:
    """Networks, optimizer, gradient scaler, loader position, running means and step of one run.

    A `torch.distributed.checkpoint.stateful.Stateful`. `grids`: cells along a side, by the stages that need masks.
    """

    config: RunConfig
    settings: Settings
    method: Method
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    loader: Any
    meter: Meter
    grids: dict[int, int]
    step: int = 0

    def state_dict(self) -> dict[str, Any]:
        """The content of a checkpoint."""
        return {
            "config": as_json(self.config),
            "settings": as_json(self.settings),
            "step": self.step,
            **{name: getattr(self, name).state_dict() for name in _PARTS},
            "rng": torch.get_rng_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up the state; config and settings stay."""
        for name in _PARTS:
            getattr(self, name).load_state_dict(state[name])
        torch.set_rng_state(state["rng"])
        self.step = state["step"]

    def restore(self, resumed: Resumed) -> None:
        """Takes up a checkpoint. UserError where data or hardware no longer give the same settings."""
        state, now = resumed.state, as_json(self.settings)
        was = {k: v for k, v in state["settings"].items() if k not in FREE and v != now.get(k)}
        changed = [f"{k} was {v}, is {now.get(k)}" for k, v in was.items()]
        if not changed and state["step"] not in range(self.settings.steps + 1):
            changed = [f"step is {state['step']} of {self.settings.steps}"]
        if changed:
            raise UserError(
                f"{resumed.path} does not fit this continuation: {'; '.join(changed)}. "
                "Resume with the same data and the same kind of device"
            )
        try:
            self.load_state_dict(state)
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise UserError(
                f"{resumed.path} cannot be taken up ({reason}): it was altered, or written by another version"
            ) from error

    def check_finite(self, terms: dict[str, float], out: Path, weights: bool = False) -> None:
        """UserError naming the last good checkpoint where a loss (or a weight, if asked) is not finite."""
        losses = {k: v for k, v in terms.items() if k in ("loss", "contrastive", "alignment", "dense")}
        bad = {k: v for k, v in losses.items() if not abs(v) < float("inf")}
        if not bad and weights:
            tensors = [t for t in self.method.online.state_dict().values() if t.is_floating_point()]
            norms = torch.stack(torch._foreach_norm(tensors))
            bad = {} if bool(norms.isfinite().all()) else {"weights": float("nan")}
        if bad:
            what = ", ".join(f"{k} {v}" for k, v in bad.items())
            good, path, _ = checkpoint.load_latest(out)
            matching = "a higher --dense-temperature, " if self.config.model.record.matches else ""
            raise UserError(
                f"training diverged before step {self.step} ({what}) and is stopped. Last good checkpoint: "
                f"{path} (step {good['step']}). "
                "A continuation keeps its settings, so it would diverge again. Begin anew with a lower --base-lr or "
                f"--align-weight, {matching}--loss stable or --amp off, from the weights so far if you like: "
                f"--init {path} --out NEW"
            )


class Saver:
    """Decides when a checkpoint is due, and writes it (in the first process only)."""

    def __init__(self, folder: Path, every: int | None, first: bool) -> None:
        self.folder, self.every, self.first = folder, every, first
        self.last, self.cost = time.monotonic(), 0.0
        self.saved: int | None = None  # step of the newest good checkpoint

    def due(self, step: int) -> bool:
        """Every `every` steps, if that is given."""
        return self.every is not None and step % self.every == 0

    def late(self) -> bool:
        """Otherwise by the clock: each minute, and at most a fiftieth of the time spent writing."""
        return self.every is None and time.monotonic() - self.last > max(60.0, 50 * self.cost)

    def save(self, state: TrainingState, keep: bool = True) -> None:
        """Writes the checkpoint; `keep` see `checkpoint.save`. UserError where it cannot be written (a full disk)."""
        started = time.monotonic()
        if self.first:
            try:
                checkpoint.save(self.folder, state.state_dict(), keep)
            except OSError as error:
                good = "There is none before it"
                if self.saved is not None:
                    good = f"Last good checkpoint: step {self.saved}. Then: {collectives.resuming(self.folder)}"
                raise UserError(
                    f"{error.filename}: the checkpoint of step {state.step} was not written ({error.strerror}). "
                    f"Make room. {good}"
                ) from error
            self.saved = state.step
        self.last = time.monotonic()
        self.cost = self.last - started
