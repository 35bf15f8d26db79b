"""The folder of a run: what lies in it, and whose it is."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from precompute.cli import UserError
from precompute.files import sweep
from trainer import card, checkpoint, export, journal

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None

EVALUATION = "evaluation.json"
FIGURE = "localisation.png"


def make_folder(out: Path, resumed: Path | None, say: Callable[[str], None]) -> Path:
    """The run's folder, without what killed runs left half written. `resumed`: the checkpoint that it goes on from.

    UserError where another run lies in it already. One that was stopped before its first checkpoint makes room.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file; name a folder")
    present = [n for n in (journal.NAME, checkpoint.NAME, checkpoint.PREVIOUS, export.NAME) if (out / n).exists()]
    if present and (resumed is None or resumed.parent.resolve() != out.resolve()):
        if present != [journal.NAME] or any(row["kind"] != "config" for row in journal.read(out / journal.NAME)):
            raise UserError(
                f"--out {out} holds a run already ({', '.join(present)}). Go on with it: --resume {out}; "
                "or name another folder, or remove this one"
            )
        say(f"note: the run in {out} was stopped before its first checkpoint; this one takes its place")
    out.mkdir(parents=True, exist_ok=True)
    for name in (journal.NAME, checkpoint.NAME, export.NAME, EVALUATION, FIGURE, card.NAME):
        sweep(out / name)
    return out


@contextmanager
def alone_in(folder: Path, first: bool) -> Iterator[None]:
    """No other run trains into the folder meanwhile: torchrun's workers, for one, outlive a killed launcher.

    A lock of the first process, which ends with it, however that ends. UserError where another process holds it.
    """
    if fcntl is None or not first:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise UserError(f"--out {folder}: another process is training into it; wait for it or end it") from error
    except OSError:  # some network file systems have no locks
        pass
    try:
        yield
    finally:
        os.close(handle)
