"""The folder of a run: one run's files, and one process that trains into it."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from precompute.base.errors import BadValue, UserError
from precompute.base.files import lock, sweep
from trainer import record
from trainer.record import metrics


@contextmanager
def run_folder(out: Path, resumed: Path | None, first: bool, say: Callable[[str], None]) -> Iterator[None]:
    """Makes the run's folder `out` and locks it for the block, on rank 0 (`first`); does nothing on other ranks.

    Leftovers of killed runs are removed. A block that fails before it wrote anything leaves no folder behind.
    The lock ends with the process, however it ends. `resumed`: the checkpoint that the run goes on from. UserError
    where another run lies in the folder, or trains into it. A run without a checkpoint yet makes room.
    """
    if not first:
        yield
        return
    _make_room(out, resumed, say)
    missing = [folder for folder in (out, *out.parents) if not folder.exists()]
    out.mkdir(parents=True, exist_ok=True)
    for name in record.WRITTEN:
        sweep(out / name)
    handle = os.open(out, os.O_RDONLY)
    try:
        if not lock(handle):  # workers of torchrun outlive a launcher that was killed, for one
            raise UserError(f"--out {out}: another process is training into it; wait for it or end it")
        yield
    except BaseException:
        with suppress(OSError):  # not empty: then it stays
            for folder in missing:
                folder.rmdir()
        raise
    finally:
        os.close(handle)


def evaluation_in(folder: Path) -> dict[str, Any] | None:
    """What evaluation.json says of the run; None where it is missing or damaged."""
    try:
        found = json.loads((folder / record.EVALUATION).read_text())
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _make_room(out: Path, resumed: Path | None, say: Callable[[str], None]) -> None:
    if out.exists() and not out.is_dir():
        raise BadValue("out", str(out), "a folder, and this is a file")
    names = (record.METRICS, record.CHECKPOINT, record.PREVIOUS, record.ENCODER)
    present = [name for name in names if (out / name).exists()]
    if present and (resumed is None or resumed.parent.resolve() != out.resolve()):
        rows = metrics.read(out / record.METRICS) if present == [record.METRICS] else []
        if present != [record.METRICS] or any(row["kind"] != "config" for row in rows):
            raise UserError(
                f"--out {out} holds a run already ({', '.join(present)}). Go on with it: --resume {out}; "
                "or name another folder, or remove this one"
            )
        say(f"note: the run in {out} was stopped before its first checkpoint; this one takes its place")
