"""What keeping decoded pictures costs and saves: in memory, in a file for later runs, in a file for several trainings.

python -m benchmarks.caches --boxes cache/cub.h5 --root data/CUB_200_2011
python -m benchmarks.caches --boxes cache/cub.h5 --root data/CUB_200_2011 --older ../before   # beside an older checkout

Arms, taking turns, each a loader of its own over files on disk, for two epochs, one thread:
  off, ram              what there is without a file
  disk, first run       makes the file; disk, second run: finds it in the system's memory (a cold disk is not measured)
  four ram, four shared four trainings with four seeds at once; the sum of their CPU time, per sample of one of them
  before: off           another checkout's stream, in its own virtual environment (--older)
CPU time is that of a loader's process from the start of an epoch to its last batch, the batches ahead included.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from augment.views.policy import SCENES, Policy
from benchmarks import harness
from benchmarks.program import Output, Photographs, check_positive, check_size, head, parse
from precompute.base.errors import BadValue, UserError
from precompute.base.options import group, option, option_of
from precompute.base.program import main

TRAININGS = 4
EPOCHS = ("first epoch", "second epoch")
INSIDE = "files on disk to batches of two normalised views"
_START = "import runpy, sys; runpy.run_path(sys.argv[1])['serve']()"


@dataclass(frozen=True)
class CachesSettings:
    """The program's settings and their only defaults."""

    photographs: Photographs = group(Photographs, "photographs")
    batch: int = option(32, "source images of a batch")
    size: int = option_of(Policy, "size")
    scene: str = option_of(Policy, "scene")
    repeats: int = option(5, "repeats of every arm, arms taking turns")
    older: str | None = option(None, "folder of another checkout, whose stream is measured beside ours")
    output: Output = group(Output, "result")

    def __post_init__(self) -> None:
        check_positive(self, "batch", "repeats")
        check_size(self.size)
        if self.scene not in SCENES:
            raise BadValue("scene", self.scene, SCENES)


