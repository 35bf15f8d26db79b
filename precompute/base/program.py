"""How every program of this project starts and ends, and what signals do.

Exit status: 0 done, 1 failed, 2 usage, 130 interrupted.
"""

import io
import os
import shlex
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from precompute.base.errors import BadValue, UsageError, UserError
from precompute.base.options import as_flag
from precompute.base.ranks import end_with_launcher, this_process

T = TypeVar("T")
_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)  # requests to end; Slurm sends the last two


class Interrupted(KeyboardInterrupt):
    """SIGINT, SIGTERM or SIGUSR1, raised in `main`'s program.

    A subclass, because CPython kills the process with SIGINT when a plain KeyboardInterrupt escapes from `exec`
    (dataclass creation uses it), even if it is caught later.
    """


def command(module: str, *arguments: Any, processes: int = 1) -> str:
    """The command line of a program in one or more `processes`, for a message; arguments are quoted as needed."""
    launcher = "python" if processes == 1 else f"torchrun --standalone --nproc-per-node {processes}"
    return f"{launcher} -m {module} {shlex.join(map(str, arguments))}"


def check_out(out: str | None, flag: str = "--out") -> None:
    """UsageError for a result that could not be written: better before the measurement than after it."""
    if out is None:
        return
    path = Path(out)
    if path.is_dir():
        raise UsageError(f"{flag} {out}: is a folder; name a file in it")
    parent = next((p for p in path.absolute().parents if p.exists()), path)
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise UsageError(f"{flag} {out}: {parent} is no folder that can be written to")


def count(number: int, noun: str) -> str:
    """ "1 epoch", "2 epochs"."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def progress(items: Iterable[T], *, total: int | None = None, what: str = "", unit: str = "it") -> Iterator[T]:
    """Iterates with a progress bar on stderr, if that is a terminal."""
    from tqdm import tqdm

    yield from tqdm(items, total=total, desc=what, unit=unit, dynamic_ncols=True, leave=False, disable=None)


def to_stderr(line: str) -> None:
    """Prints a line on stderr at once."""
    print(line, file=sys.stderr, flush=True)


def main(program: Callable[[list[str] | None], int | None], argv: list[str] | None = None) -> None:
    """Runs `program` and ends the process: no traceback for a user's mistake, quiet on a closed pipe.

    SIGINT, SIGTERM and SIGUSR1 raise `Interrupted` in it, and the status is 130. One that is ignored stays so
    (background jobs). Under torchrun all but SIGINT keep their own meaning: they must end a process that waits in
    native code for a dead rank. There a process also ends soon after its launcher.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # "×" on a terminal of ASCII is no reason to fail
            stream.reconfigure(errors="backslashreplace")
    end_with_launcher()
    came: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        came.append(number)
        # Not within an import, which may lose the exception: weak references' callbacks and C code swallow it (one of
        # a dozen random interrupts of torch's import had no effect). SIGALRM tries again until the import is over.
        if any(f.f_code.co_filename == "<frozen importlib._bootstrap>" for f, _ in traceback.walk_stack(frame)):
            signal.setitimer(signal.ITIMER_REAL, 0.01)
        else:
            raise Interrupted

    numbers = [signal.SIGINT] if this_process().world > 1 else _STOPPING
    heard = [n for n in numbers if signal.getsignal(n) is not signal.SIG_IGN]
    with _handled([signal.SIGALRM, *heard], interrupt):
        try:
            status = program(argv) or 0
            sys.stdout.flush()
        except BaseException as error:
            # Errors after a signal follow from it: `threading` may fail on a lock that was not acquired.
            status = _status(Interrupted() if came else error)
        signal.setitimer(signal.ITIMER_REAL, 0)
    sys.exit(status)


@dataclass
class Stop:
    """Whether a signal asked to stop."""

    is_set: bool = False


@contextmanager
def stop_signal() -> Iterator[Stop]:
    """SIGINT, SIGTERM, SIGUSR1 (Slurm's) and SIGHUP (the launcher is gone) ask the loop to save and end after its step.

    A second one of the same kind ends it at once.
    """
    stop = Stop()
    handlers = {number: signal.getsignal(number) for number in (*_STOPPING, signal.SIGHUP)}
    before = {number: handler for number, handler in handlers.items() if handler is not signal.SIG_IGN}

    def ask(number: int, _: FrameType | None) -> None:
        stop.is_set = True
        signal.signal(number, before[signal.Signals(number)])

    with _handled(before, ask):
        yield stop


@contextmanager
def _handled(numbers: Iterable[int], handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Sets `handler` for these signals within the block."""
    before = [(number, signal.signal(number, handler)) for number in numbers]
    try:
        yield
    finally:
        for number, old in before:
            signal.signal(number, old)


def _status(error: BaseException) -> int:
    """Prints `error` and returns its exit status; re-raises anything that is a bug of ours."""
    if isinstance(error, UserError):
        _fail(as_flag(error) if isinstance(error, BadValue) else error)
        return 2 if isinstance(error, UsageError) else 1
    if isinstance(error, KeyboardInterrupt):
        print("\ninterrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    if isinstance(error, BrokenPipeError):  # `... | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    if isinstance(error, OSError) and (error.filename is not None or error.errno is not None):
        _fail(f"{error.strerror or error}: {error.filename}" if error.filename else str(error))
        return 1
    raise error


def _fail(message: object) -> None:
    name = Path(sys.argv[0])
    program = f"{name.parent.name}.{name.stem}" if name.suffix == ".py" else name.name
    print(f"{program}: error: {message}", file=sys.stderr)
