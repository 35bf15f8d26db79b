"""What the host does for a batch of views on CUDA besides decoding and kernels, measured on a CPU without a GPU.

python -m benchmarks.host --boxes cache/cub.h5 --root data/CUB_200_2011
python -m benchmarks.host --boxes cache/cub.h5 --root data/CUB_200_2011 --against ../older-checkout

Parts, of the fused backend (what is real in them: host_work.py):
  views             views of a batch of kept pictures: tables of the kernels, their copy, the launches' arguments
  cache fill        the same of pictures that an empty cache is to keep
  loader, cached    the whole loader, from kept pictures
  loader, uncached  the whole loader, files read and checked and fed to DALI

All is CPU time of a process that does nothing else, on one core. On all of them (--no-one-core) threads that work at
the same time slow each other, most where cores are two threads of one: that is the machine's share, not the code's. A
measurement does its batches --times in a row, as an epoch does (a cache is filled once): the first ones after another
process's turn find nothing of theirs in the processor's caches. With --against each part is measured of both builds in
turns.
"""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from augment.views.policy import Policy
from benchmarks import harness
from benchmarks.child import ROOT, Child
from benchmarks.harness import Arm
from benchmarks.program import Output, Photographs, enough, head, parse
from precompute.base.errors import BadValue, UserError
from precompute.base.options import group, option, option_of
from precompute.base.program import main

PARTS = ("views", "cache fill", "loader, cached", "loader, uncached")
OURS, OTHER = "ours", "other build"


@dataclass(frozen=True)
class HostSettings:
    """The program's settings and their only defaults."""

    photographs: Photographs = group(Photographs, "photographs")
    against: str | None = option(None, "folder of another build, measured in turns with this one")
    batch: int = option(256, "source images of a batch", least=1)
    batches: int = option(2, "batches of one measurement", least=1)
    times: int = option(10, "how often a measurement does them, one after the other", least=1)
    size: int = option_of(Policy, "size")
    threads: int = option(2, "threads that read files", least=1)
    one_core: bool = option(True, "processes and their threads keep to one core")
    repeats: int = option(5, "measurements of each part", least=1)
    output: Output = group(Output, "result")

    def __post_init__(self) -> None:
        if self.against is not None and not Path(self.against, "augment").is_dir():
            raise BadValue("against", self.against, "the root of a checkout, with a folder augment")


def worker_of(build: Path, settings: HostSettings) -> Child:
    """The process that measures one build. UserError where another one is imported instead."""
    photographs = settings.photographs
    root = photographs.cache().folder(photographs.root).resolve()
    given = {name: getattr(settings, name) for name in ("batch", "batches", "times", "size", "threads", "one_core")}
    worker = Child("host_work.py", build, boxes=str(Path(photographs.box_file).resolve()), root=str(root), **given)
    found = Path(worker.about["augment"])
    if found.resolve() != (build / "augment").resolve():
        worker.end()
        raise UserError(f"{build}: {found} was imported instead: it is installed, and hides the build")
    return worker


def program(argv: list[str] | None = None) -> int:
    """Measures and prints; exit status 0 done, 1 failed, 2 usage."""
    settings = parse(HostSettings, "benchmarks.host", __doc__, argv)
    settings.output.deliver([measure(settings)], table)
    return 0


def measure(settings: HostSettings) -> dict[str, Any]:
    """The result."""
    enough(len(settings.photographs.images()), needed := settings.batch * settings.batches)
    builds = {OURS: ROOT} | ({} if settings.against is None else {OTHER: Path(settings.against)})
    inside = "CPU time of the host's threads; no kernel runs, nothing is decoded"
    with ExitStack() as stack:
        workers = {}
        for name, build in builds.items():
            workers[name] = worker_of(build, settings)
            stack.callback(workers[name].end)
        arms = {(name, part): Arm(f"{name}: {part}", (), needed, inside) for part in PARTS for name in workers}
        for repeat in range(settings.repeats + 1):
            for part in PARTS:
                for name in workers if repeat % 2 == 0 else reversed(workers):
                    done = workers[name].ask(part)  # CPU seconds and seconds of a part, and its images
                    if repeat:  # the first one warms up
                        arms[name, part].cpu.append(done["cpu"] * needed / done["samples"])
                        arms[name, part].wall.append(done["wall"] * needed / done["samples"])
    ratios = {
        f"{OTHER} / {OURS}: {part}": harness.ratio(arms[OTHER, part], arms[OURS, part])
        for part in PARTS
        if OTHER in builds
    }
    against = None if settings.against is None else Path(settings.against).name  # not its folders on this machine
    shown = head("host", settings, "cpu_ms", against=against)
    return shown | {"arms": [harness.row(arm) for arm in arms.values()], "ratios": ratios}


def table(document: dict[str, Any]) -> str:
    """The result as text: of each part a batch's CPU time, pictures a CPU second, and the other build's in ours."""
    batch, lines = document["settings"]["batch"], []
    for arm in document["arms"]:
        cpu = arm["cpu_ms"]
        of_batch = " ".join(f"{batch * cpu[name]:7.2f}" for name in ("median", "low", "high"))
        lines.append(f"{arm['name']:30} {of_batch} ms a batch of {batch}; {1e3 / cpu['median']:8.0f} a CPU second")
    for name, values in document["ratios"].items():
        lines.append(f"{name:44} {values['median']:6.2f} ({values['low']:.2f}-{values['high']:.2f})")
    return "\n".join(lines)


if __name__ == "__main__":
    main(program)
