"""What sharing costs and saves: several trainings on one machine, helpers on Ray, and the carrying of batches.

python -m benchmarks.service --boxes cache/cub.h5 --root data/CUB_200_2011
python -m benchmarks.service --boxes cache/cub.h5 --root data/CUB_200_2011 --scope batches ray --repeats 7

Scopes; figures are CPU time of all processes that take part in an arm, and arms are in processes of their own:
  pictures   trainings with different seeds, first epoch: decoded pictures in one file, or in the memory of each.
             Memory for the views is taken before: in an epoch of few pictures it would be most of the time
  batches    trainings that want the same views: a ring of made batches, beside one training alone
  jobs       trainer.compare --jobs 2 of two arms with the same views, beside one after the other: the CPU time of
             the threads that make views
  ray        a training and a helper on Ray, beside the training alone: each on one core, since two busy cores may slow
             each other (virtual ones are often two threads of one), which is no work of Ray's; and on all cores
  transport  carrying made batches between processes: as the service does, by Ray Data, by Arrow Flight
Before anything is timed, views are compared with those of a training alone, to the bit.
"""

import os
from contextlib import ExitStack
from typing import Any

from benchmarks import harness
from benchmarks.goals import SCOPES, Measured, ServiceSettings
from benchmarks.peers import missing
from benchmarks.program import head, parse
from benchmarks.results import rows
from precompute.base.errors import UserError
from precompute.base.parent import ASKED
from precompute.base.program import main


def program(argv: list[str] | None = None) -> int:
    """Measures and prints; exit status 0 done, 1 failed, 2 usage."""
    settings = parse(ServiceSettings, "benchmarks.service", __doc__, argv)
    settings.photographs.check()  # a mistake shows here, not in another process
    scopes = settings.scope or SCOPES
    if "ray" in scopes and (why := missing("ray")):
        raise UserError(f"scope ray: {why}")
    os.environ |= {"OMP_NUM_THREADS": "1", ASKED: "1"}  # of the processes that are begun

    from benchmarks import sharing

    documents = []
    for scope in scopes:
        settings.output.say(f"{scope}: {settings.repeats} repeats")
        with ExitStack() as stack:
            documents.append(result(settings, scope, sharing.SCOPES[scope](settings, stack)))
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
