"""TensorBoard event files beside metrics.jsonl, with the same rows. Needs the extra `tensorboard`."""

import importlib.util
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from precompute.base.errors import UserError

FOLDER = "tensorboard"
_PLACES = ("epoch", "epochs", "step", "steps")  # they say where a row belongs and are not measured


def require() -> None:
    """UserError if TensorBoard is not installed; to be called before a run writes anything."""
    if importlib.util.find_spec("tensorboard") is None:
        raise UserError(
            "--tensorboard: it is not installed. Remedy: pip install 'saliencyswap[tensorboard]', "
            "or leave the flag out: metrics.jsonl has the same figures"
        )


class Board:
    """Writes the journal's step and evaluation rows as scalars over the step: `loss`, ..., `evaluation/...`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / FOLDER
        self._writer: Any = None

    def restart(self, rows: Iterable[dict[str, Any]]) -> None:
        """Writes the event files anew from `rows`.

        A resumed run thus shows no step twice, also if it goes on in another folder or had no event files before, which
        SummaryWriter's `purge_step` cannot do.
        """
        from tensorboard.summary import Writer

        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        self._writer = Writer(str(self.folder))
        for row in rows:
            self.add(row)

    def add(self, row: dict[str, Any]) -> None:
        """Writes the numbers of one row."""
        prefix = "" if row["kind"] == "step" else f"{row['kind']}/"
        for name, value in _numbers({k: v for k, v in row.items() if k not in _PLACES}):
            self._writer.add_scalar(prefix + name, value, row["step"])
        self._writer.flush()

    def close(self) -> None:
        """Ends the event file."""
        if self._writer is not None:
            self._writer.close()


def _numbers(values: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """All numbers in nested dicts, by their path."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from ((f"{name}/{inner}", x) for inner, x in _numbers(value))
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield name, float(value)
