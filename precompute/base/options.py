"""A program's settings: frozen dataclasses, the only source of defaults, and their flags on the command line.

A field made by `option` is a flag. A field made by `group` is a dataclass of options itself: its flags stand in a group
of their own in `--help`. Flags are flat (`--size`, not `--views-size`), and so are the values of `values_of`, which
checkpoints and metrics files keep: {"size": 224, ...}, by the flag's name with underscores. Nothing here imports torch,
so `--help` answers at once.
"""

import argparse
import dataclasses
import json
import math
import operator
import os
import sys
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

from precompute.base.errors import BadValue, UsageError

T = TypeVar("T")
_flags: dict[str, str] = {}  # field: flag, where this process's command line names it otherwise (see `as_flag`)


def option(
    default: Any, help: str, *, choices: Iterable[Any] | None = None, flags: tuple[str, ...] = (),
    least: float | None = None, most: float = math.inf, above: float | None = None,
) -> Any:  # fmt: skip
    """A dataclass field that is also a command-line flag. `help` is the flag's line in `--help`.

    `flags`: its names on the command line, with underscores, where they are not the field's; the first one counts.
    `least` and `most`, or `above`: the range of a number, or of each of several. None is always allowed.
    """
    metadata = {"help": help, "choices": None if choices is None else tuple(choices), "flags": flags}
    return dataclasses.field(default=default, metadata=metadata | {"least": least, "most": most, "above": above})


def option_of(config: type, name: str, **changes: Any) -> Any:
    """The option `name` of another dataclass, with other `default`, `help`, ... if given."""
    field = next(f for f in dataclasses.fields(config) if f.name == name)
    return option(**{"default": field.default, **field.metadata, **changes})


def group(config: type, title: str, *, hidden: Iterable[str] = (), **defaults: Any) -> Any:
    """A dataclass field whose value is a dataclass of options itself, `config`, with these `defaults`.

    Fields that are `hidden` have no flag here.
    """
    metadata = {"group": title, "config": config, "hidden": frozenset(hidden), "defaults": defaults}
    return dataclasses.field(default_factory=lambda: config(**defaults), metadata=metadata)


class Flag(NamedTuple):
    """One option of a settings class or of a group in it."""

    names: tuple[str, ...]  # with underscores; the first one is its key among values
    field: dataclasses.Field
    hint: Any  # its type
    default: Any
    path: tuple[str, ...]  # of fields, from the settings to the value
    group: str  # title; "" for the settings' own


def flags_of(config: type) -> Iterator[Flag]:
    """Every option of the dataclass `config`, those of its groups included, in the order of the fields."""
    hints = typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        about = field.metadata
        if "group" in about:
            for flag in flags_of(about["config"]):
                if flag.field.name not in about["hidden"]:
                    default = about["defaults"].get(flag.field.name, flag.default)
                    yield flag._replace(default=default, path=(field.name, *flag.path), group=about["group"])
        elif "help" in about:
            yield Flag(about["flags"] or (field.name,), field, hints[field.name], field.default, (field.name,), "")


def build(config: type[T], values: Mapping[str, Any]) -> T:
    """The dataclass `config` with `values`, by flag name, and defaults for the rest. Values of other names are ignored.

    Raises BadValue for a value of another type than the field's, none of its choices or out of its range, and what the
    dataclasses' own checks raise.
    """
    arguments, hints = {}, typing.get_type_hints(config)
    for field in dataclasses.fields(config):  # type: ignore[arg-type]
        about = field.metadata
        if "group" in about:
            by_flag = {f.field.name: f.names[0] for f in flags_of(about["config"])}
            defaults = {by_flag[name]: value for name, value in about["defaults"].items()}
            shown = {k: v for k, v in values.items() if k not in {by_flag[name] for name in about["hidden"]}}
            arguments[field.name] = build(about["config"], defaults | shown)
        elif "help" in about and (name := (about["flags"] or (field.name,))[0]) in values:
            value = values[name]
            value = tuple(value) if isinstance(value, list) else value
            if not _fits(value, hint := hints[field.name]):
                raise BadValue(field.name, value, f"of type {hint.__name__ if isinstance(hint, type) else hint}")
            several = value if isinstance(value, tuple) else () if value is None else (value,)
            if about["choices"] and not set(several) <= set(about["choices"]):
                raise BadValue(field.name, value, about["choices"])
            _check_range(field, value, several)
            arguments[field.name] = value
    return config(**arguments)


