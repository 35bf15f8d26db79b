"""Trains an encoder: box file and images to encoder.safetensors, metrics.jsonl and figures.

python -m trainer.run --preset demo                     # the demo set, two minutes on two CPU cores
python -m trainer.run --boxes cache/cub.h5 --root data/CUB_200_2011 --epochs 400 --out runs/cub
python -m trainer.run --resume runs/cub                 # goes on where it was stopped or killed
"""

import dataclasses
import types
import typing
from pathlib import Path
from typing import Any

from precompute.base.errors import UsageError, UserError
from precompute.base.options import Parser, add_options, read_options
from precompute.base.program import main
from trainer.config.choices import let_idle_threads_sleep
from trainer.config.idle import idle_flags
from trainer.config.run import FREE, PLACES, PRESETS, RunConfig

CONTENT = {"config", "settings", "step", "method", "optimizer", "scaler", "loader", "meter", "rng"}  # of a checkpoint


def program(argv: list[str] | None = None) -> int:
    """Parses the command line, then trains. Exit status 0 done, 1 failed, 2 usage, 130 stopped and saved."""
    let_idle_threads_sleep()
    given, preset, resume = _parse(argv)
    named, given = given.keys(), {**PRESETS[preset], **given}
    config = _config(given) if resume is None else None  # a bad value answers before torch is imported
    from trainer.record import checkpoint
    from trainer.train import train

    if config is not None:
        return train(config, notes=idle_flags(config, named))
    path = Path(resume or given.get("out") or RunConfig.out)
    state, path, remark = checkpoint.load_latest(path) if path.is_dir() else (checkpoint.load(path), path, None)
    return train(_continued(state, given, path), checkpoint.Resumed(state, path, remark))


def _parse(argv: list[str] | None) -> tuple[dict[str, Any], str, str | None]:
    """The flags that were really given, the preset, and --resume's value ("" without one, None without the flag)."""
    parser = Parser("trainer.run", __doc__)
    parser.add_argument("--preset", choices=tuple(PRESETS), default="default", help="other defaults for several flags")
    parser.add_argument(
        "--resume",
        nargs="?",
        const="",
        metavar="PATH",
        help="go on with the run in PATH (a folder or checkpoint; default: --out)",
    )
    add_options(parser, RunConfig)

    parsed = vars(parser.parse_args(argv))
    preset, resume = parsed.pop("preset"), parsed.pop("resume")
    given = parsed
    if "dataset" in given and "boxes" in given:
        raise UsageError("--dataset and --boxes each name the data: give one of them")
    return given, preset, resume


def _config(values: dict[str, Any]) -> RunConfig:
    """The config with these values, checked; a bad one is a usage error."""
    return read_options(RunConfig, values)


def config_of(argv: list[str]) -> RunConfig:
    """What a command line without --resume asks for."""
    given, preset, _ = _parse(argv)
    return _config({**PRESETS[preset], **given})


def _continued(state: dict[str, Any], given: dict[str, Any], path: Path) -> RunConfig:
    """The saved config, with the free flags that were given; UserError where another flag contradicts it."""
    if missing := CONTENT - state.keys():
        raise UserError(f"{path} lacks {', '.join(sorted(missing))}: no checkpoint of a run. Take another copy")
    values = _saved(state["config"], path)
    for name, value in given.items():
        value = tuple(value) if isinstance(value, list) else value
        if name not in FREE and name in values and values[name] != value:
            flag = "--" + name.replace("_", "-")
            raise UserError(
                f"{flag} {value}: {path} was trained with {flag} {values[name]}, and a continuation must keep it. "
                "Leave the flag out, or start a new run with another --out"
            )
        values[name] = value
    for name in PLACES:
        if name == "maps" and values.get("policy") != "copy-paste":
            continue  # trainer.compare hands them to all arms
        places = values.get(name)
        places = places if isinstance(places, tuple) else (places,)
        gone = [place for place in places if place is not None and not Path(place).exists()]
        if gone and name not in given:
            raise UserError(
                f"{path} was trained with --{name} {gone[0]}, and from {Path.cwd()} there is none. "
                f"Go on from the folder that the run was begun in, or say where it is now with --{name}"
            )
    if "out" not in given:
        values["out"] = str(path.parent)
    return _config(values)


def _saved(config: dict[str, Any], path: Path) -> dict[str, Any]:
    """The fields of a checkpoint's config, checked as flags are; UserError names the one that was altered."""
    hints = typing.get_type_hints(RunConfig)
    values = {}
    for field in dataclasses.fields(RunConfig):
        if field.name not in config:  # the checkpoint is older than the option
            continue
        value = config[field.name]
        value = tuple(value) if isinstance(value, list) else value
        choices = field.metadata["choices"]
        if not _fits(value, hints[field.name]) or (choices and value is not None and value not in choices):
            valid = ", ".join(map(str, choices)) if choices else _named(hints[field.name])
            raise UserError(f"{path} was altered: its config has {field.name} {value!r}; valid: {valid}")
        values[field.name] = value
    try:
        RunConfig(**values)
    except ValueError as error:
        raise UserError(f"{path} was altered: its config has {error}") from error
    return values


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value out of a file has the type of its field."""
    if isinstance(hint, types.UnionType):
        return any(_fits(value, kind) for kind in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(_fits(v, typing.get_args(hint)[0]) for v in value)
    return type(value) is hint or (hint is float and type(value) is int)


def _named(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint)


if __name__ == "__main__":
    main(program)
