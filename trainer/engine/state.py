"""Everything that moves during a run, in one object: what a checkpoint holds and a resume restores."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from precompute.base.errors import UserError
from precompute.base.options import as_json
from trainer.config.choices import Settings
from trainer.config.run import RunConfig
from trainer.methods.base import Method
from trainer.parallel import collectives
from trainer.record import checkpoint
from trainer.record.checkpoint import Resumed
from trainer.record.metrics import Meter

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
        state, now = resumed.state, as_json(self.settings)
        changed = [
            f"{k} was {v}, is {now.get(k)}" for k, v in state["settings"].items() if k not in _FREE and v != now.get(k)
        ]
        if not changed and state["step"] not in range(self.settings.steps + 1):
            changed = [f"step is {state['step']} of {self.settings.steps}"]
        if changed:
            raise UserError(
                f"{resumed.path} does not fit this continuation: {'; '.join(changed)}. "
                "Resume with the same data and the same kind of device"
            )
        try:
            self.method.load_state_dict(state["method"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.scaler.load_state_dict(state["scaler"])
            self.loader.load_state_dict(state["loader"])
            self.meter.load_state_dict(state["meter"], next(self.method.parameters()).device)
            torch.set_rng_state(state["rng"])
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise UserError(
                f"{resumed.path} cannot be taken up ({reason}): it was altered, or written by another version"
            ) from error
        self.step = state["step"]

    def check_finite(self, terms: dict[str, float], out: Path, weights: bool = False) -> None:
        """UserError naming the last good checkpoint where a loss (or a weight, if asked) is not finite."""
        losses = {k: v for k, v in terms.items() if k in ("loss", "contrastive", "alignment")}
        bad = {k: v for k, v in losses.items() if not abs(v) < float("inf")}
        if not bad and weights:
            tensors = [t for t in self.method.online.state_dict().values() if t.is_floating_point()]
            norms = torch.stack(torch._foreach_norm(tensors))
            bad = {} if bool(norms.isfinite().all()) else {"weights": float("nan")}
        if bad:
            what = ", ".join(f"{k} {v}" for k, v in bad.items())
            good, path, _ = checkpoint.load_latest(out)
            raise UserError(
                f"training diverged before step {self.step} ({what}) and is stopped. Last good checkpoint: "
                f"{path} (step {good['step']}). "
                "A continuation keeps its settings, so it would diverge again. Begin anew with a lower --base-lr or "
                "--align-weight, --loss stable or --amp off, from the weights so far if you like: "
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
                checkpoint.save(self.folder, state.as_dict(), keep)
            except OSError as error:
                raise self._unwritten(state.step, error) from error
            self.saved = state.step
        self.last = time.monotonic()
        self.cost = self.last - started

    def _unwritten(self, step: int, error: OSError) -> UserError:
        good = "There is none before it"
        if self.saved is not None:
            good = f"Last good checkpoint: step {self.saved}. Then: {collectives.resuming(self.folder)}"
        return UserError(
            f"{error.filename}: the checkpoint of step {step} was not written ({error.strerror}). Make room. {good}"
        )