def _check_range(field: dataclasses.Field, value: Any, numbers: Iterable[Any]) -> None:
    """BadValue where one of the `numbers`, which are the field's `value`, is out of its range or not finite."""
    least, most, above = (field.metadata[name] for name in ("least", "most", "above"))
    if above is not None and not all(above < number < math.inf for number in numbers):
        raise BadValue(field.name, value, f"greater than {above}, and finite")
    if least is not None and not all(least <= number <= most and number < math.inf for number in numbers):
        valid = f"at least {least}, and finite" if most == math.inf else f"within {least} and {most}"
        raise BadValue(field.name, value, valid)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value, which may come out of a file, has the type of its field."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return any(_fits(value, kind) for kind in inner)
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(v, inner[0]) for v in value)
    if isinstance(value, bool):  # Python takes it for a number
        return hint in (bool, Any)
    return hint is Any or isinstance(value, int | float if hint is float else hint)


def values_of(config: Any) -> dict[str, Any]:
    """All options of a dataclass by flag name: what `build` makes an equal one of."""
    return {flag.names[0]: operator.attrgetter(".".join(flag.path))(config) for flag in flags_of(type(config))}


class Parser(argparse.ArgumentParser):
    """argparse's, as the programs want it: flags in full only, and an error is one line, without all flags."""

    def __init__(self, module: str, words: str | None, epilog: str | None = None) -> None:
        look = argparse.RawDescriptionHelpFormatter
        super().__init__(f"python -m {module}", None, words, epilog, formatter_class=look, allow_abbrev=False)
        self.module = module

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:  # type: ignore[override] - overloads
        """As argparse's; a `~` that begins a value is the home folder, also in --out=~/x, which no shell expands."""
        return super().parse_known_args([_at_home(a) for a in (sys.argv[1:] if args is None else args)], namespace)

    def error(self, message: str) -> typing.NoReturn:
        """Exit status 2."""
        self.exit(2, f"{self.module}: error: {message} (all flags: {self.prog} --help)\n")


def add_options(parser: argparse.ArgumentParser, config: type) -> None:
    """Adds one flag per option of the dataclass `config`. A flag that is not given leaves no trace in the result.

    bool fields become `--x/--no-x`; `X | None` fields accept the value or are left out; tuples take several values.
    """
    groups: dict[str, Any] = {"": parser}
    for names, field, hint, default, _, title in flags_of(config):
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        _flags[field.name] = names[0]
        kind, several = _value_type(hint)
        choices = field.metadata["choices"]
        shown = "" if default in (None, ()) else f" (default: {_show(default)})"
        kwargs: dict[str, Any] = {"default": argparse.SUPPRESS, "dest": names[0]}
        kwargs["help"] = (field.metadata["help"] + shown).replace("%", "%%")
        if kind is bool:
            kwargs["action"] = argparse.BooleanOptionalAction
        else:
            kwargs |= {"type": kind, "choices": choices, "metavar": None if choices else names[0].upper()}
            kwargs["nargs"] = "+" if several else None
        groups[title].add_argument(*("--" + name.replace("_", "-") for name in names), **kwargs)


def read_options(config: type[T], given: argparse.Namespace | Mapping[str, Any]) -> T:
    """The dataclass `config` of the flags that were given; a value that its checks refuse is a `UsageError`."""
    try:
        return build(config, given if isinstance(given, Mapping) else vars(given))
    except ValueError as error:
        raise UsageError(as_flag(error) if isinstance(error, BadValue) else str(error)) from error


def as_flag(error: BadValue) -> str:
    """The message of a `BadValue` with the flag of this program's command line in place of the field."""
    flag = _flags.get(error.name)
    return str(error) if flag is None else error.described(f"--{flag.replace('_', '-')} {_show(error.value)}")


def whole(name: str, value: Any) -> int:
    """An argument as an int. Raises BadValue where it is not a whole number, or below 0."""
    try:
        number = operator.index(value)
    except TypeError:
        raise BadValue(name, value, "a whole number") from None
    if number < 0:
        raise BadValue(name, value, "at least 0")
    return number


def as_json(config: Any) -> dict[str, Any]:
    """A dataclass as plain JSON values (paths as strings); its options by flag name where it has any."""
    values = values_of(config) or dataclasses.asdict(config)
    return json.loads(json.dumps(values, default=str))


def _at_home(argument: str) -> str:
    flag, equals, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
    return flag + equals + os.path.expanduser(value)


def _value_type(hint: Any) -> tuple[type, bool]:
    """The converter of a field's annotation, and whether it takes several values."""
    origin = typing.get_origin(hint)
    if origin in (types.UnionType, typing.Union):
        return _value_type(next(a for a in typing.get_args(hint) if a is not type(None)))
    if origin is tuple:
        return _value_type(typing.get_args(hint)[0])[0], True
    return hint, False


def _show(value: Any) -> str:
    if isinstance(value, tuple | list):
        return " ".join(map(str, value))
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)
