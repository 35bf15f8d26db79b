"""metrics.jsonl: one JSON object a line, first the run's config; a resumed run neither repeats nor loses a step."""

import json
import math
import os
from pathlib import Path
from typing import Any

from precompute.base.errors import UserError
from precompute.base.files import replacing
from trainer.record import METRICS as NAME
from trainer.record.tensorboard import Board

# The keys that a line of each kind must have. A line that lacks one, or is of another kind, is damaged.
_NEEDED = {"config": {"config", "settings", "about"}, "step": {"step"}, "evaluation": {"step"}}
_NONE = {"a line of no known kind"}
# Of a loader's report, by who shares in the making of its batches: what a step's row has of them, where they do.
SHARERS = {
    "service": ("helpers", "in_flight", "made_there", "made_here", "late", "lost"),
    "ring": ("members", "shared_made", "shared_taken", "made_alone"),
}


class Journal:
    """Appends lines to metrics.jsonl. A line is one `write`: a killed run leaves at most one broken line, the last."""

    def __init__(self, folder: Path, board: Board | None = None) -> None:
        self.path, self.board = folder / NAME, board

    def begin(self, header: dict[str, Any]) -> None:
        """A new file with `header` as its first line."""
        with replacing(self.path) as temporary:
            temporary.write_text(_line({"kind": "config", **header}))
        if self.board:
            self.board.restart([])

    def rewind(self, step: int, header: dict[str, Any], origin: Path) -> dict[str, Any]:
        """Drops what lies after `step` (it will be done again), broken lines, and evaluations; returns the first line.

        The lines are those of its `origin`, also where it goes on in another folder; `header` where there are none.
        """
        source = origin / NAME
        rows = read(source) if source.exists() else []
        kept = [row for row in rows if row["kind"] == "step" and row["step"] <= step]
        first = next((row for row in rows if row["kind"] == "config"), {"kind": "config", **header})
        with replacing(self.path) as temporary:
            temporary.write_text("".join(map(_line, [first, *kept])))
        if self.board:
            self.board.restart(kept)
        return first

    def add(self, kind: str, **values: Any) -> None:
        """One more line. OSError that names the file where the disk is full."""
        try:
            with open(self.path, "a") as file:
                file.write(_line({"kind": kind, **values}))
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error
        if self.board:
            self.board.add({"kind": kind, **values})

    def close(self) -> None:
        """Ends the event file, if there is one."""
        if self.board:
            self.board.close()

    def sync(self) -> None:
        """Makes all lines so far survive a power cut: to be called before a checkpoint is made durable."""
        with open(self.path, "rb+") as file:
            os.fsync(file.fileno())


def read(path: Path) -> list[dict[str, Any]]:
    """All whole lines of a metrics file; what is damaged is left out, as the last line of a killed run."""
    rows = []
    for line in path.read_text(errors="replace").splitlines():
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError):
            continue
        if isinstance(row, dict) and _NEEDED.get(str(row.get("kind")), _NONE) <= row.keys():
            rows.append(row)
    return rows


def header(path: Path) -> dict[str, Any]:
    """The first line: what a run was. UserError where it is damaged."""
    first = next((row for row in read(path) if row["kind"] == "config"), None)
    if first is None:
        raise UserError(f"{path}: the run's first line is damaged, which says what the run was. Take another copy")
    return first


def _line(row: dict[str, Any]) -> str:
    return json.dumps(finite(row), allow_nan=False) + "\n"


def finite(value: Any) -> Any:
    """JSON values, nested or not, with null for numbers that are not finite (an AUC without background, say)."""
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def log_line(row: dict[str, Any]) -> str:
    """A step's row for a person: losses, rate, speed, and the share of time spent waiting for data."""
    losses = "  ".join(
        f"{name} {row[name]:.4f}" for name in ("loss", "contrastive", "alignment", "dense") if name in row
    )
    line = (
        f"epoch {row['epoch']}/{row['epochs']} step {row['step']}/{row['steps']}  {losses}  lr {row['lr']:.3g}  "
        f"{row['images_per_second']:.1f} images/s  step {row['step_ms']:.0f} ms  data wait {row['data_wait']:.1%}"
    )
    # Where the device's peak is not known there is no MFU.
    line += f"  MFU {row['mfu']:.1%}" if "mfu" in row else f"  {row['gflops']:.0f} GFLOP/s"
    if "helpers" in row:
        line += (
            f"  helpers {row['helpers']}: {row['made_there']} batches, {row['made_here']} made here "
            f"({row['in_flight']} in flight, {row['late']} late, {row['lost']} lost)"
        )
    if "shared_made" in row:
        line += (
            f"  {row['members']} trainings share: {row['shared_made']} batches made, {row['shared_taken']} taken, "
            f"{row['made_alone']} made alone"
        )
    if "memory_gib" in row:
        line += f"  peak memory {row['memory_gib']:.1f} GiB"
    return line
