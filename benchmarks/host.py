"""What the host does for a batch of views on CUDA besides decoding and kernels, measured on a CPU without a GPU.

python -m benchmarks.host --boxes cache/cub.h5 --root data/CUB_200_2011
python -m benchmarks.host --boxes cache/cub.h5 --root data/CUB_200_2011 --against ../older-checkout

Parts, of the fused backend (what is real in them: host_work.py):
  views             views of a batch of kept pictures: tables of the kernels, their copy, the launches' arguments
  cache fill        the same of pictures that an empty cache is to keep
  loader, cached    the whole loader, from kept pictures
  loader, uncached  the whole loader, files read and checked and fed to DALI

All is CPU time of a process that does nothing else. With --against each part is measured of both builds in turns.
"""

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from augment.views.policy import Policy
from benchmarks import harness
from benchmarks.harness import Arm
from benchmarks.program import Output, Photographs, check_positive, check_size, head, parse
from precompute.base.errors import BadValue, UserError
from precompute.base.options import group, option, option_of
from precompute.base.program import main

PARTS = ("views", "cache fill", "loader, cached", "loader, uncached")
OURS, OTHER = "ours", "other build"
BEGIN = "import json, runpy, sys; runpy.run_path(sys.argv[1])['serve'](**json.loads(sys.argv[2]))"
ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class HostSettings:
    """The program's settings and their only defaults."""

    photographs: Photographs = group(Photographs, "photographs")
    against: str | None = option(None, "folder of another build, measured in turns with this one")
    batch: int = option(256, "source images of a batch")
    batches: int = option(2, "batches of one measurement")
    size: int = option_of(Policy, "size")
    threads: int = option(2, "threads that read files")
    repeats: int = option(5, "measurements of each part")
    output: Output = group(Output, "result")

    def __post_init__(self) -> None:
        check_positive(self, "batch", "batches", "threads", "repeats")
        check_size(self.size)
        if self.against is not None and not Path(self.against, "augment").is_dir():
            raise BadValue("against", self.against, "the root of a checkout, with a folder augment")


class Worker:
    """The process that measures one build."""

    def __init__(self, build: Path, settings: HostSettings) -> None:
        names = ("batch", "batches", "size", "threads")
        photographs = settings.photographs
        root = photographs.cache().folder(photographs.root).resolve()
        given = {name: getattr(settings, name) for name in names}
        given |= {"boxes": str(Path(photographs.box_file).resolve()), "root": str(root)}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", BEGIN, str(Path(__file__).with_name("host_work.py")), json.dumps(given)],
            env=os.environ | {"PYTHONPATH": str(build.resolve()), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._build = build
        found = Path(self._answer()["augment"])
        if found.resolve() != (build / "augment").resolve():
            raise UserError(f"{build}: {found} was imported instead: it is installed, and hides the build")

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise UserError(f"{self._build}: its worker ended with status {self._process.wait()}; see above")
        return json.loads(line)

    def measure(self, part: str) -> dict[str, Any]:
        """CPU seconds, seconds and samples of a part, done once."""
        assert self._process.stdin is not None
        print(part, file=self._process.stdin, flush=True)
        return self._answer()

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.communicate()


def program(argv: list[str] | None = None) -> int:
    """Measures and prints; exit status 0 done, 1 failed, 2 usage."""
    settings = parse(HostSettings, "benchmarks.host", __doc__, argv)
    settings.output.deliver([measure(settings)], table)
    return 0


def measure(settings: HostSettings) -> dict[str, Any]:
    """The result."""
    if len(images := settings.photographs.images()) < (needed := settings.batch * settings.batches):
        raise UserError(f"{needed} images are needed, the box file has {len(images)}: lower --batch or --batches")
    builds = {OURS: ROOT} | ({} if settings.against is None else {OTHER: Path(settings.against)})
    inside = "CPU time of the host's threads; no kernel runs, nothing is decoded"
    with ExitStack() as stack:
        workers = {}
        for name, build in builds.items():
            workers[name] = Worker(build, settings)
            stack.callback(workers[name].close)
        arms = {(name, part): Arm(f"{name}: {part}", (), needed, inside) for part in PARTS for name in workers}
        for repeat in range(settings.repeats + 1):
            for part in PARTS:
                for name in workers if repeat % 2 == 0 else reversed(workers):
                    done = workers[name].measure(part)
                    if repeat:  # the first one warms up
                        arms[name, part].cpu.append(done["cpu"])
                        arms[name, part].wall.append(done["wall"])
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
