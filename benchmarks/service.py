"""What sharing costs and saves: several trainings on one machine, helpers on Ray, and the carrying of batches.

python -m benchmarks.service --boxes cache/cub.h5 --root data/CUB_200_2011
python -m benchmarks.service --boxes cache/cub.h5 --root data/CUB_200_2011 --scope batches ray --repeats 7

Scopes; figures are CPU time of all processes that take part in an arm, and arms are in processes of their own:
  pictures   trainings with different seeds, first epoch: decoded pictures in one file, or in the memory of each
  batches    trainings that want the same views: a ring of made batches, beside one training alone
  jobs       trainer.compare --jobs 2 of two arms with the same views, beside one after the other: the CPU time of
             the threads that make views
  ray        a training and a helper on Ray, beside the training alone
  transport  carrying made batches between processes: as the service does, by Ray Data, by Arrow Flight
Before anything is timed, views are compared with those of a training alone, to the bit.
"""

import os
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, NamedTuple

from augment.request import Source
from augment.views.policy import Policy
from benchmarks import harness
from benchmarks.harness import Arm
from benchmarks.program import Output, Photographs, check_positive, check_size, head, parse
from benchmarks.results import rows
from precompute.base.options import group, option, option_of
from precompute.base.program import main


@dataclass(frozen=True)
class ServiceSettings:
    """The program's settings and their only defaults."""

    photographs: Photographs = group(Photographs, "photographs")
    scope: tuple[str, ...] = option(
        (), "what is measured; default: all of it", choices=("pictures", "batches", "jobs", "ray", "transport")
    )
    images: int = option(768, "images of an epoch: those of the set, again and again where it has fewer")
    batch: int = option(64, "source images of a batch")
    size: int = option_of(Policy, "size")
    scene: str = option_of(Policy, "scene")
    trainings: int = option(4, "trainings that share a file or a ring")
    repeats: int = option(4, "timed repeats of every arm, arms taking turns")
    output: Output = group(Output, "result")

    def __post_init__(self) -> None:
        check_positive(self, "images", "batch", "trainings", "repeats")
        check_size(self.size)

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
    pairs: list[tuple[Arm, Arm]]  # one of the others', and ours
    goals: list[Goal]
    seen: dict[str, Any]  # what else was counted; by words, for people
    skipped: dict[str, str]  # by arm: why


def program(argv: list[str] | None = None) -> int:
    """Measures and prints; exit status 0 done, 1 failed, 2 usage."""
    settings = parse(ServiceSettings, "benchmarks.service", __doc__, argv)
    settings.photographs.cache()  # a mistake shows here, not in another process
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that are begun

    from benchmarks.sharing import SCOPES

    documents = []
    for scope in settings.scope or SCOPES:
        settings.output.say(f"{scope}: {settings.repeats} repeats")
        with ExitStack() as stack:
            documents.append(result(settings, scope, SCOPES[scope](settings, stack)))
    settings.output.deliver(documents, table)
    return 0


def result(settings: ServiceSettings, scope: str, measured: Measured) -> dict[str, Any]:
    """The document of a scope."""
    return head("service", settings, "cpu_ms", scope=scope) | {
        "arms": [harness.row(arm) for arm in measured.arms],
        "ratios": {f"{peer.name} / {ours.name}": harness.ratio(peer, ours) for peer, ours in measured.pairs},
        "goals": {goal.words: {"most": goal.most, **harness.ratio(*goal[1:3])} for goal in measured.goals},
        "seen": measured.seen,
        "skipped": measured.skipped,
    }


def table(document: dict[str, Any]) -> str:
    """The result as text: a line an arm, a line a goal, a line for what else was seen."""
    lines = [f"\n{document['settings']['scope']}: {document['arms'][0]['inside']}", ""]
    lines.append(f"{'':52} {'CPU ms/sample':>14} {'[lowest, highest]':>18}")
    lines += [f"{name:52} {ms:14.3f} {f'[{low:.3f}, {high:.3f}]':>18}" for name, ms, low, high, _ in rows(document)]
    lines.append("")
    for words, goal in document["goals"].items():
        reached = "reached" if goal["median"] <= goal["most"] else "MISSED"
        spread = f"[{goal['low']:.3f}, {goal['high']:.3f}]"
        lines.append(f"{words:52} {goal['median']:14.3f} {spread:>18}  goal: at most {goal['most']:g}, {reached}")
    lines += [f"{words}: {value}" for words, value in document["seen"].items()]
    lines += [f"skipped: {name}: {why}" for name, why in document["skipped"].items()]
    return "\n".join(lines)


if __name__ == "__main__":
    main(program)
