"""What `benchmarks.service` is asked for, and what one of its scopes gives."""

from dataclasses import dataclass
from typing import Any, NamedTuple

from augment.request import Source
from augment.views.policy import Policy
from benchmarks.harness import Arm
from benchmarks.program import Output, Photographs
from precompute.base.options import group, option, option_of

SCOPES = ("pictures", "batches", "jobs", "ray", "transport")


@dataclass(frozen=True)
class ServiceSettings:
    """The program's settings and their only defaults."""

    photographs: Photographs = group(Photographs, "photographs")
    scope: tuple[str, ...] = option((), "what is measured; default: all of it", choices=SCOPES)
    images: int = option(768, "images of an epoch: those of the set, again and again where it has fewer", least=1)
    batch: int = option(64, "source images of a batch", least=1)
    size: int = option_of(Policy, "size")
    scene: str = option_of(Policy, "scene")
    trainings: int = option(4, "trainings that share a file or a ring", least=1)
    repeats: int = option(4, "timed repeats of every arm, arms taking turns", least=1)
    output: Output = group(Output, "result")

    @property
    def policy(self) -> Policy:
        """That of all views."""
        return Policy(size=self.size, scene=self.scene)

    def source(self) -> Source:
        """The pictures, in one split."""
        import numpy as np

        from benchmarks.growth import of_rows

        cache = self.photographs.cache()
        rows = np.arange(self.images) % len(cache)
        return Source(of_rows(cache, rows), str(cache.folder(self.photographs.root)), "all")


class Goal(NamedTuple):
    """A ratio of two arms' times, and what it is meant to be at most."""

    words: str
    above: Arm
    below: Arm
    most: float


class Measured(NamedTuple):
    """What a scope gives."""

    arms: list[Arm]
    pairs: list[tuple[Arm, Arm]]  # a peer, and ours
    goals: list[Goal]
    seen: dict[str, Any]  # what else was counted; by words, for people
    skipped: dict[str, str]  # by arm: why
