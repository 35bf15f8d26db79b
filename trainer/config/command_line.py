"""The command line of `trainer.run`: flags to a configuration, for a new run or a continued one."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from precompute.base.errors import BadValue, UsageError, UserError
from precompute.base.options import Parser, add_options, as_flag, values_of
from precompute.base.ranks import restarts
from trainer.config.presets import PRESETS
from trainer.config.run import FREE, PLACES, RunConfig, changed, refuse_two_sets

if TYPE_CHECKING:
    from trainer.record.checkpoint import Resumed

AUTO = "auto"  # a value of --resume


def parse(argv: list[str] | None, words: str | None = None) -> tuple[dict[str, Any], Collection[str], str | None]:
    """The values of a command line, with those of its preset; the names of those that were given; --resume's value.

    --resume is None where it was not given, and "" without a path.
    """
    parser = Parser("trainer.run", words)
    parser.add_argument("--preset", choices=tuple(PRESETS), default="default", help="other defaults for several flags")
    parser.add_argument(
        "--resume",
        nargs="?",
        const="",
        metavar="PATH",
        help="go on with the run in PATH (a folder or checkpoint; default: --out). auto: with the one of these flags "
        "in --out where there is one, else begin it; so one line serves every start of a cluster's job",
    )
    add_options(parser, RunConfig)
    given = vars(parser.parse_args(argv))
    preset, resume = given.pop("preset"), given.pop("resume")
    refuse_two_sets(given)
    return {**PRESETS[preset], **given}, given.keys(), resume


def after_restart(resume: str | None) -> tuple[str | None, list[str]]:
    """--resume's value for this process, and a note where torchrun has started it again after a failure of any rank.

    It does so by the line of the first start, which must go on with what was trained meanwhile.
    """
    if not (count := restarts()):
        return resume, []
    note = f"torchrun has started this run again (restart {count}): it goes on with what is in --out"
    return AUTO if resume is None else resume, [note]


def config_of(values: Mapping[str, Any]) -> RunConfig:
    """The configuration with these values, by flag name. UsageError for a bad one."""
    try:
        return RunConfig.of(values)
    except BadValue as error:
        raise UsageError(as_flag(error)) from error


def continued(resumed: "Resumed", values: Mapping[str, Any]) -> RunConfig:
    """The configuration of a checkpoint, with the `values` (of all flags, or some) that may differ in a continuation.

    UserError where another value contradicts it, or where its data are no longer in their place.
    """
    path = resumed.path
    try:
        was = values_of(RunConfig.of(resumed.state["config"]))
    except BadValue as error:
        raise UserError(f"{path} was altered: its config has {as_flag(error)}") from error
    config = config_of({**was, "out": str(path.parent), **values})
    for flag, old, new in changed(was, values_of(config), FREE):
        raise UserError(
            f"{flag} {new}: {path} was trained with {flag} {old}, and a continuation must keep it. "
            f"Keep {flag} {old}, or start a new run with another --out"
        )
    for name in PLACES:
        value, flag = was[name], "--" + name
        places = value if isinstance(value, tuple) else (value,)
        gone = [place for place in places if place is not None and not Path(place).exists()]
        if gone and name not in values and (name != "maps" or config.maps_used):
            raise UserError(
                f"{path} was trained with {flag} {gone[0]}, and from {Path.cwd()} there is none. "
                f"Go on from the folder that the run was begun in, or say where it is now with {flag}"
            )
    return config
