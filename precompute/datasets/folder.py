"""Any tree of pictures: class folders, split folders with class folders below, or one flat folder. No boxes.

    root/classA/*.jpg                      one split, "train"
    root/train/classA/*.jpg, root/test/…   splits by name (train, val, test and their usual spellings)
    root/classA/train/*.jpg, …             splits within the classes
    root/train/images/*.jpg, root/*.jpg    no labels
    root.zip, root.tar                     the same folders within an archive
    root/train-0000.tar, root/val-0000.tar shards, with folders within or with a WebDataset's labels (KEY.cls, KEY.json)

The class is the first folder below the root or split; deeper folders belong to it. Folders that every picture is in
(root/images/train/classA/*.jpg) are passed over where splits or classes lie below them. Beside split folders other
folders hold pictures without a label, which belong to the split "train".
"""

import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

from precompute.base.errors import UserError
from precompute.datasets.archives import find_pictures, folders_of
from precompute.datasets.labels import read_labels
from precompute.datasets.listing import Listing
from precompute.datasets.rows import SPELLINGS, Dataset, Row, listing_of, split_of


def read(dataset: Dataset, root: Path) -> Listing:
    """The tree below `root`, or within it. Raises UserError where it does not exist or holds no picture."""
    if not root.exists():
        raise UserError(f"{root}: there is no such folder or archive.\nExpected below it:{dataset.tree}")
    notes: Counter[str] = Counter()
    rows = find_pictures(root, notes)
    good, bad = [row for row in rows if not row.fault], [row for row in rows if row.fault]
    if not good:
        there = [f"{count} {what}" for what, count in notes.items()] + [f"{row.path} ({row.fault})" for row in bad[:5]]
        raise UserError(
            f"{root}: no pictures (by their names' endings) anywhere below it, but "
            f"{', '.join(there) or 'nothing at all'}.\nExpected:{dataset.tree}"
        )
    labels, classes = {row.label for row in good} - {None}, None
    unlabelled = "pictures without a class in their shard" if labels else ""
    if labels and all(label.isdecimal() for label in labels):  # a WebDataset's class numbers, in their own order
        classes = {label: label for label in sorted(labels, key=lambda label: (len(label), label))}
    rows = [*_labelled(good, notes), *bad]
    used = {row.split for row in rows if not row.fault}
    splits = tuple(s for s in SPELLINGS if s in used)
    return listing_of(dataset, root, rows, splits=splits, classes=classes, notes=notes, unlabelled=unlabelled)


def read_labelled(root: Path, file: Path) -> Listing:
    """The pictures below `root` with the labels, and perhaps the splits, of a CSV file (`labels.read_labels`).

    A line labels the picture whose path it names, with or without its ending; else the one whose path ends with it, or
    that it ends with. UserError where a line may be two pictures, or two lines disagree on one.
    """
    notes: Counter[str] = Counter()
    known, pictures = read_labels(file), find_pictures(root, notes)
    whole: dict[str, list[int]] = defaultdict(list)  # pictures by their paths, with and without an ending
    ends: dict[str, list[int]] = defaultdict(list)  # those whose path ends with a path of the file
    for i, row in enumerate(pictures):
        for path in {row.path, os.path.splitext(row.path)[0]}:
            whole[path].append(i)
            for end in filter(known.__contains__, _ends(path)):
                ends[end].append(i)
    rows, used, matched = [row._replace(label=None) for row in pictures], {}, 0
    for key, value in known.items():
        # A picture's very path, else the end of one, else a path that one is the end of: a folder both name must agree.
        found = whole.get(key) or ends.get(key) or next((whole[end] for end in _ends(key) if end in whole), [])
        if len(found) > 1:
            both = " or ".join(pictures[i].path for i in found[:2])
            raise UserError(f"--labels {file}: {key} may be {both}: name more of its path")
        for i in found:
            if known[other := used.setdefault(i, key)] != value:
                raise UserError(
                    f"--labels {file}: {other} and {key} are both {pictures[i].path}, but differ: remove one"
                )
            rows[i] = pictures[i]._replace(label=value[0], split=value[1])
            matched += 1
    if not used:
        first = next(iter(known), "it has no lines")
        raise UserError(f"--labels {file}: none of its {len(known)} paths ({first}, ...) is a picture below {root}")
    if bare := sum(row.label is None for row in rows):
        notes[f"pictures without a label in {file.name}: in train where it says no split"] = bare
    if absent := len(known) - matched:
        notes[f"lines of {file.name} whose picture is not there"] = absent
    splits = {row.split for row in rows}
    names = (*(s for s in SPELLINGS if s in splits), *sorted(splits - SPELLINGS.keys()))
    if len(names) > 255:
        raise UserError(f"--labels {file}: {len(names)} splits; a split is a part of the set, such as train or test")
    return listing_of(DATASET, root, rows, splits=names, notes=notes)


def _ends(path: str) -> Iterator[str]:
    """The path without its first folder, without its first two, and so on."""
    while "/" in path:
        path = path.partition("/")[2]
        yield path


def _labelled(rows: list[Row], notes: Counter[str]) -> list[Row]:
    """The rows with the splits and labels that their folders say."""
    folders = [folders_of(row) for row in rows]
    own = any(row.label is not None for row in rows)  # the labels of a WebDataset
    passed = _passed_over(folders)
    if passed:
        notes[f"pictures below {'/'.join(folders[0][:passed])}/, where splits and classes were looked for"] = len(rows)
    folders = [parts[passed:] for parts in folders]
    by_split = _split_folders(folders)
    if not by_split and _splits_of_classes(folders):
        folders = [[parts[1], parts[0], *parts[2:]] for parts in folders]
        by_split = _split_folders(folders)
    # One folder of this name in every split holds the pictures, and is no class.
    below = {parts[1] for parts in folders if len(parts) > 1 and parts[0] in by_split}
    below = below if below & {"images", "image", "imgs", "img", "JPEGImages"} else set()
    out = []
    for row, parts in zip(rows, folders, strict=True):
        if not by_split:
            out.append(row if own else row._replace(label=parts[0] if parts else None))
        elif parts and parts[0] in by_split:
            label = parts[1] if len(parts) > 1 and below != {*parts[1:2]} else None
            out.append(row._replace(split=split_of(parts[0]), label=row.label if own else label))
        else:
            out.append(row._replace(split="train"))
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


def _splits_of_classes(folders: list[list[str]]) -> bool:
    """Whether every picture is in CLASS/SPLIT/, with several splits."""
    if not all(len(parts) > 1 for parts in folders):
        return False
    second = {parts[1] for parts in folders}
    return len(second) > 1 and all(any(name.lower() in names for names in SPELLINGS.values()) for name in second)


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
  CLASS/*.jpg, or train/CLASS/*.jpg and test/CLASS/*.jpg, or pictures without any folder;
  the same within a .tar or .zip file, or a folder of such files (train-0000.tar, val.zip)"""
DATASET = Dataset("folder", "folder of pictures", read, _TREE)
