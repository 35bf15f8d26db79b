"""What two SaliencySwap views of an image cost: our backends beside what users would pick instead.

python -m benchmarks.throughput --boxes cache/cub.h5 --root data/CUB_200_2011
python -m benchmarks.throughput --scope apply loader --peers opencv pillow --out views.json
python -m benchmarks.throughput --policy rrc --peers lightly opencv
python -m benchmarks.throughput --over image --values 0.2 0.8 3 12 --backends fused --peers opencv

Scopes, and what is inside the timer:
  apply          decoded images in memory → two normalised views; ours from the decoded cache, which keeps backgrounds
                 at view size, and peers get them at that size as well; the DALI graph always decodes: not in this scope
  decode+apply   JPEG bytes in memory → two normalised views; one thread
  loader         files on disk → batches, the whole loader: open_views, or a DataLoader with as many workers
  train          a step of ResNet-18 on live views; the arm "frozen batch" takes the same batch again and again
--over varies one quantity and keeps everything else: batch, size (side of a view) or image (megapixels: photographs
resized, JPEG 90) in the scope decode+apply; images (the set's files, again and again) or threads in the scope loader.
How it is measured: benchmarks/README.md. On CUDA and over threads figures are time on the clock, else CPU time.
"""

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from augment.views.policy import NAMES as POLICY_NAMES
from augment.views.policy import Policy
from benchmarks import growth, harness
from benchmarks.program import JobSettings, Output, Photographs, check_device, head, parse
from benchmarks.results import CEILINGS, merged, rows, unit_of
from precompute.base.errors import BadValue, UserError
from precompute.base.options import as_json, group, option, option_of
from precompute.base.parent import ASKED
from precompute.base.program import main

if TYPE_CHECKING:
    from benchmarks.job import Job

INSIDE = {
    "apply": "decoded images in memory to two normalised views",
    "decode+apply": "JPEG bytes in memory to two normalised views, one thread",
    "loader": "files on disk to batches of two normalised views",
    "train": "one step of ResNet-18 (forward and backward of both views)",
}
POLICIES = tuple(name for name in POLICY_NAMES if name != "copy-paste")  # it needs maps, and no peer has it
_USUAL = "; ".join(f"{name} {' '.join(f'{v:g}' for v in q.values)}" for name, q in growth.QUANTITIES.items())


@dataclass(frozen=True)
class ThroughputSettings:
    """The program's settings and their only defaults."""

    photographs: Photographs = group(Photographs, "photographs")
    scope: tuple[str, ...] = option((), "what is inside the timer; default: decode+apply", choices=tuple(INSIDE))
    policy: str = option("saliencyswap", "what the views are", choices=POLICIES)
    scene: str = option_of(Policy, "scene")
    job: JobSettings = group(JobSettings, "job")
    rounds: int = option(5, "fresh processes that do all of it; spreads are over all repeats of all of them", least=1)
    over: str | None = option(None, "a quantity to vary", choices=tuple(growth.QUANTITIES))
    values: tuple[float, ...] = option((), f"its values; default: {_USUAL}")
    output: Output = group(Output, "result")

    def __post_init__(self) -> None:
        if self.over is None:
            if self.values:
                raise BadValue("values", self.values, "left out without --over")
            object.__setattr__(self, "scope", self.scope or ("decode+apply",))
            return
        quantity = growth.QUANTITIES[self.over]
        if self.scope not in ((), (quantity.scope,)):
            raise BadValue("scope", self.scope, f"{quantity.scope} with --over {self.over}")
        object.__setattr__(self, "scope", (quantity.scope,))
        object.__setattr__(self, "values", self.values or quantity.values)
        growth.check(self.over, self.values)

    @property
    def unit(self) -> str:
        """What the arms are compared by, a key of `results.UNITS`."""
        return "wall_ms" if self.over == "threads" else self.job.unit


def program(argv: list[str] | None = None) -> int:
    """Parses the command line, checks what it names, measures, prints; exit status 0 done, 1 failed, 2 usage."""
    settings = parse(ThroughputSettings, "benchmarks.throughput", __doc__, argv)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    job = settings.job
    check_device(job.device)
    settings.photographs.check(0 if settings.over else job.batch * job.batches)  # --over takes images again and again
    if settings.rounds == 1:
        documents = [measure_scope(settings, scope) for scope in settings.scope]
    else:
        runs = [_round(settings, number) for number in range(settings.rounds)]
        documents = [merged(same) for same in zip(*runs, strict=True)]
    for document in documents:
        if settings.over:
            document["sweep"] = growth.summary(settings.over, settings.values, document["arms"], settings.unit)
        else:
            middles = {arm["name"]: arm[settings.unit]["median"] for arm in document["arms"]}
            document["verdict"] = _verdict(middles, settings.unit)
    settings.output.deliver(documents, growth.table if settings.over else table)
    return 0


