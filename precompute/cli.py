"""How every program of this project starts, talks and ends.

One frozen dataclass per program is the only source of its defaults: `add_options` turns it into command-line flags,
`read_options` turns the parsed flags back into it. Nothing here imports torch, so `--help` answers at once.

Exit status: 0 done, 1 failed, 2 usage, 130 interrupted.
"""

import argparse
import dataclasses
import json
import operator
import os
import shlex
import signal
import sys
import types
import typing
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


class UserError(Exception):
    """Something the user can mend: bad input, a missing file, an impossible combination.

    The message names the value or file, the valid ones and the remedy; `main` prints it without a traceback, exit 1.
    """


class UsageError(UserError):
    """A value on the command line that no run could accept; printed like `UserError`, but with exit status 2."""


class Interrupted(KeyboardInterrupt):
    """A Ctrl-C that `main` heard.

    A class of its own: where KeyboardInterrupt itself passes through an `exec` (every dataclass that is being imported
    has one), CPython ends the process by SIGINT whatever is done about it afterwards.
    """


def command(module: str, *arguments: Any) -> str:
    """A command line of one of the programs, for a message: its arguments quoted where the shell wants it."""
    return f"python -m {module} {shlex.join(map(str, arguments))}"


def option(default: Any, help: str, *, choices: Iterable[Any] | None = None) -> Any:
    """A dataclass field that is also a command-line flag. `help` is the flag's line in `--help`."""
    metadata = {"help": help, "choices": None if choices is None else tuple(choices)}
    if isinstance(default, list | dict | set):
        raise TypeError("mutable default")
    return dataclasses.field(default=default, metadata=metadata)


class Parser(argparse.ArgumentParser):
    """argparse's, as the programs want it: flags in full only, and a mistake told in one line, without all flags."""

    def __init__(self, module: str, words: str | None, epilog: str | None = None) -> None:
        super().__init__(
            prog=f"python -m {module}",
            description=words,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.module = module

    def error(self, message: str) -> typing.NoReturn:
        """Exit status 2."""
        self.exit(2, f"{self.module}: error: {message} (all flags: {self.prog} --help)\n")


def add_options(parser: argparse.ArgumentParser, config: type) -> None:
    """Adds one flag per field of the dataclass `config` that was made with `option`.

    bool fields become `--x/--no-x`; `X | None` fields accept the value or are left out; tuples take several values.
    """
    hints = typing.get_type_hints(config)
    for f in dataclasses.fields(config):
        if "help" not in f.metadata:
            continue
        kind, many = _value_type(hints[f.name])
        shown = "" if f.default in (None, ()) else f" (default: {_show(f.default)})"
        kwargs: dict[str, Any] = {"default": f.default, "help": (f.metadata["help"] + shown).replace("%", "%%")}
        if kind is bool:
            kwargs["action"] = argparse.BooleanOptionalAction
        else:
            kwargs["type"] = kind
            kwargs["metavar"] = None if f.metadata["choices"] else f.name.upper()
            if f.metadata["choices"]:
                kwargs["choices"] = f.metadata["choices"]
            if many:
                kwargs["nargs"] = "+"
        parser.add_argument("--" + f.name.replace("_", "-"), **kwargs)


def read_options(config: type[T], parsed: argparse.Namespace) -> T:
    """The dataclass `config` filled from a parsed command line; a ValueError from its checks is a `UsageError`."""
    values = {}
    for f in dataclasses.fields(config):  # type: ignore[arg-type]
        if "help" in f.metadata:
            value = getattr(parsed, f.name)
            values[f.name] = tuple(value) if isinstance(value, list) else value
    try:
        return config(**values)
    except ValueError as error:
        raise UsageError(str(error)) from error


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


def whole(name: str, value: Any) -> int:
    """An argument as the int that it stands for; UserError names one that is not a whole number, or below 0."""
    try:
        number = operator.index(value)
    except TypeError:
        raise UserError(f"{name}={value!r}: must be a whole number") from None
    if number < 0:
        raise UserError(f"{name}={value}: must be at least 0")
    return number


def as_json(config: Any) -> dict[str, Any]:
    """A dataclass as plain JSON values (paths as strings), for checkpoints, metrics files and HDF5 attributes."""
    return json.loads(json.dumps(dataclasses.asdict(config), default=str))


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


def _status(error: BaseException) -> int:
    """The exit status for `error`, which is told; one that is nobody's mistake but ours is raised again."""
    if isinstance(error, UserError):
        _fail(error)
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


def _value_type(hint: Any) -> tuple[type, bool]:
    """The converter of a field's annotation, and whether it takes several values."""
    origin = typing.get_origin(hint)
    if origin in (types.UnionType, typing.Union):
        return _value_type(next(a for a in typing.get_args(hint) if a is not type(None)))
    if origin is tuple:
        return typing.get_args(hint)[0], True
    return hint, False


def _show(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)
