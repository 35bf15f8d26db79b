"""How every program of this project starts, ends and hears signals.

Exit status: 0 done, 1 failed, 2 usage, 130 interrupted.
"""

import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from precompute.base.errors import BadValue, UsageError, UserError
from precompute.base.options import as_flag

T = TypeVar("T")


class Interrupted(KeyboardInterrupt):
    """A Ctrl-C that `main` heard.

    A class of its own: where KeyboardInterrupt itself passes through an `exec` (every dataclass that is being imported
    has one), CPython ends the process by SIGINT whatever is done about it afterwards.
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
    """Iterates with a progress bar on stderr, or quietly when stderr is not a terminal."""
    if not sys.stderr.isatty():
        yield from items
        return
    from tqdm import tqdm

    yield from tqdm(items, total=total, desc=what, unit=unit, dynamic_ncols=True, leave=False)


def main(program: Callable[[list[str] | None], int | None], argv: list[str] | None = None) -> None:
    """Runs `program` and ends the process: no traceback for a user's mistake, 130 on Ctrl-C, quiet on a closed pipe."""
    heard = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # not where it is ignored, as by nohup
    status, failed = 0, None
    with raised([signal.SIGINT] if heard else []) as came:
        try:
            status = program(argv) or 0
            sys.stdout.flush()
        except BaseException as error:
            # What follows a Ctrl-C is the Ctrl-C: within `threading` it may come out as a lock that was not acquired.
            failed = Interrupted() if came else error
    sys.exit(status if failed is None else _status(failed))


@contextmanager
def raised(numbers: Iterable[int]) -> Iterator[list[int]]:
    """In the block `Interrupted` is raised where a signal of `numbers` comes in; yields the list of those that came.

    Where Python would print what was raised and go on (in a finalizer, in a weak reference's callback), it is raised
    again a moment later, until something hears it. Main thread only.
    """
    came: list[int] = []

    def end(number: int, _: object) -> None:
        came.append(number)
        raise Interrupted

    def unheard(told: Any) -> None:
        if not issubclass(told.exc_type, Interrupted):
            hook_before(told)
        else:
            signal.signal(signal.SIGALRM, end)
            signal.setitimer(signal.ITIMER_REAL, 0.01)

    before = {number: signal.getsignal(number) for number in (*numbers, signal.SIGALRM)}
    hook_before, sys.unraisablehook = sys.unraisablehook, unheard
    for number in numbers:
        signal.signal(number, end)
    try:
        yield came
    finally:
        if signal.getsignal(signal.SIGALRM) is end:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
        sys.unraisablehook = hook_before


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

    with _handled(before, ask):
        yield stop


@contextmanager
def ending() -> Iterator[None]:
    """SIGTERM ends the program as Ctrl-C does: KeyboardInterrupt comes out of the block, files half written are gone.

    Under torchrun SIGTERM keeps its own meaning: it must end a process that waits in native code for one that died.
    """
    numbers = [signal.SIGINT] if int(os.environ.get("WORLD_SIZE", 1)) > 1 else [signal.SIGTERM, signal.SIGINT]
    with raised(numbers) as came:
        try:
            yield
        except BaseException as error:
            if came:  # whatever follows it: within `threading` it may come out as a lock that was not acquired
                raise Interrupted from error
            raise


@contextmanager
def held_back() -> Iterator[None]:
    """SIGTERM and SIGINT wait for the end of the block: of heavy imports, where C code swallows what a handler raises.

    (NumPy, asked for by torch, is then there by half: "module 'numpy' has no attribute 'matrix'".)
    """
    came: list[int] = []
    before: dict[int, Any] = {int(n): signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
    with _handled(before, lambda number, _: came.append(number)):
        yield
    if came:
        signal.raise_signal(came[0])


@contextmanager
def _handled(before: dict[int, Any], handler: Any) -> Iterator[None]:
    """`handler` in place of those in `before`, by signal number, for the length of the block."""
    for number in before:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def _status(error: BaseException) -> int:
    """The exit status for `error`, which is told; one that is nobody's mistake but ours is raised again."""
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
