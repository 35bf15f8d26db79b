"""Mistakes that would spoil a comparison, looked for before its first arm trains for hours."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from precompute.base.errors import UserError
from precompute.base.options import as_json, values_of
from trainer import record
from trainer.comparison.arms import Arm
from trainer.config.run import FREE, RunConfig, changed
from trainer.engine.data import Data, open_data
from trainer.engine.start import rehearse, unsaid
from trainer.record import checkpoint, metrics
from trainer.record.folder import evaluation_in

# Settings that all arms must have alike, and the flags that set them.
_SET_BY = {
    "batch_size": {"batch_size"},
    "steps": {"batch_size", "epochs", "train_split", "boxes", "dataset"},
    "amp": {"amp"},
}


class Checked(NamedTuple):
    """What the runs of an arm have in common."""

    held_out: str  # the split that they are evaluated on
    judged: str  # digest of its pictures and classes
    folder: Path  # of the first whose settings are known
    settings: dict[str, Any]  # which it chose, as `metrics.jsonl` has them


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
    for name, by in _SET_BY.items():  # where a flag of the arm's own sets it, it is what is compared
        usual = [checked for arm, checked in (first, *others) if not by.intersection(arm.own)]
        for checked in usual[1:]:
            _hold(usual[0].folder, usual[0].settings, checked.folder, checked.settings, (name,))


def check_arm(runs: list[RunConfig]) -> Checked:
    """What the runs of an arm have in common. UserError where one could not be done, or would not be comparable."""
    wanted = runs[0].data
    data = open_data(wanted.dataset, wanted.boxes, wanted.root, unsaid)
    if (held_out := data.held_out(wanted.train_split, wanted.eval_split)) is None:
        raise UserError(data.nothing_held_out)
    chosen = {Path(config.run.out): _check_begun(config, data) for config in runs if _begun(config)}
    # A run that was begun may do without the file of --init.
    if new := [config for config in runs if not _begun(config)]:
        chosen[Path(new[0].run.out)] = as_json(rehearse(new[0], data))
    folder, settings = next(iter(chosen.items()))
    for other, now in chosen.items():
        _hold(folder, settings, other, now, [name for name in settings if name not in FREE])
    return Checked(held_out, data.judged(held_out), folder, settings)


def _hold(folder: Path, was: dict[str, Any], other: Path, now: dict[str, Any], names: Iterable[str]) -> None:
    """UserError where two runs chose other settings of these `names`. Older runs may lack some."""
    both = [name for name in names if name in was and name in now]
    if differing := [f"{name} {was[name]} and {now[name]}" for name in both if was[name] != now[name]]:
        raise UserError(
            f"{folder} and {other} have other settings: {'; '.join(differing)}: no fair comparison. Where no flag sets "
            "them, a run chooses them by its device. Train all on the same kind of device, or name another --out and "
            "give them to all runs after -- (such as --batch-size, --amp, --base-lr)"
        )


def _begun(config: RunConfig) -> bool:
    out = Path(config.run.out)
    return checkpoint.any_in(out) or (out / record.EVALUATION).exists()


def _check_begun(config: RunConfig, data: Data) -> dict[str, Any]:
    """The settings of the run in the folder. UserError where it has other flags or data: no fair comparison."""
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
    return header["settings"]


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
