"""Checkpoints that are whole or not there, checked when read, with the last good one kept beside the newest.

The file is torch's own (a zip archive), read with `weights_only=True`. Every record in it has a CRC-32, which torch
does not look at when it loads; `load` checks them all first, so a flipped bit is an error and not a slightly
different run.
"""

import os
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from precompute.base.errors import UserError
from precompute.base.files import replacing, sweep

NAME = "checkpoint.pt"
PREVIOUS = "checkpoint.previous.pt"
SCHEMA = 1


class DamagedCheckpoint(UserError):
    """The file is there and cannot be trusted."""


@dataclass(frozen=True)
class Resumed:
    """A loaded checkpoint: its content, where it came from, and a sentence if it is not the newest."""

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
        found = state.get("schema") if isinstance(state, dict) else type(state).__name__
        raise DamagedCheckpoint(f"{path}: not a checkpoint of this program (schema {found}, expected {SCHEMA})")
    return state


def any_in(folder: Path) -> bool:
    """Whether a run can go on here: the newest checkpoint is there, or the one before it."""
    return (folder / NAME).exists() or (folder / PREVIOUS).exists()


def load_latest(folder: Path) -> tuple[dict[str, Any], Path, str | None]:
    """The newest good checkpoint of a run: its content, its path, and a sentence if the newest is damaged or gone."""
    sweep(folder / NAME)
    newest, previous = folder / NAME, folder / PREVIOUS
    if previous.exists() and not newest.exists():
        return load(previous), previous, f"{newest} is gone; the one before it is used"
    try:
        return load(newest), newest, None
    except DamagedCheckpoint as error:
        if not previous.exists():
            raise
        return load(previous), previous, f"{error}; the one before it is good and is used"


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
