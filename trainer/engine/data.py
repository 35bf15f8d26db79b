"""Which images a run trains on: a box file and its folder, named or the demo set."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from precompute.base.boxfile import BoxCache
from precompute.base.errors import UserError
from precompute.base.program import command


@dataclass(frozen=True)
class Data:
    """An opened box file, and the folder that its paths are relative to."""

    cache: BoxCache
    boxes: Path
    root: Path

    def split(self, name: str, flag: str = "") -> str | None:
        """A split's name as the loader wants it ("all" is None); UserError names the valid ones, and `flag`."""
        if name == "all":
            return None
        try:
            self.cache.indices(name)
        except UserError as error:
            raise UserError(f"{flag} {name}: {error}" if flag else str(error)) from error
        return name

    def held_out(self, train: str, asked: str | None) -> str | None:
        """The split for evaluations: the one asked for, else test or val; None where the set has neither.

        UserError where it shares images with the split `train`.
        """
        found = asked or next((name for name in ("test", "val") if name in self.cache.split_names), None)
        if found is not None:
            self.require_apart(train, found)
        return found

    @property
    def nothing_held_out(self) -> str:
        """Why there is no split for evaluations, and how to have one."""
        return (
            f"the set {self.cache.dataset!r} has no split test or val, only {', '.join(self.cache.split_names)}. "
            "To hold a third of train out: --train-split train/fit --eval-split train/dev"
        )

    def require_apart(self, train: str, test: str) -> None:
        """UserError where two splits share images: what a net was trained on, or a kNN bank holds, is not held out."""
        named = ((train, "--train-split"), (test, "--eval-split"))
        rows = (set(self.cache.indices(self.split(*pair)).tolist()) for pair in named)
        if shared := len(set.intersection(*rows)):
            raise UserError(
                f"--train-split {train} and --eval-split {test} share {shared} images, which would not be held out. "
                f"Name splits that share none ({', '.join(self.cache.split_names)}; NAME/fit and NAME/dev are two "
                "parts of one), or, to train on all images, leave the evaluation out: trainer.run --no-evaluate"
            )

    def require_maps(self, folder: str, split: str) -> None:
        """UserError where an image of the split `split` has no map of its own in `folder`, which its views need."""
        from augment.stream.alpha import MapFolder
        from augment.stream.imageset import ImageSet

        try:
            MapFolder(folder, ImageSet([(self.cache, self.root)]), self.cache.indices(self.split(split)))
        except UserError as error:
            raise UserError(
                f"{str(error).replace('maps=', '--maps ', 1)}. The evaluation makes views of split {split!r}: "
                "it needs their maps too, or --no-evaluate"
            ) from error

    def identity(self) -> dict[str, Any]:
        """What this set is, for a run's header; `digest` of its pictures and boxes."""
        from augment.stream.imageset import ImageSet

        digest = ImageSet([(self.cache, self.root)]).digest(np.arange(len(self.cache)))
        provenance = dict(self.cache.provenance)
        return {"name": self.cache.dataset, "images": len(self.cache), "provenance": provenance, "digest": digest}


def open_data(dataset: str | None, boxes: str | None, root: str | None, say: Callable[[str], None]) -> Data:
    """Opens what the flags name; with nothing named, the demo set, made when it is missing. Says which it is."""
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
    if not folder.is_dir():
        raise UserError(f"--root {folder}: no such folder; it must be the one given to precompute.boxes for {path}")
    splits = ", ".join(f"{len(cache.indices(name))} {name}" for name in cache.split_names)
    say(f"data: {cache.dataset}, {len(cache)} images ({splits}), boxes {path}, images below {folder}")
    return Data(cache, path, folder)
