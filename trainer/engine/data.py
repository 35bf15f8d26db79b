"""Which images a run trains on: a box file and its folder, named or the demo set."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from precompute.base.boxfile import BoxCache
from precompute.base.errors import BadValue, UserError
from precompute.base.program import command

# What the keys of an identity tell.
_TOLD = {"pictures or boxes": ("digest", "name", "images"), "splits or labels": ("sorting",)}


@dataclass(frozen=True)
class Data:
    """An opened box file, and the folder that its paths are relative to."""

    cache: BoxCache
    boxes: Path
    root: Path

    def split(self, name: str, field: str = "split") -> str | None:
        """A split's name as the loader takes it ("all" is None). BadValue about `field` names the splits there are."""
        if name == "all":
            return None
        try:
            self.cache.indices(name)
        except UserError as error:
            splits = (*self.cache.split_names, "all")
            remedy = "NAME/fit and NAME/dev are two thirds and one third of a split"
            raise BadValue(field, name, splits, remedy) from error
        return name

    def held_out(self, train: str, asked: str | None) -> str | None:
        """The split for evaluations: the one asked for, else test or val, whichever has labels; None without either.

        UserError where it shares images with the split `train`: what a net was trained on is not held out.
        """
        there = [name for name in ("test", "val") if name in self.cache.split_names]
        labelled = [name for name in there if len(self._classes(name))]
        held_out = asked or next(iter(labelled or there), None)
        if held_out is None:
            return None
        named = ((train, "train_split"), (held_out, "eval_split"))
        rows = (set(self.cache.indices(self.split(*pair)).tolist()) for pair in named)
        if shared := len(set.intersection(*rows)):
            raise UserError(
                f"--train-split {train} and --eval-split {held_out} share {shared} images, which would not be held out."
                f" Name splits that share none ({', '.join(self.cache.split_names)}; NAME/fit and NAME/dev are two "
                "parts of one), or, to train on all images, leave the evaluation out: trainer.run --no-evaluate"
            )
        return held_out

    def judged(self, split: str) -> str:
        """A 16-digit digest of a split's pictures and their classes' names, in whatever order they are."""
        cache, names = self.cache, [*self.cache.class_names, None]  # the last is of label -1
        rows = self.cache.indices(self.split(split)).tolist()
        pictures = sorted((cache.hashes[row].tobytes().hex(), json.dumps(names[cache.labels[row]])) for row in rows)
        return hashlib.sha256(json.dumps(pictures).encode()).hexdigest()[:16]

    def check_classes(self, train: str, held_out: str, remedy: str) -> None:
        """UserError with the `remedy` where both splits have labels and not one class in common."""
        fitted, judged = self._classes(train), self._classes(held_out)
        if len(fitted) and len(judged) and not len(np.intersect1d(fitted, judged)):
            names = [self.cache.class_names[classes[0]] for classes in (fitted, judged)]
            raise UserError(
                f"--train-split {train} and --eval-split {held_out} have no class in common (such as {names[0]} and "
                f"{names[1]}), so every accuracy would be 0. Name the classes alike in both and make the boxes again, "
                f"name another --eval-split ({', '.join(self.cache.split_names)}), or {remedy}"
            )

    def _classes(self, split: str) -> np.ndarray:
        """The classes of the labelled images of a split, int32, ascending."""
        labels = np.unique(self.cache.labels[self.cache.indices(self.split(split))])
        return labels[labels >= 0]

    def why(self, held_out: str) -> str:
        """Why the split `held_out` is evaluated where none was named, in words; empty where it is the usual one."""
        usual = next(name for name in ("test", "val") if name in (*self.cache.split_names, "val"))
        return "" if held_out == usual else f"evaluation on split {held_out}: {usual} has no labels (--eval-split)"

    def without_twins(self, train: str, held_out: str) -> "tuple[Data, dict[str, str]]":
        """These data without the pictures of `held_out` whose files are in `train` too; by path, what they equal.

        All pictures keep their rows. UserError where nothing else would be held out.
        """
        cache = self.cache
        fitted, judged = (cache.indices(self.split(name)) for name in (train, held_out))
        keys = cache.keys
        twins = judged[np.isin(keys[judged], keys[fitted])]
        if not len(twins):
            return self, {}
        path_of = {int(keys[row]): cache.path(row) for row in fitted.tolist()}
        equal = {cache.path(row): f"equals {path_of[int(keys[row])]} of split {train}" for row in twins.tolist()}
        if len(twins) == len(judged):
            path, reason = next(iter(equal.items()))
            raise UserError(
                f"all {len(judged)} pictures of --eval-split {held_out} are in --train-split {train} too "
                f"({path} {reason}): nothing is held out. Name another split, or remove the copies"
            )
        return self.of_rows({train: fitted, held_out: judged[~np.isin(judged, twins)]}), equal

    def of_rows(self, rows: dict[str, np.ndarray]) -> "Data":
        """These data with just these splits, by name, of these rows each. All pictures keep their rows."""
        splits = np.full(len(self.cache), len(rows), np.uint8)
        for number, of_split in enumerate(rows.values()):
            splits[of_split] = number
        return replace(self, cache=replace(self.cache, splits=splits, split_names=(*rows, "neither")))

    @property
    def nothing_held_out(self) -> str:
        """Why there is no split for evaluations, and how to have one."""
        return (
            f"the set {self.cache.dataset!r} has no split test or val, only {', '.join(self.cache.split_names)}. "
            "To hold a third of train out: --train-split train/fit --eval-split train/dev"
        )

    def require_maps(self, folder: str, split: str) -> None:
        """UserError where an image of `split` has no map in `folder`, which its views need."""
        from augment.stream.alpha import MapFolder
        from augment.stream.imageset import ImageSet

        try:
            MapFolder(folder, ImageSet([(self.cache, self.root)]), self.cache.indices(self.split(split)))
        except UserError as error:
            raise BadValue(
                "maps", folder, f"a folder with the maps of split {split!r} too, which the evaluation makes views of",
                f"{error}. Add them, or leave the evaluation out: --no-evaluate",
            ) from error  # fmt: skip

    def identity(self) -> dict[str, Any]:
        """Name, size and origin of the set, for a run's header; digests of pictures and boxes, and of their sorting."""
        from augment.stream.imageset import ImageSet

        digest = ImageSet([(self.cache, self.root)]).digest(np.arange(len(self.cache)))
        provenance = dict(self.cache.provenance)
        return {
            "name": self.cache.dataset, "images": len(self.cache), "provenance": provenance, "digest": digest,
            "sorting": self._sorting(),
        }  # fmt: skip

    def _sorting(self) -> str:
        """A 16-digit digest of the split and the class of every picture."""
        cache = self.cache
        fingerprint = hashlib.sha256(json.dumps([cache.split_names, cache.class_names]).encode())
        for column in (cache.splits, cache.labels):
            fingerprint.update(np.ascontiguousarray(column, "<i4").tobytes())
        return fingerprint.hexdigest()[:16]

    def other_than(self, was: Mapping[str, Any]) -> str | None:
        """What differs from the identity `was` of a run's header, in words. Older headers do not tell everything."""
        now = self.identity()
        return next((what for what, keys in _TOLD.items() if any(was.get(k, now[k]) != now[k] for k in keys)), None)


