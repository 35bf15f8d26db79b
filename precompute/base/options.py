"""One frozen dataclass per program is the only source of its defaults.

`add_options` turns it into command-line flags, `read_options` turns the parsed flags back into it. Nothing here imports
torch, so `--help` answers at once.
"""

import argparse
import dataclasses
import json
import operator
import types
import typing
from collections.abc import Iterable
from typing import Any, TypeVar

from precompute.base.errors import UsageError, UserError

T = TypeVar("T")


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
