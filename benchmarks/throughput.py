"""What two SaliencySwap views of an image cost: our backends beside what users would pick instead.

python -m benchmarks.throughput --boxes cache/cub.h5 --root data/CUB_200_2011
python -m benchmarks.throughput --scope apply loader --peers opencv pillow --out mine.json
python -m benchmarks.throughput --policy rrc --peers lightly opencv

Scopes, and what is inside the timer:
  apply          decoded images in memory → two normalised views; ours from the decoded cache (open_views(cache="ram")),
                 where backgrounds are kept at view size, and peers get them at that size as well; the DALI graph always
                 decodes and is not in this scope
  decode+apply   JPEG bytes in memory → two normalised views; one thread
  loader         files on disk → batches, the whole loader: open_views, or a DataLoader with as many workers
  train          a step of ResNet-18 on live views; the arm "frozen batch" takes the same batch again and again
Figures are CPU seconds of the whole process tree per source image (on CUDA: seconds on the clock), arms taking turns,
in several fresh processes one after the other: the spread between those is what another run may bring.
All arms get the same plans, and the peers' views are compared with ours before anything is timed; lightly's, which
draws its own numbers, is compared by its statistics and takes part with --policy rrc only.
"""

import json
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from augment.views.policy import NAMES as POLICY_NAMES
from augment.views.policy import Policy
from benchmarks.program import DataSettings, parse, row
from precompute.base.errors import UserError
from precompute.base.options import as_json, option, option_of
from precompute.base.program import main

if TYPE_CHECKING:
    from benchmarks.harness import Arm
    from benchmarks.job import Job
    from benchmarks.peers import Peer

SCOPES = ("apply", "decode+apply", "loader", "train")
POLICIES = tuple(name for name in POLICY_NAMES if name != "copy-paste")  # it needs maps, and no peer has it
INSIDE = {
    "apply": "decoded images in memory to two normalised views",
    "decode+apply": "JPEG bytes in memory to two normalised views, one thread",
    "loader": "files on disk to batches of two normalised views",
    "train": "one step of ResNet-18 (forward and backward of both views)",
}


@dataclass(frozen=True)
class Settings(DataSettings):
    scope: tuple[str, ...] = option(("decode+apply",), "what is inside the timer", choices=SCOPES)
    policy: str = option("saliencyswap", "what the views are", choices=POLICIES)
    scene: str = option_of(Policy, "scene")
    backends: tuple[str, ...] = option((), "our backends, also as backend:colour (default: all that are installed)")
    peers: tuple[str, ...] = option((), "peers (default: all that are installed; none: no peers)")
    batch: int = option(32, "source images of a batch")
    batches: int = option(4, "batches in one timed repeat")
    size: int = option(224, "side of a view in pixels")
    repeats: int = option(2, "timed repeats of every arm, arms taking turns")
    rounds: int = option(5, "fresh processes that do all of it; spreads are over all repeats of all of them")
    threads: int = option(1, "threads of our backends, and workers of the peers' DataLoader (loader and train)")
    device: str = option("cpu", "where our backends run: cpu or cuda", choices=("cpu", "cuda"))


def program(argv: list[str] | None = None) -> int:
    """Parses the command line, checks the peers, measures, prints; exit status 0 done, 1 failed, 2 usage."""
    settings = parse(Settings, "benchmarks.throughput", __doc__, argv)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from benchmarks import results

    if settings.peers not in ((), ("none",)):
        from benchmarks.peers import find

        find(settings.peers)  # an unknown one shows before the first round
    if settings.rounds == 1:
        documents = [measure_scope(settings, scope) for scope in settings.scope]
    else:
        runs = [_round(settings, number) for number in range(settings.rounds)]
        documents = [_merged(same) for same in zip(*runs, strict=True)]
    for document in documents:
        results.validate(document)
        if settings.rounds > 1 or not settings.json:  # a round's own table is nobody's business
            settings.say(table(document))
        if path := _out(settings, document):
            results.save(document, path)
            settings.say(f"written: {path}")
    if settings.json:
        print(json.dumps(documents[0] if len(documents) == 1 else documents, allow_nan=False))
    return 0


def _out(settings: Settings, document: dict[str, Any]) -> str | None:
    """The file of one scope's result."""
    if not settings.out or len(settings.scope) == 1:
        return settings.out
    path = Path(settings.out)
    return str(path.with_stem(f"{path.stem}-{document['settings']['scope'].replace('+', '-')}"))


def _round(settings: Settings, number: int) -> list[dict[str, Any]]:
    """The documents of one run in a process of its own; what it says is passed on the first time."""
    import subprocess

    settings.say(f"round {number + 1} of {settings.rounds}")
    options = []
    for name, value in (as_json(settings) | {"rounds": 1, "out": None, "json": None}).items():
        if value not in (None, []):
            options += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    command = [sys.executable, *(f"-W{w}" for w in sys.warnoptions), "-m", "benchmarks.throughput", *options, "--json"]
    run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE if number else None, text=True)
    if run.returncode:
        print(run.stderr or "", file=sys.stderr, end="")
        raise SystemExit(run.returncode)  # it has said why
    last = json.loads(run.stdout.splitlines()[-1])
    return last if isinstance(last, list) else [last]


