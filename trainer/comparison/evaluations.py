"""The evaluations of a comparison's runs."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from precompute.base.errors import UserError
from precompute.base.markup import one_line
from precompute.base.program import count
from trainer import record
from trainer.record.folder import evaluation_in


def read_evaluations(folders: Iterable[Path]) -> dict[Path, dict[str, Any]]:
    """What evaluation.json says, by the run's folder.

    UserError where one is missing or damaged, or tells of another split or number of pictures than the first.
    """
    found: dict[Path, dict[str, Any]] = {}
    for folder in folders:
        if (document := evaluation_in(folder)) is None:
            raise UserError(
                f"{folder / record.EVALUATION} is missing or damaged. Give the same trainer.compare command again: "
                "where there is a checkpoint, the run is evaluated from it"
            )
        found[folder] = document
    _check_pictures(found)
    return found


def _check_pictures(found: dict[Path, dict[str, Any]]) -> None:
    """Older runs do not tell the split. Among runs that left out other files than each other, numbers may differ."""
    first: dict[Any, tuple[Path, str]] = {}
    for folder, document in found.items():
        told: dict[Any, str] = {}
        if split := document.get("eval_split"):
            told["split"] = f"split {split}"
        if isinstance(knn := document.get("knn"), dict) and "images" in knn:
            told[frozenset(_left_out(document))] = f"{knn['images']} pictures"
        for about, now in told.items():
            other, was = first.setdefault(about, (folder, now))
            if was != now:
                raise UserError(
                    f"{other} was evaluated on {was} and {folder} on {now}: no fair comparison. Remove "
                    f"{record.EVALUATION} of the wrong one and give the command again: where there is a checkpoint, "
                    "the run is evaluated from it; else name another --out"
                )


def _left_out(document: dict[str, Any]) -> set[str]:
    """The pictures that an evaluation left out: files that went bad, or are in training too."""
    return set(document.get("left_out") or ())


def left_out_by_some(found: dict[Path, dict[str, Any]]) -> dict[str, list[str]]:
    """By the name of the run's folder, the pictures that it left out and not all runs did."""
    left = {folder.name: _left_out(document) for folder, document in found.items()}
    by_all = set.intersection(*left.values())
    return {name: sorted(paths - by_all) for name, paths in left.items() if paths - by_all}


def left_out_note(by_some: dict[str, list[str]]) -> str:
    """A sentence about `left_out_by_some`."""
    name, paths = next(iter(by_some.items()))
    return (
        f"note: {count(len(by_some), 'run')} left out pictures that others were evaluated on, such as "
        f"{one_line(paths[0])} ({name}); compare.json has all. To pair equal pictures, mend the files, remove "
        f"{record.EVALUATION} of these runs and give the command again"
    )
