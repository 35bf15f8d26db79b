"""The evaluations of a comparison's runs."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from precompute.base.errors import UserError
from trainer import record
from trainer.record.folder import evaluation_in


def read_evaluations(folders: Iterable[Path]) -> dict[Path, dict[str, Any]]:
    """What evaluation.json says, by the run's folder. UserError where one is missing or damaged."""
    found: dict[Path, dict[str, Any]] = {}
    for folder in folders:
        if (document := evaluation_in(folder)) is None:
            raise UserError(
                f"{folder / record.EVALUATION} is missing or damaged. Give the same trainer.compare command again: "
                "where there is a checkpoint, the run is evaluated from it"
            )
        found[folder] = document
    return found