def _merged(documents: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One result of several rounds, the verdict from all of them."""
    from benchmarks import results

    document = results.merged(documents)
    middles = {arm["name"]: arm[results.unit_of(document)]["median"] for arm in document["arms"]}
    return document | {"verdict": _verdict(middles, results.unit_of(document))}


def measure_scope(settings: Settings, scope: str) -> dict[str, Any]:
    """The result document of one scope: peers checked, all arms measured."""
    import torch

    from benchmarks import harness, job, scopes

    torch.set_num_threads(settings.threads)
    # The DALI graph decodes and has no decoded cache.
    chosen = job.choose(settings.backends, device=settings.device, without=("dali",) if scope == "apply" else ())
    wanted, skipped = _peers(settings)
    if not chosen and not wanted:
        raise UserError(f"nothing to measure in scope {scope}: name peers, or a backend that has it (dali decodes too)")
    work = _job(settings)
    with ExitStack() as stack:
        checks = {p.name: job.check(work, p, stack) for p in wanted}
        for peer in wanted:
            kind = "statistics" if peer.draws else "views"
            settings.say(
                f"checked: {peer.name}'s {kind} are {checks[peer.name]:.2f} levels of 255 from ours on average"
            )
        arms = list(scopes.ARMS[scope](work, chosen, wanted, stack))
        settings.say(f"{scope}: {len(arms)} arms, {work.samples} images a repeat, {settings.repeats} repeats")
        harness.measure(arms, settings.repeats, say=settings.progress)
        return _document(settings, scope, arms, checks, skipped)


def _peers(settings: Settings) -> "tuple[list[Peer], dict[str, str]]":
    """The peers to measure, and those that are left out with the reason."""
    from benchmarks import peers

    names = () if settings.peers == ("none",) else settings.peers or tuple(peers.PEERS)
    wanted, skipped = [], {}
    for peer in peers.find(names):
        why = peer.missing()
        if settings.policy not in peer.policies:
            why = f"it has no {settings.policy}, only {', '.join(peer.policies)}"
        if settings.scene not in peer.scenes:
            why = f"its backgrounds are {', '.join(peer.scenes)}"
        if why:
            skipped[peer.name] = why
            settings.say(f"skipped: {peer.name}: {why}")
        else:
            wanted.append(peer)
    return wanted, skipped


def _job(settings: Settings) -> "Job":
    from benchmarks.job import make_job

    return make_job(
        settings.images(),
        Policy(name=settings.policy, size=settings.size, scene=settings.scene),
        batch=settings.batch,
        batches=settings.batches,
        device=settings.device,
        threads=settings.threads,
    )


def _document(
    settings: Settings, scope: str, arms: "Sequence[Arm]", checks: dict[str, float], skipped: dict[str, str]
) -> dict[str, Any]:
    from benchmarks import harness, results

    unit = "wall_ms" if settings.device == "cuda" else "cpu_ms"
    rows = [row(a.name, INSIDE[scope], a.samples, a.cpu_ms, a.wall_ms) for a in arms]
    ours = [a for a in arms if a.name.startswith("ours")]
    others = [a for a in arms if not a.name.startswith("ours")]
    return {
        "schema": results.SCHEMA,
        "benchmark": "throughput",
        "settings": settings.told() | {"scope": scope},
        "unit": unit,
        **harness.facts(),
        "peak_memory_mib": round(harness.peak_memory_mib(), 1),
        "gpu_memory_mib": harness.gpu_memory_mib(),
        "checked_levels": checks,
        "skipped": skipped,
        "arms": rows,
        "ratios": {f"{p.name} / {o.name}": harness.ratio(p, o, unit) for p in others for o in ours},
        "verdict": _verdict({r["name"]: r[unit]["median"] for r in rows}, unit),
    }


def _verdict(middles: dict[str, float], unit: str) -> str:
    """What the job is bound by, from the ceilings that were measured in the same run; `middles`: median of each arm."""
    ours = [name for name in middles if name.startswith("ours")]
    if not ours:
        return "none of our backends was measured"
    best = min(ours, key=lambda name: middles[name])
    time = "time" if unit == "wall_ms" else "CPU time"
    if "decode only" in middles:
        share = middles["decode only"] / middles[best]
        bound = "decode" if share > 0.5 else "augmentation"
        return f"{best} is {bound}-bound: decoding is {share:.0%} of its {time}"
    if "frozen batch" in middles:
        share = middles["frozen batch"] / middles[best]
        bound = "trainer" if share > 0.5 else "augmentation"
        return f"with {best} the step is {bound}-bound: the frozen batch takes {share:.0%} of its {time}"
    return f"{best} is the cheapest of ours at {middles[best]:.2f} ms of {time} a sample"


def table(document: dict[str, Any]) -> str:
    """The result as text: one line an arm, cheapest first, and what each costs in terms of our best."""
    from benchmarks.results import unit_of

    unit = unit_of(document)
    arms = sorted(document["arms"], key=lambda a: a[unit]["median"])
    ours = [a for a in arms if a["name"].startswith("ours")]
    word = {"cpu_ms": "CPU ms", "wall_ms": "ms"}[unit]
    lines = [f"\n{document['settings']['scope']}: {document['arms'][0]['inside']}", ""]
    lines.append(f"{'':32} {word + '/sample':>14} {'[lowest, highest]':>18} {'samples/s':>10}  in ours' best")
    for arm in arms:
        cost, wall = arm[unit], arm["wall_ms"]["median"]
        times = f"{cost['median'] / ours[0][unit]['median']:.2f}x" if ours else ""
        ends = f"[{min(cost['values']):.2f}, {max(cost['values']):.2f}]"
        lines.append(f"{arm['name']:32} {cost['median']:14.2f} {ends:>18} {1e3 / wall:10.1f}  {times}")
    memory = f"peak memory {document['peak_memory_mib']} MiB"
    if document.get("gpu_memory_mib") is not None:
        memory += f", {document['gpu_memory_mib']} MiB on the GPU"
    lines += ["", f"verdict: {document['verdict']} ({memory})"]
    return "\n".join(lines)


if __name__ == "__main__":
    main(program)
