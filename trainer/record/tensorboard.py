"""TensorBoard event files beside metrics.jsonl: the same rows, for those who watch runs there. An optional extra."""

import importlib.util
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from precompute.base.errors import UserError

FOLDER = "tensorboard"
_PLACES = ("epoch", "epochs", "step", "steps")  # where a row is, not what was measured


def require() -> None:
    """Raises UserError where TensorBoard is not installed: before anything is written, not at the first line."""
    if importlib.util.find_spec("tensorboard") is None:
        raise UserError(
            "--tensorboard: it is not installed. Remedy: pip install 'saliencyswap[tensorboard]', "
            "or leave the flag out: metrics.jsonl has the same figures"
        )


class Board:
    """Writes the journal's rows as scalars: `loss`, `alignment`, ..., and `evaluation/...`, over the step."""

    def __init__(self, folder: Path) -> None:
        require()
        self.folder = folder / FOLDER
        self._writer: Any = None

    def restart(self, rows: Iterable[dict[str, Any]]) -> None:
        """Written anew from `rows`, so that a resumed run shows no step twice."""
        from tensorboard.summary import Writer

        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        self._writer = Writer(str(self.folder))
        for row in rows:
            self.add(row)

    def add(self, row: dict[str, Any]) -> None:
        """The figures of one row; the config, which has none, is left out."""
        if self._writer is None or row["kind"] == "config":
            return
        prefix = "" if row["kind"] == "step" else f"{row['kind']}/"
        for name, value in _figures({k: v for k, v in row.items() if k not in _PLACES}):
            self._writer.add_scalar(prefix + name, value, row["step"])
        self._writer.flush()

    def close(self) -> None:
        """Ends the event file."""
        if self._writer is not None:
            self._writer.close()
        self._writer = None


def _figures(values: dict[str, Any]) -> Iterable[tuple[str, float]]:
    """All numbers in nested dicts, by their path."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from ((f"{name}/{inner}", x) for inner, x in _figures(value))
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield name, float(value)
