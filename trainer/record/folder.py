"""The folder of a run: what lies in it, and whose it is."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from precompute.base.errors import UserError
from precompute.base.files import sweep
from trainer.model import export
from trainer.record import checkpoint, metrics, model_card

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None

EVALUATION = "evaluation.json"
FIGURE = "localisation.png"


@contextmanager
def run_folder(out: Path, resumed: Path | None, first: bool, say: Callable[[str], None]) -> Iterator[None]:
    """The run's folder `out`, made where it is missing, for the first process alone; nothing for the others.

    What killed runs left half written is gone. A block that fails before it wrote anything leaves no folder behind.
    `resumed`: the checkpoint that the run goes on from. UserError where another run lies in the folder, or trains into
    it; one that was stopped before its first checkpoint makes room.
    """
    if not first:
        yield
        return
    _make_room(out, resumed, say)
    missing = [folder for folder in (out, *out.parents) if not folder.exists()]
    out.mkdir(parents=True, exist_ok=True)
    for name in (metrics.NAME, checkpoint.NAME, export.NAME, EVALUATION, FIGURE, model_card.NAME):
        sweep(out / name)
    try:
        with _alone_in(out):
            yield
    except BaseException:
        with suppress(OSError):  # not empty: then it stays
            for folder in missing:
                folder.rmdir()
        raise


def _make_room(out: Path, resumed: Path | None, say: Callable[[str], None]) -> None:
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file; name a folder")
    present = [n for n in (metrics.NAME, checkpoint.NAME, checkpoint.PREVIOUS, export.NAME) if (out / n).exists()]
    if present and (resumed is None or resumed.parent.resolve() != out.resolve()):
        if present != [metrics.NAME] or any(row["kind"] != "config" for row in metrics.read(out / metrics.NAME)):
            raise UserError(
                f"--out {out} holds a run already ({', '.join(present)}). Go on with it: --resume {out}; "
                "or name another folder, or remove this one"
            )
        say(f"note: the run in {out} was stopped before its first checkpoint; this one takes its place")


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """No other run trains into the folder meanwhile: torchrun's workers, for one, outlive a killed launcher.

    A lock, which ends with its process, however that ends. UserError where another process holds it.
    """
    if fcntl is None:
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
