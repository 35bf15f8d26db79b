"""The arms of a comparison: a method, a policy, perhaps a control, and flags of the arm's own."""

import re
import shlex
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from augment.views.policy import NAMES as POLICIES
from precompute.base.errors import BadValue, UsageError
from trainer.config.command_line import config_of, parse
from trainer.config.run import CONTROLS, RunConfig
from trainer.methods.registry import METHODS

# What compare sets for every run itself.
TAKEN = {"--out", "--seed", "--method", "--policy", "--control", "--resume", "--evaluate", "--no-evaluate"}


@dataclass(frozen=True)
class Arm:
    """One arm of a comparison below the folder `out`."""

    name: str  # as it was given
    values: dict[str, Any]  # of its runs, by flag name
    given: Collection[str]  # the names of those that were given
    own: Collection[str]  # the names of those that are its own
    out: Path

    def values_of(self, seed: int) -> dict[str, Any]:
        """The values of one run, by flag name."""
        return {**self.values, "seed": seed, "out": str(folder_of(self.name, seed, self.out))}

    def config(self, seed: int) -> RunConfig:
        """The configuration of one run. UsageError for values that no run could have."""
        try:
            return config_of(self.values_of(seed))
        except UsageError as error:
            raise UsageError(
                f"arm {self.name!r}: {error}. Flags of an arm alone stand within its quotes: '{self.name} --FLAG VALUE'"
            ) from error


def arm_of(name: str, flags: list[str], out: Path) -> Arm:
    """The arm called `name`, whose own flags win over the `flags` of all arms."""
    parts, own = split_arm(name)
    method, policy, control = (*parts, "none")[:3]
    values, given, _ = parse([*flags, *own])
    # Also runs that were trained without are evaluated: what is compared comes from the evaluation.
    fixed = {"method": method, "policy": policy, "control": control, "evaluate": True}
    return Arm(name, {**values, **fixed}, tuple(given), tuple(parse(own)[0]), out)


def split_arm(name: str) -> tuple[list[str], list[str]]:
    """METHOD, POLICY and perhaps CONTROL; the flags that follow them. BadValue for what is no arm."""
    try:
        words, *own = shlex.split(name) or [""]
    except ValueError as error:
        raise BadValue("arms", name, "quoted as in a shell", str(error)) from error
    refuse_taken(own, f"--arms {name!r}")
    parts = words.split(":")
    valid = (METHODS, POLICIES, CONTROLS)[: len(parts)]
    if len(parts) not in (2, 3) or any(part not in names for part, names in zip(parts, valid, strict=True)):
        choices = "; ".join(", ".join(names) for names in (METHODS, POLICIES, CONTROLS[1:]))
        raise BadValue("arms", name, f"METHOD:POLICY[:CONTROL] with {choices}")
    return parts, own


def refuse_taken(flags: list[str], where: str) -> None:
    """UsageError for flags that compare sets for every run itself."""
    if taken := TAKEN & {flag.split("=")[0] for flag in flags}:
        raise UsageError(f"{', '.join(sorted(taken))} {where}: compare sets that for every run itself")


def folder_of(name: str, seed: int, out: Path) -> Path:
    """The folder of one run of the arm called `name`."""
    return out / f"{re.sub(r'[^A-Za-z0-9_.]+', '-', name).strip('-')}-seed{seed}"