def _round(settings: ThroughputSettings, number: int) -> list[dict[str, Any]]:
    """The results of one round, in a process of its own; only the first one's messages are printed."""
    settings.output.say(f"round {number + 1} of {settings.rounds}")
    options = []
    for name, value in (as_json(settings) | {"rounds": 1, "out": None, "json": None}).items():
        if value not in (None, []):
            options += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    command = [sys.executable, *(f"-W{w}" for w in sys.warnoptions), "-m", "benchmarks.throughput", *options, "--json"]
    environment, errors = os.environ | {ASKED: "1"}, subprocess.PIPE if number else None
    run = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True)
    if run.returncode:
        print(run.stderr or "", file=sys.stderr, end="")
        raise SystemExit(run.returncode)  # its message is on stderr
    last = json.loads(run.stdout.splitlines()[-1])
    return last if isinstance(last, list) else [last]


def measure_scope(settings: ThroughputSettings, scope: str) -> dict[str, Any]:
    """The result of one scope: peers checked, all arms measured, at every value of `--over`."""
    import torch

    from benchmarks.job import check, choose
    from benchmarks.peers import find_able
    from benchmarks.scopes import ARMS

    torch.set_num_threads(settings.job.threads)
    # The DALI graph decodes and has no decoded cache.
    chosen = choose(settings.job, without="dali" if scope == "apply" else "")
    wanted, skipped = find_able(settings.job.peers, settings.output.say, settings.policy, settings.scene)
    if not chosen and not wanted:
        raise UserError(f"nothing to measure in scope {scope}: name peers, or a backend that has it (dali decodes too)")
    with ExitStack() as stack:
        jobs = {value: _job(settings, value, stack) for value in settings.values or (None,)}
        first = next(iter(jobs.values()))
        checks = {peer.name: check(first, peer, stack, settings.output.say) for peer in wanted}
        groups = []
        for value, work in jobs.items():
            group = list(ARMS[scope](work, chosen, wanted, stack))
            if value is not None:
                group = [replace(arm, name=f"{arm.name} @ {value:g}") for arm in group if arm.name not in CEILINGS]
            groups.append(group)
        arms = [arm for group in groups for arm in group]
        samples = " or ".join(map(str, sorted({work.samples for work in jobs.values()})))
        settings.output.say(f"{scope}: {len(arms)} arms, {samples} images a repeat, {settings.job.repeats} repeats")
        harness.measure(arms, settings.job.repeats, say=settings.output.progress)
    return head("sweep" if settings.over else "throughput", settings, settings.unit, scope=scope) | {
        "arms": [harness.row(arm) | {"inside": INSIDE[scope]} for arm in arms],
        "ratios": {k: v for group in groups for k, v in harness.ratios(group, settings.unit).items()},
        "checked_levels": checks,
        "skipped": skipped,
    }


def _job(settings: ThroughputSettings, value: float | None, stack: ExitStack) -> "Job":
    """The job at one value of `--over`."""
    from benchmarks.job import make_job

    job, images = settings.job, settings.photographs.images()
    if settings.over and value is not None:
        job = growth.job_at(job, settings.over, value)
        images = growth.images_at(images, job, settings.over, value, stack)
    return make_job(images, Policy(name=settings.policy, size=job.size, scene=settings.scene), job)


def _verdict(middles: dict[str, float], unit: str) -> str:
    """What binds the job, by the ceilings that were measured in the same run; `middles`: median of each arm."""
    ours = [name for name in middles if name.startswith("ours")]
    if not ours:
        return "none of our backends was measured"
    best = min(ours, key=lambda name: middles[name])
    time = "time" if unit == "wall_ms" else "CPU time"
    for ceiling, bound, subject, part in (
        ("decode only", "decode", best, "decoding is"),
        ("frozen batch", "trainer", f"with {best} the step", "the frozen batch takes"),
    ):
        if ceiling in middles:
            share = middles[ceiling] / middles[best]
            if share > 1:
                return f"{best} does less than this ceiling: {part} {share:.0%} of its {time} where it is whole"
            kind = bound if share > 0.5 else "augmentation"
            return f"{subject} is {kind}-bound: {part} {share:.0%} of its {time}"
    return f"{best} is the cheapest of ours at {middles[best]:.2f} ms of {time} a sample"


def table(document: dict[str, Any]) -> str:
    """The result as text: one line an arm, cheapest first, and what each costs in terms of our best."""
    word = "CPU ms" if unit_of(document) == "cpu_ms" else "ms"
    wall = {arm["name"]: arm["wall_ms"]["median"] for arm in document["arms"]}
    ours = any(name.startswith("ours") for name in wall)
    lines = [f"\n{document['settings']['scope']}: {document['arms'][0]['inside']}", ""]
    lines.append(f"{'':32} {word + '/sample':>14} {'[lowest, highest]':>18} {'samples/s':>10}  in ours' best")
    for name, middle, low, high, times in rows(document):
        cost = f"{middle:14.2f} {f'[{low:.2f}, {high:.2f}]':>18} {1e3 / wall[name]:10.1f}"
        lines.append(f"{name:32} {cost}  {f'{times:.2f}x' if ours else ''}")
    memory = f"peak memory {document['peak_memory_mib']} MiB"
    if document.get("gpu_memory_mib") is not None:
        memory += f", {document['gpu_memory_mib']} MiB on the GPU"
    lines += ["", f"verdict: {document['verdict']} ({memory})"]
    return "\n".join(lines)


if __name__ == "__main__":
    main(program)
