"""Checkpoints that are whole or not there, checked when read, with the last good one kept beside the newest.

The file is torch's own (a zip archive), read with `weights_only=True`. Every record in it has a CRC-32, which torch
does not look at when it loads; `load` checks them all first, so a flipped bit is an error and not a slightly
different run.
"""

import os
import shutil
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import torch

from precompute.base.errors import UserError
from precompute.base.files import replacing, sweep
from trainer.record import CHECKPOINT as NAME
from trainer.record import PREVIOUS

SCHEMA = 1
CONTENT = {"config", "settings", "step", "method", "optimizer", "scaler", "loader", "meter", "rng"}  # of a run's


class DamagedCheckpoint(UserError):
    """The file is there and cannot be trusted."""


class Resumed(NamedTuple):
    """A loaded checkpoint: its content, its path, and a sentence if it is not the newest."""

    state: dict[str, Any]
    path: Path
    remark: str | None


def save(folder: Path, state: dict[str, Any], keep: bool = True) -> Path:
    """Writes `state` (tensors, numbers, strings, dicts, lists) as the newest checkpoint; the last stays as PREVIOUS.

    At every instant NAME is absent (before the first), the old or the new file, whole: a SIGKILL does no harm. Without
    `keep` PREVIOUS stays what it is: where NAME is damaged and PREVIOUS the only good one. OSError on a full disk.
    """
    path = folder / NAME
    with replacing(path) as temporary:
        _write({"schema": SCHEMA, **state}, temporary)
        if keep and path.exists():
            _keep(path, folder / PREVIOUS)
    return path


def _write(state: dict[str, Any], path: Path) -> None:
    """torch.save through a file of Python's: of a full disk torch's own writer says neither file nor reason."""
    try:
        with open(path, "wb") as file:
            torch.save(state, file)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from error
        raise


def load(path: Path) -> dict[str, Any]:
    """The checked content of one checkpoint file, tensors on the CPU.

    Raises UserError when there is none, DamagedCheckpoint when it is cut, altered, or no checkpoint of ours.
    """
    if not path.is_file():
        raise UserError(
            f"{path}: no checkpoint there. Without --resume a new run starts, also in the folder of one that was "
            "stopped before its first checkpoint"
        )
    if path.suffix == ".safetensors":
        raise UserError(f"{path}: weights, nothing to resume. A new run starts from them with --init {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
        if bad is not None:
            raise DamagedCheckpoint(f"{path}: damaged (checksum of {bad} is wrong)")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (UserError, PermissionError):
        raise
    except Exception as error:  # zipfile, zlib and torch have a dozen kinds for damaged files
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DamagedCheckpoint(f"{path}: damaged or not a checkpoint ({reason})") from error
    if not isinstance(state, dict) or state.get("schema") != SCHEMA:
        schema = state.get("schema") if isinstance(state, dict) else type(state).__name__
        raise DamagedCheckpoint(f"{path}: not a checkpoint of this program (schema {schema}, expected {SCHEMA})")
    return state


def any_in(folder: Path) -> bool:
    """Whether a run can go on here: the newest checkpoint is there, or the one before it."""
    return (folder / NAME).exists() or (folder / PREVIOUS).exists()


def load_latest(folder: Path) -> Resumed:
    """The newest good checkpoint of a run, with a sentence if the newest one is damaged or gone."""
    sweep(folder / NAME)
    newest, previous = folder / NAME, folder / PREVIOUS
    if previous.exists() and not newest.exists():
        return Resumed(load(previous), previous, f"{newest} is gone; the one before it is used")
    try:
        return Resumed(load(newest), newest, None)
    except DamagedCheckpoint as error:
        if not previous.exists():
            raise
        return Resumed(load(previous), previous, f"{error}; the one before it is good and is used")


def to_resume(path: Path) -> Resumed:
    """The checkpoint to go on from: the file `path`, or the newest good one of that folder.

    UserError where it lacks something that a run needs.
    """
    resumed = load_latest(path) if path.is_dir() else Resumed(load(path), path, None)
    if missing := CONTENT - resumed.state.keys():
        raise UserError(f"{resumed.path} lacks {', '.join(sorted(missing))}: no checkpoint of a run. Take another copy")
    return resumed


def _keep(path: Path, previous: Path) -> None:
    """`path` also under the name `previous`, replaced in one instant; a copy where there are no hard links."""
    with_name = previous.with_name(f".{previous.name}.link")
    with_name.unlink(missing_ok=True)
    try:
        os.link(path, with_name)
    except OSError:
        shutil.copyfile(path, with_name)
    os.replace(with_name, previous)
    with_name.unlink(missing_ok=True)  # two names of one file are not replaced: a run was killed between the two