class Worker:
    """A process that goes through the epochs of one loader after the other."""

    def __init__(self, settings: CachesSettings, checkout: Path) -> None:
        own = checkout / ".venv" / "bin" / "python"
        here = Path(__file__).resolve()
        python = sys.executable if checkout == here.parent.parent or not own.exists() else str(own)
        self._values = {
            "boxes": str(Path(settings.photographs.box_file).resolve()),
            "root": str(settings.photographs.cache().folder(settings.photographs.root).resolve()),
            "batch": settings.batch, "size": settings.size, "scene": settings.scene, "epochs": len(EPOCHS),
        }  # fmt: skip
        self._process = subprocess.Popen(
            [python, "-P", "-c", _START, str(here.with_name("caches_worker.py"))],
            cwd=checkout, env=os.environ | {"PYTHONPATH": str(checkout)}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def tell(self, line: str = "") -> None:
        """Sends a line."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def told(self) -> str:
        """The next line that it says. UserError where it has ended."""
        assert self._process.stdout is not None
        if not (line := self._process.stdout.readline()):
            raise UserError("a process of the benchmark has ended; its message is above")
        return line.strip()

    def open(self, cache: str, folder: Path | None, seed: int) -> None:
        """Makes it open a loader."""
        self.tell(json.dumps(self._values | {"cache": cache, "folder": folder and str(folder), "seed": seed}))

    def end(self) -> None:
        """Ends it."""
        self._process.kill()
        self._process.communicate()


def program(argv: list[str] | None = None) -> int:
    """Parses the command line, runs the loaders, prints; exit status 0 done, 1 failed, 2 usage."""
    settings = parse(CachesSettings, "benchmarks.caches", __doc__, argv)
    settings.output.deliver([measure(settings)], table)
    return 0


def measure(settings: CachesSettings) -> dict[str, Any]:
    """The result. UserError where pictures were decoded more than once, or views of a warm file decoded any."""
    cpu: dict[str, list[float]] = {}
    wall: dict[str, list[float]] = {}
    decoded: dict[str, list[int]] = {}
    images = len(settings.photographs.cache())
    samples = images // settings.batch * settings.batch
    with _workers(settings) as (workers, older), tempfile.TemporaryDirectory(dir=_folder(settings)) as folder:
        for repeat in range(-1, settings.repeats):  # the first is a warm-up
            for name, cache, some in _turn(workers, older, repeat):
                if name == "disk, first run":
                    shutil.rmtree(folder, ignore_errors=True)
                    Path(folder).mkdir()
                done = _epochs(some, cache, Path(folder) if cache == "disk" else None, seed=repeat + 1)
                for k, epoch in enumerate(EPOCHS):
                    key = f"{'before' if some == [older] else 'ours'}: {name}, {epoch}"
                    for values, column in ((cpu, 0), (wall, 1)):
                        values.setdefault(key, []).append(1e3 * sum(d[column][k] for d in done) / samples)
                    decoded.setdefault(key, []).append(sum(d[2][k] - (d[2][k - 1] if k else 0) for d in done))
            settings.output.progress(f"repeat {repeat + 1} of {settings.repeats} done")
    arms = [
        {"name": name, "inside": INSIDE, "samples": samples, "cpu_ms": harness.spread(cpu[name][1:]),
         "wall_ms": harness.spread(wall[name][1:]), "decoded": decoded[name][1:]}
        for name in cpu
    ]  # fmt: skip
    ratios = {f"{a} / {b}": harness.spread([x / y for x, y in zip(cpu[a][1:], cpu[b][1:], strict=True)])
              for a, b in _pairs(cpu)}  # fmt: skip
    return head("caches", settings, "cpu_ms", images=images) | {"arms": arms, "ratios": ratios}


def _turn(workers: Sequence[Worker], older: Worker | None, repeat: int) -> Iterator[tuple[str, str, list[Worker]]]:
    """(name, cache, processes) of every arm; every other turn goes backwards; the file is made before it is read."""
    one, all_of_them = [workers[0]], list(workers)
    arms: list[Any] = [("off", "off", one), ("ram", "ram", one), ("disk, first run", "disk", one)]
    arms += [("off", "off", [older])] if older else []
    arms += [
        ("disk, second run", "disk", one),
        ("four ram", "ram", all_of_them),
        ("four shared", "shared", all_of_them),
    ]
    if repeat % 2:
        first, second = arms.index(("disk, first run", "disk", one)), arms.index(("disk, second run", "disk", one))
        arms[first], arms[second] = arms[second], arms[first]
        arms.reverse()
    return iter(arms)


def _epochs(some: Sequence[Worker], cache: str, folder: Path | None, seed: int) -> list[Any]:
    """What each process says of its loader: CPU seconds, seconds, and decodes so far of each epoch."""
    for k, worker in enumerate(some):
        worker.open(cache, folder, TRAININGS * seed + k)
    for worker in some:
        worker.told()
    for worker in some:
        worker.tell()
    done = [json.loads(worker.told()) for worker in some]
    for worker in some:
        worker.tell()
    for worker in some:
        worker.told()
    return done


def _pairs(names: Sequence[str] | dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The comparisons that are asked for, where both were measured."""
    first, second = EPOCHS
    for a, b in (
        (f"before: off, {first}", f"ours: disk, second run, {first}"),
        (f"ours: off, {first}", f"ours: disk, second run, {first}"),
        (f"ours: disk, first run, {first}", f"ours: ram, {first}"),
        (f"ours: disk, first run, {second}", f"ours: ram, {second}"),
        (f"ours: disk, second run, {second}", f"ours: ram, {second}"),
        (f"ours: four shared, {first}", f"ours: four ram, {first}"),
        (f"ours: four shared, {second}", f"ours: four ram, {second}"),
    ):
        if a in names and b in names:
            yield a, b


@contextmanager
def _workers(settings: CachesSettings) -> Iterator[tuple[list[Worker], Worker | None]]:
    running: list[Worker] = []
    try:
        running.extend(Worker(settings, Path(__file__).resolve().parent.parent) for _ in range(TRAININGS))
        if settings.older:
            running.append(Worker(settings, Path(settings.older).resolve()))
        yield running[:TRAININGS], running[TRAININGS] if settings.older else None
    finally:
        for worker in running:
            worker.end()


def _folder(settings: CachesSettings) -> Path:
    return Path(settings.photographs.box_file).resolve().parent


def table(document: dict[str, Any]) -> str:
    """The result as text: an arm a line, then the ratios."""
    lines = [f"\n{'':38} {'CPU ms a sample':>16}  {'lowest-highest':>16}   decoded"]
    for arm in document["arms"]:
        ms, decoded = arm["cpu_ms"], sorted(set(arm["decoded"]))
        lines.append(
            f"{arm['name']:38} {ms['median']:16.3f}  {ms['low']:7.3f}-{ms['high']:<8.3f}   "
            + "-".join(map(str, (decoded[0], *decoded[1:][-1:])))
        )
    lines.append("")
    for name, ratio in document["ratios"].items():
        lines.append(f"{ratio['median']:5.2f} ({ratio['low']:.2f}-{ratio['high']:.2f})  {name}")
    return "\n".join(lines)


if __name__ == "__main__":
    main(program)
