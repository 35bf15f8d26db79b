"""Trains an encoder: box file and images to encoder.safetensors, metrics.jsonl and figures.

python -m trainer.run                                   # the demo set, a few minutes on a laptop's CPU
python -m trainer.run --boxes cache/cub.h5 --root data/CUB_200_2011 --epochs 400 --out runs/cub
python -m trainer.run --resume runs/cub                 # goes on where it was stopped or killed
"""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from precompute.cli import UserError, add_options, main, read_options
from trainer.config import PRESETS, RunConfig
from trainer.settings import let_idle_threads_sleep

# What may differ between a run and its continuation: it does not enter the mathematics.
FREE = {"out", "boxes", "root", "device", "workers", "log_every", "save_every", "evaluate"}
_UNSET = object()


def program(argv: list[str] | None = None) -> int:
    """Parses the command line, then trains. Exit status 0 done, 1 failed, 2 usage, 130 stopped and saved."""
    let_idle_threads_sleep()
    given, preset, resume = _parse(argv)
    if resume is None:
        config = _config({**PRESETS[preset], **given})
        from trainer.train import train

        return train(config)
    from trainer import checkpoint

    path = Path(resume or given.get("out") or PRESETS[preset].get("out") or RunConfig.out)
    state, path, remark = checkpoint.load_latest(path) if path.is_dir() else (checkpoint.load(path), path, None)
    config = _continued(state["config"], {**PRESETS[preset], **given}, path)
    from trainer.train import train

    return train(config, checkpoint.Resumed(state, path, remark))


def _parse(argv: list[str] | None) -> tuple[dict[str, Any], str, str | None]:
    """The flags that were really given, the preset, and --resume's value ("" without one, None without the flag)."""
    parser = argparse.ArgumentParser(
        prog="python -m trainer.run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", choices=tuple(PRESETS), default="default", help="other defaults for several flags")
    parser.add_argument(
        "--resume",
        nargs="?",
        const="",
        metavar="PATH",
        help="go on with the run in PATH (a folder or checkpoint; default: --out)",
    )
    add_options(parser, RunConfig)
    parser.set_defaults(**{f.name: _UNSET for f in dataclasses.fields(RunConfig)})
    parsed = vars(parser.parse_args(argv))
    preset, resume = parsed.pop("preset"), parsed.pop("resume")
    return {k: v for k, v in parsed.items() if v is not _UNSET}, preset, resume


def _config(values: dict[str, Any]) -> RunConfig:
    """The config with these values, checked; a bad one is a usage error."""
    defaults = {f.name: f.default for f in dataclasses.fields(RunConfig)}
    return read_options(RunConfig, argparse.Namespace(**{**defaults, **values}))


def _continued(saved: dict[str, Any], given: dict[str, Any], path: Path) -> RunConfig:
    """The saved config, with the free flags that were given; UserError where another flag contradicts it."""
    known = {f.name for f in dataclasses.fields(RunConfig)}
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in saved.items() if k in known}
    for name, value in given.items():
        value = tuple(value) if isinstance(value, list) else value
        if name not in FREE and name in values and values[name] != value:
            flag = "--" + name.replace("_", "-")
            raise UserError(
                f"{flag} {value}: {path} was trained with {flag} {values[name]}, and a continuation must keep it. "
                "Leave the flag out, or start a new run with another --out"
            )
        values[name] = value
    if "out" not in given:
        values["out"] = str(path.parent)
    return _config(values)


if __name__ == "__main__":
    main(program)
