"""Mistakes that would spoil a comparison, looked for before its first arm trains for hours."""

from pathlib import Path

from precompute.base.errors import UserError
from precompute.base.options import values_of
from trainer import record
from trainer.config.run import FREE, RunConfig, changed
from trainer.engine.data import Data, open_data
from trainer.engine.start import rehearse, unsaid
from trainer.record import checkpoint, metrics


def check_arm(runs: list[RunConfig]) -> None:
    """UserError where one of an arm's runs could not be done, or would not be comparable."""
    wanted = runs[0].data
    data = open_data(wanted.dataset, wanted.boxes, wanted.root, unsaid)
    if data.held_out(wanted.train_split, wanted.eval_split) is None:
        raise UserError(data.nothing_held_out)
    for config in runs:
        if _begun(config):
            _check_begun(config, data)
    # A run that was begun may do without the file of --init.
    if new := [config for config in runs if not _begun(config)]:
        rehearse(new[0], data)


def _begun(config: RunConfig) -> bool:
    out = Path(config.run.out)
    return checkpoint.any_in(out) or (out / record.EVALUATION).exists()


def _check_begun(config: RunConfig, data: Data) -> None:
    """UserError where the run in the folder has other settings or other data: no fair comparison."""
    folder = Path(config.run.out)
    if not (folder / record.METRICS).exists():
        return
    header = metrics.header(folder / record.METRICS)
    was, given = header["about"]["data"], data.cache
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