def open_data(dataset: str | None, boxes: str | None, root: str | None, say: Callable[[str], None]) -> Data:
    """Opens the data set that the flags name, and says which; without a name the demo set, made when it is missing."""
    if boxes is None and dataset is None:
        say("data: none named (--dataset, --boxes, --root): the demo set of procedural pictures; see --preset demo")
        dataset = "demo"
    path = Path(boxes) if boxes else Path("cache") / f"{dataset}.h5"
    if not path.exists() and boxes is None and dataset == "demo":
        say(f"data: {path} is missing; making the demo set and its boxes")
        from precompute.boxes import make_boxes

        make_boxes("demo", out=str(path), say=say)
    if not path.exists() and boxes is None:
        made = command("precompute.boxes", "--dataset", dataset, "--root", "DIR", "--out", path)
        raise UserError(f"{path} is missing. Make it first: {made}")
    cache = BoxCache.open(path)
    folder = cache.folder(root)
    if not folder.exists():
        raise BadValue("root", str(folder), f"the image folder that {path} was made with", "There is no such folder")
    splits = ", ".join(f"{len(cache.indices(name))} {name}" for name in cache.split_names)
    say(f"data: {cache.dataset}, {len(cache)} images ({splits}), boxes {path}, images below {folder}")
    return Data(cache, path, folder)
