"""What would spoil a comparison, found before its first arm has trained for hours."""

from pathlib import Path

from precompute.base.errors import UserError
from precompute.base.options import as_json
from trainer import run
from trainer.config.run import FREE
from trainer.engine.data import Data, open_data
from trainer.engine.setup import rehearse
from trainer.record import checkpoint, metrics
from trainer.record.folder import EVALUATION


def check_arm(runs: list[tuple[list[str], Path]]) -> None:
    """UserError for an arm, its runs' flags and folders, of which one could not be done or would not be comparable."""
    data = _data_of(runs[0][0])
    for command, folder in runs:
        _check(command, folder, data)
    # Those that were begun may do without the file of --init.
    begin = [flags for flags, folder in runs if not checkpoint.any_in(folder) and not (folder / EVALUATION).exists()]
    if begin:
        rehearse(run.config_of(begin[0]), data)


def _data_of(command: list[str]) -> Data:
    """What an arm's runs train on; UserError where they cannot be, for want of a split to compare them on too."""
    wanted = run.config_of(command)
    data = open_data(wanted.dataset, wanted.boxes, wanted.root, lambda line: None)
    if data.held_out(wanted.train_split, wanted.eval_split) is None:
        raise UserError(data.nothing_held_out)
    return data


def _check(command: list[str], folder: Path, data: Data) -> None:
    """UserError where the folder holds a run with other settings, or on other data: no fair comparison."""
    wanted = run.config_of(command)
    begun = checkpoint.any_in(folder) or (folder / EVALUATION).exists()
    if not begun or not (folder / metrics.NAME).exists():
        return
    header = metrics.header(folder / metrics.NAME)
    was, given = header["about"]["data"], data.identity()
    if any(was[key] != given[key] for key in ("digest", "name", "images") if key in was):
        raise UserError(
            f"{folder} was trained on other pictures or boxes ({was['name']}, {was['images']} images) than those now "
            f"given ({given['name']}, {given['images']}): no fair comparison. Give the same, or name another --out"
        )
    saved, now = header["config"], as_json(wanted)
    # Maps and further backgrounds are places, but nothing else here tells which pictures they are.
    for name in now.keys() & saved.keys() - (FREE - {"maps", "backgrounds"}):
        if saved[name] != now[name]:
            flag = "--" + name.replace("_", "-")
            raise UserError(
                f"{folder} was trained with {flag} {saved[name]}, and now it would be {flag} {now[name]}. "
                "Give the same flags, or name another --out"
            )
