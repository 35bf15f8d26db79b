"""What a careful colleague would say of a set before anything is trained on it, all of it read from its box file."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from precompute.base.boxfile import BoxCache
from precompute.base.markup import one_line

FEW = 12  # names that are listed in full
CLIPPED = "annotated boxes clipped to their pictures"
OTHER_FRAME = "boxes annotated in pictures of other proportions"
OTHER_MAP = "maps of other proportions than their pictures"
BLACK, PLAIN = "nearly black pictures", "pictures of a single colour"
# Notes of the scan that deserve attention: the least share of the pictures, the consequence, the remedy.
_NOTES = {
    CLIPPED: (0.1, "the boxes may belong to pictures of another size", "Look at a sheet: precompute.inspect --sheet"),
    OTHER_FRAME: (0.0, "these pictures have a detector's box, or none", "Take the pictures that were annotated"),
    OTHER_MAP: (0.0, "these pictures are their own box", "Look whether the maps were made of these pictures"),
    BLACK: (0.0, "views of them show nothing", "Look at the files: a failed export or download makes such"),
    PLAIN: (0.0, "views of them show nothing", "Look at the files: a placeholder or a failed export makes such"),
}


@dataclass(frozen=True)
class Remark:
    """Something to know before training."""

    count: int
    what: str  # is counted
    example: str  # "" where there is none
    consequence: str
    remedy: str

    def __str__(self) -> str:
        example = f" (such as {self.example})" if self.example else ""
        what = self.what
        if self.count == 1 and what.startswith("pictures"):
            what = what.replace("pictures", "picture", 1)
        return one_line(f"{self.count} {what}{example}: {self.consequence}. {self.remedy}", 2000)


def names(all_names: tuple[str, ...]) -> str:
    """The names in words where they are few, else the first ones."""
    return ", ".join(map(one_line, all_names if len(all_names) <= FEW else (*all_names[:3], "...")))


def remarks(cache: BoxCache) -> list[Remark]:
    """Everything remarkable about the pictures, classes, splits and boxes of a box file."""
    return [*_classes(cache), *_equal_pictures(cache), *_noted(cache), *_without_box(cache)]


def _classes(cache: BoxCache) -> Iterator[Remark]:
    """Classes that only one split has."""
    labelled: dict[str, set[int]] = {}
    for i, name in enumerate(cache.split_names):
        if labels := set(cache.labels[(cache.labels >= 0) & (cache.splits == i)].tolist()):
            labelled[name] = labels
    for name, labels in labelled.items():
        others = [other for other in labelled if other != name]
        if others and (alone := sorted(labels - set.union(*(labelled[other] for other in others)))):
            what = f"of {len(labels)} classes of split {name} are in no other split"
            consequence = "no accuracy can be measured on them"
            if len(alone) == len(labels):
                consequence = f"{name} has no class in common with {' and '.join(others)}: accuracies would be 0"
            remedy = "Compare the names of the class folders (or the labels) of the splits"
            yield Remark(len(alone), what, cache.class_names[alone[0]], consequence, remedy)


def _equal_pictures(cache: BoxCache) -> Iterator[Remark]:
    """Files of equal contents: in two splits, in two classes of a split, or twice in a class."""
    _, first, numbers = np.unique(cache.keys, return_index=True, return_inverse=True)
    copies = np.flatnonzero(first[numbers] != np.arange(len(cache)))
    twins = first[numbers[copies]]  # the first picture that each equals
    apart = cache.splits[copies] != cache.splits[twins]
    mixed = ~apart & (cache.labels[copies] != cache.labels[twins])
    for chosen, what, consequence in (
        (apart, "pictures in two splits", "what is held out is trained on (evaluations leave these pictures out)"),
        (mixed, "pictures in two classes", "one of their labels is wrong"),
        (~apart & ~mixed, "pictures with the contents of another of their class", "they count twice"),
    ):
        if chosen.any():
            row, twin = (int(rows[chosen][0]) for rows in (copies, twins))
            example = f"{cache.path(row)} = {cache.path(twin)}"
            yield Remark(int(chosen.sum()), what, example, consequence, "Remove the copies and make the boxes again")


def _noted(cache: BoxCache) -> Iterator[Remark]:
    notes, examples = cache.provenance.get("notes", {}), cache.provenance.get("examples", {})
    for what, (share, consequence, remedy) in _NOTES.items():
        if (count := notes.get(what, 0)) > share * len(cache):
            yield Remark(count, what, examples.get(what, ""), consequence, remedy)


def _without_box(cache: BoxCache) -> Iterator[Remark]:
    """A detector that found nothing in most pictures that it looked at."""
    searched, whole = int((cache.sources != 0).sum()), np.flatnonzero(cache.sources == 1)
    if len(cache.source_names) > 2 and len(whole) > 0.5 * searched:
        what = f"of {searched} pictures in which {cache.source_names[2]} found no box"
        consequence = "the whole picture is their box, so SaliencySwap pastes background as well"
        remedy = "Look at the maps (precompute.inspect --sheet); check --weights, or take another --source"
        yield Remark(len(whole), what, cache.path(int(whole[0])), consequence, remedy)
