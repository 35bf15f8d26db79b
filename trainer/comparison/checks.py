"""Mistakes that would spoil a comparison, looked for before its first arm trains for hours."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from precompute.base.errors import UserError
from precompute.base.options import values_of
from trainer import record
from trainer.comparison.arms import Arm
from trainer.config.run import FREE, RunConfig, changed
from trainer.engine.data import Data, open_data
from trainer.engine.start import rehearse, unsaid
from trainer.record import checkpoint, metrics
from trainer.record.folder import evaluation_in


class Checked(NamedTuple):
    """What the runs of an arm are evaluated on."""

    held_out: str  # a split's name
    judged: str  # digest of its pictures and classes


def check_arms(arms: Sequence[Arm], seeds: Sequence[int]) -> None:
    """UserError where a run could not be done, or where runs would not be comparable."""
    first, *others = [(arm, check_arm([arm.config(seed) for seed in seeds])) for arm in arms]
    for arm, checked in others:
        if checked.judged != first[1].judged:
            raise UserError(
                f"arm {first[0].name!r} is evaluated on split {first[1].held_out} and arm {arm.name!r} on split "
                f"{checked.held_out} with other pictures or labels: no fair comparison. Give all arms the same "
                "--eval-split, and box files of the same held-out pictures and labels"
            )


def check_arm(runs: list[RunConfig]) -> Checked:
    """What the runs of an arm have in common. UserError where one could not be done, or would not be comparable."""
    wanted = runs[0].data
    data = open_data(wanted.dataset, wanted.boxes, wanted.root, unsaid)
    if (held_out := data.held_out(wanted.train_split, wanted.eval_split)) is None:
        raise UserError(data.nothing_held_out)
    for config in runs:
        if _begun(config):
            _check_begun(config, data)
    # A run that was begun may do without the file of --init.
    if new := [config for config in runs if not _begun(config)]:
        rehearse(new[0], data)
    return Checked(held_out, data.judged(held_out))


def _begun(config: RunConfig) -> bool:
    out = Path(config.run.out)
    return checkpoint.any_in(out) or (out / record.EVALUATION).exists()


def _check_begun(config: RunConfig, data: Data) -> None:
    """UserError where the run in the folder has other settings or other data: no fair comparison."""
    folder = Path(config.run.out)
    header = _header(folder)
    was, given = header["about"].get("data", {}), data.cache
    if other := data.other_than(was):
        raise UserError(
            f"{folder} was trained on other {other} ({was['name']}, {was['images']} images) than those now given "
            f"({given.dataset}, {len(given)}): no fair comparison. Give the same, or name another --out"
        )
    saved, now = values_of(RunConfig.of(header["config"])), values_of(config)
    # Maps and further backgrounds are places, but nothing else here says which pictures they are.
    for flag, old, new in changed(saved, now, FREE - {"maps", "backgrounds"}):
        raise UserError(
            f"{folder} was trained with {flag} {old}, and now it would be {flag} {new}. "
            "Give the same flags, or name another --out"
        )


def _header(folder: Path) -> dict[str, Any]:
    """What the run was, by metrics.jsonl or else by its checkpoint, from which a run can be evaluated again.

    UserError where one of its files is missing or damaged that only a checkpoint could make again.
    """
    path = folder / record.METRICS
    whole = {path: path.exists(), folder / record.EVALUATION: evaluation_in(folder) is not None}
    bad = [str(file) for file, is_whole in whole.items() if not is_whole]
    if bad and not checkpoint.any_in(folder):
        raise UserError(
            f"{', '.join(bad)}: missing or damaged, and there is no checkpoint to make it again. "
            f"Take another copy, or remove {folder}: then the run is trained anew"
        )
    return metrics.header(path) if path.exists() else {**checkpoint.to_resume(folder).state, "about": {}}
