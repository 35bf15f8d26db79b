"""The images that encoders are evaluated on: plain ones for tests, random crops for the training of classifiers."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from augment import Batch, Making, Policy, Share, Source, ViewLoader, eval_images, open_views
from augment.request import FILE_CACHES
from precompute.base.errors import BadFile, UserError
from precompute.base.program import count
from trainer.engine.data import Data

MOST_IMAGES = 2000  # of a split, for localisation: its standard error is then well below a hundredth


def some(count: int) -> Tensor:
    """At most MOST_IMAGES of the indices below `count`, ascending: always the same random ones.

    Neither the first ones nor every n-th: files lie sorted by class, or one of each class in turn.
    """
    return torch.randperm(count, generator=torch.Generator().manual_seed(0))[:MOST_IMAGES].sort().values


@dataclass(frozen=True)
class Bench:
    """A box file with its images, two of its splits, and how images are read.

    Probes and classifiers are fitted on `train_split`, the figures are those of `test_split`. `making` names the device
    for all images; with `on_bad="fail"` a file that went bad is an error, otherwise it is left out. Pictures of the
    test split that equal one of the training split are left out as well. `left_out` has the reasons by path.
    """

    data: Data
    train_split: str
    test_split: str
    size: int = 224
    batch: int = 64
    seed: int = 0
    making: Making = field(default_factory=lambda: Making(device="cpu", on_bad="fail"))
    left_out: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        data, equal = self.data.without_twins(self.train_split, self.test_split)
        object.__setattr__(self, "data", data)
        self.left_out.update(equal)

    def images(self, split: str, crop: str) -> Iterator[tuple[Tensor, Tensor]]:
        """Plain images [N, 3, S, S] on the device and their rows [N] on the CPU, in order."""
        empty = True
        for images, rows in eval_images(
            self._source(split), size=self.size, crop=crop, batch_size=self.batch, making=self.making, skip=self._skip
        ):
            empty = False
            yield images.to(self.making.device).contiguous(memory_format=torch.channels_last), rows
        if empty:
            reason = "none of its images can be read" if self.left_out else "there are no images in it"
            raise UserError(f"split {split!r}: {reason}")

    def _source(self, split: str, maps: str | None = None) -> Source:
        return Source(self.data.cache, self.data.root, self.data.split(split), maps=maps)

    def _skip(self, error: BadFile) -> None:
        if self.making.on_bad == "fail":
            raise UserError(f"{error}. Boxes made anew (precompute.boxes) hold good files only") from error
        self.left_out[error.path] = error.reason

    def views(
        self, split: str, policy: Policy, batch: int, seed: int, *, maps: str | None = None, drop_last: bool = True
    ) -> ViewLoader:
        """Random views of a split on the device; what the loader chooses is not printed."""
        making = replace(self.making, service="off", address=None, ring="", say=lambda line: None)
        if making.cache in FILE_CACHES:  # a file of the held-out pictures would be read once
            making = replace(making, cache="ram", cache_dir=None)
        return open_views(
            self._source(split, maps), policy=policy, batch_size=batch, seed=seed, making=making,
            share=Share(drop_last=drop_last),
        )  # fmt: skip

    def every_view(self, split: str, policy: Policy, seed: int, maps: str | None = None) -> Iterator[Batch]:
        """Batches of `views`, each image once."""
        with self.views(split, policy, self.batch, seed, maps=maps, drop_last=False) as loader:
            yield from loader

    def sampled(self) -> "Bench":
        """The same with at most MOST_IMAGES of each split, and without what is left out so far.

        In views another picture would stand in for one that went bad, and count twice.
        """
        cache, rows = self.data.cache, {}
        for split in (self.train_split, self.test_split):
            good = [row for row in self.rows(split).tolist() if cache.path(row) not in self.left_out]
            rows[split] = np.array(good, int)[some(len(good)).numpy()]
        return replace(self, data=self.data.of_rows(rows))

    @property
    def remark(self) -> str:
        """A sentence about what was left out; empty where nothing was."""
        first = next((f"{path}: {reason}" for path, reason in self.left_out.items()), "")
        return first and f"note: left out of the evaluation: {count(len(self.left_out), 'picture')} ({first})"

    @property
    def labels(self) -> Tensor:
        """Class of every image of the box file, -1 unknown."""
        return torch.from_numpy(self.data.cache.labels.astype("int64"))

    def rows(self, split: str) -> Tensor:
        """The rows of a split [N]."""
        return torch.from_numpy(self.data.cache.indices(self.data.split(split)))

    def has_labels(self) -> bool:
        """Whether both splits have labelled images."""
        return all(bool((self.labels[self.rows(s)] >= 0).any()) for s in (self.train_split, self.test_split))

    def majority(self) -> float:
        """Share of the most frequent class in the test split: the accuracy of guessing."""
        labels = self.labels[self.rows(self.test_split)]
        labels = labels[labels >= 0]
        return torch.bincount(labels).max().item() / len(labels)
