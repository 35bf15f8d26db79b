"""Any tree of pictures: class folders, split folders with class folders below, or one flat folder. No boxes.

    root/classA/*.jpg                      one split, "train"
    root/train/classA/*.jpg, root/test/…   splits by name (train, val, test and their usual spellings)
    root/*.jpg                             no labels

The class is the first folder below the root or split; deeper folders belong to it. Folders that every picture is in
(root/images/train/classA/*.jpg) are passed over where splits or classes lie below them. Beside split folders other
folders hold pictures without a label, which belong to the split "train".
"""

from collections import Counter
from pathlib import Path

from precompute.base.errors import UserError
from precompute.datasets.labels import read_labels
from precompute.datasets.listing import Listing
from precompute.datasets.rows import SPELLINGS, Dataset, Row, listing_of, split_of, walk_pictures


def read(dataset: Dataset, root: Path) -> Listing:
    """The tree below `root`. Raises UserError where it is no folder or holds no picture."""
    if not root.is_dir():
        problem = "it is a file" if root.exists() else "there is no such folder"
        raise UserError(f"{root}: {problem}.\nExpected below it:{dataset.tree}")
    notes: Counter[str] = Counter()
    rows = list(walk_pictures(root, notes))
    if not any(not row.fault for row in rows):
        there = ", ".join(f"{count} {what}" for what, count in notes.items()) or "nothing at all"
        raise UserError(
            f"{root}: no pictures (by their names' endings) anywhere below it, but {there}.\nExpected:{dataset.tree}"
        )
    rows = _labelled(rows, notes)
    used = {row.split for row in rows}
    return listing_of(dataset, root, rows, splits=tuple(s for s in SPELLINGS if s in used), notes=notes)


def read_labelled(root: Path, file: Path) -> Listing:
    """The pictures below `root` with the labels, and perhaps the splits, of a CSV file (`labels.read_labels`)."""
    notes: Counter[str] = Counter()
    known = read_labels(file)
    rows, used = [], set()
    for row in walk_pictures(root, notes):
        names = (row.path, row.path.rpartition("/")[2])
        key = next((key for name in names for key in (name, name.rpartition(".")[0]) if key in known), None)
        if key is None:
            notes[f"pictures without a line in {file.name}: unlabelled, in train"] += 1
            rows.append(row._replace(label=None))
        else:
            used.add(key)
            label, split = known[key]
            rows.append(row._replace(label=label, split=split))
    if not used:
        first = next(iter(known), "it has no lines")
        raise UserError(f"--labels {file}: none of its {len(known)} paths ({first}, ...) is a picture below {root}")
    if absent := len(known) - len(used):
        notes[f"lines of {file.name} whose picture is not there"] = absent
    splits = {row.split for row in rows}
    return listing_of(DATASET, root, rows, splits=tuple(s for s in SPELLINGS if s in splits), notes=notes)


def _labelled(rows: list[Row], notes: Counter[str]) -> list[Row]:
    """The rows with the splits and labels that their folders say."""
    folders = [row.path.split("/")[:-1] for row in rows]
    passed = _passed_over(folders)
    if passed:
        notes[f"pictures below {'/'.join(folders[0][:passed])}/, where splits and classes were looked for"] = len(rows)
    folders = [parts[passed:] for parts in folders]
    by_split = _split_folders(folders)
    out = []
    for row, parts in zip(rows, folders, strict=True):
        if not by_split:
            out.append(row._replace(label=parts[0] if parts else None))
        elif parts and parts[0] in by_split:
            out.append(row._replace(split=split_of(parts[0]), label=parts[1] if len(parts) > 1 else None))
        else:
            out.append(row._replace(split="train", label=None))
            where = f"in {parts[0]}/" if parts else "without a folder"
            notes[f"pictures {where}, beside the splits {' and '.join(sorted(by_split))}: unlabelled, in train"] += 1
    return out


def _split_folders(folders: list[list[str]]) -> set[str]:
    """The first folders that are splits; none where they are classes.

    Where every first folder has a split's name, all are. Beside others (loose pictures, unlabelled ones) those are that
    have class folders below them, since a class may be called "train" too.
    """
    named = {parts[0]: split_of(parts[0]) for parts in folders if parts and split_of(parts[0])}
    nested = {parts[0] for parts in folders if len(parts) > 1 and parts[0] in named}
    exact = {name for name in named if any(name.lower() in spellings for spellings in SPELLINGS.values())}
    if all(parts and parts[0] in named for parts in folders):
        return set(named) if exact or nested or len(set(named.values())) > 1 else set()
    return nested if nested & exact or len({named[name] for name in nested}) > 1 else set()


def _passed_over(folders: list[list[str]]) -> int:
    """How many folders from the root on all pictures have in common, above splits or several classes."""
    count = 0
    while all(len(parts) > count + 1 and parts[count] == folders[0][count] for parts in folders):
        if split_of(folders[0][count]):
            return count
        count += 1
    below = {parts[count] if len(parts) > count else "" for parts in folders}
    return count if count and (len(below) > 1 or split_of(next(iter(below)))) else 0


_TREE = """
  CLASS/*.jpg, or train/CLASS/*.jpg and test/CLASS/*.jpg, or pictures without any folder"""
DATASET = Dataset("folder", "folder of pictures", read, _TREE)
