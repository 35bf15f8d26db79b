"""Measuring: interleaved repeats, CPU seconds of the whole process tree, and the facts that a figure needs.

Why it is done so: benchmarks/README.md.
"""

import gc
import math
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from precompute.base.program import cores

LIBRARIES = (
    "torch", "torchvision", "nvidia-dali-cuda130", "nvidia-dali-cuda120", "kornia", "numpy", "h5py", "pillow",
    "opencv-python-headless", "albumentations", "albumentationsx", "lightly", "ray", "pyarrow",
)  # fmt: skip


@dataclass
class Arm:
    """Something to measure: `work()` does `samples` samples of the job and returns when they are done.

    Several works are the parts of one job; together they do the `samples`, and other arms take turns between them.
    `inside` says what is inside the timer.
    `before()` runs untimed ahead of every part, to bring background work to a defined state.
    `after()` waits for background work and returns the seconds at the end of the wait in which nothing worked.
    """

    name: str
    work: Callable[[], object] | Sequence[Callable[[], object]]
    samples: int
    inside: str = ""
    after: Callable[[], float] = lambda: 0.0
    before: Callable[[], object] = lambda: None
    cpu: list[float] = field(default_factory=list)  # CPU seconds of the process tree, one a repeat
    wall: list[float] = field(default_factory=list)  # seconds, one a repeat

    @property
    def parts(self) -> Sequence[Callable[[], object]]:
        """The job's parts, in order."""
        return (self.work,) if callable(self.work) else self.work

    @property
    def cpu_ms(self) -> list[float]:
        """CPU milliseconds per sample, one a repeat."""
        return [1e3 * s / self.samples for s in self.cpu]

    @property
    def wall_ms(self) -> list[float]:
        """Milliseconds on the clock per sample, one a repeat."""
        return [1e3 * s / self.samples for s in self.wall]


def tree_cpu_seconds() -> float:
    """CPU seconds of this process, its ended children and its living descendants (DataLoader workers)."""
    return sum(process_and_family_seconds())


def process_and_family_seconds() -> tuple[float, float]:
    """CPU seconds of this process, and those of its ended children and its living descendants."""
    return time.process_time(), _family_seconds()


def _family_seconds() -> float:
    """CPU seconds of ended children and, on systems with /proc, of living descendants."""
    parents: dict[int, tuple[int, int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
        except OSError:  # ended in between
            continue
        parents[int(entry.name)] = int(fields[1]), sum(map(int, fields[11:15]))
    family, total = {os.getpid()}, 0
    while grown := {pid for pid, (parent, _) in parents.items() if parent in family} - family:
        family |= grown
        total += sum(parents[pid][1] for pid in grown)
    ended = os.times()
    return ended.children_user + ended.children_system + total / os.sysconf("SC_CLK_TCK")


def measure(arms: Sequence[Arm], repeats: int, say: Callable[[str], None] = lambda _: None) -> None:
    """Runs every arm once untimed, then `repeats` times in turns; fills `cpu` and `wall` of each."""
    for arm in arms:
        for part in arm.parts:
            arm.before()
            part()
        arm.after()
    # Objects of the warm-ups (a compiler's) must not count: one garbage collection of them takes 0.4 s.
    gc.collect()
    gc.freeze()
    turns = max(len(arm.parts) for arm in arms)
    for repeat in range(repeats):
        for arm in arms:
            arm.cpu.append(0.0)
            arm.wall.append(0.0)
        for turn in range(turns):
            # Every other turn goes backwards, so that no arm always follows the same one.
            for arm in arms if (repeat * turns + turn) % 2 == 0 else reversed(arms):
                for part in arm.parts[turn : turn + 1]:
                    arm.before()
                    cpu, wall = timed(part, arm.after)
                    arm.cpu[-1] += cpu
                    arm.wall[-1] += wall
        say(f"repeat {repeat + 1} of {repeats} done")
    gc.unfreeze()


def timed(part: Callable[[], object], after: Callable[[], float]) -> tuple[float, float]:
    """CPU seconds of the process tree and seconds on the clock of one part of an arm's job."""
    family = _family_seconds()  # reading /proc takes a millisecond or two, which must not count as the arm's
    own, wall = time.process_time(), time.perf_counter()
    part()
    idle = after()
    wall = time.perf_counter() - wall - idle
    own = time.process_time() - own
    return own + _family_seconds() - family, wall


def settle(
    look_every: float = 0.05,
    idle: float = 0.01,
    most: float = math.inf,
    spent: Callable[[], float] = tree_cpu_seconds,
) -> float:
    """Waits until this process and its descendants do next to nothing, such as loaders that have made batches ahead.

    Then every repeat pays for as many batches as it takes. Idle means less than `idle` CPU seconds in `look_every`
    seconds; it ends after `most` seconds in any case. Returns the seconds at the end in which nothing was done.
    `spent`: the CPU seconds so far of those that are waited for, where these are others.
    """
    until, before = time.perf_counter() + most, spent()
    while True:
        began = time.perf_counter()
        time.sleep(look_every)
        now = spent()
        if now - before < idle or began > until:
            return time.perf_counter() - began
        before = now


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Median, quartiles, lowest and highest, and the values themselves. Raises ValueError where there are none."""
    if not values:
        raise ValueError("no values were measured")
    low, _, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    quartiles = {"median": statistics.median(values), "q25": low, "q75": high}
    return quartiles | {"low": min(values), "high": max(values), "values": list(values)}


def row(arm: Arm) -> dict[str, Any]:
    """The arm as a result has it."""
    spreads = {"cpu_ms": spread(arm.cpu_ms), "wall_ms": spread(arm.wall_ms)}
    return {"name": arm.name, "inside": arm.inside, "samples": arm.samples, **spreads}


def ratio(peer: Arm, ours: Arm, unit: str = "cpu_ms") -> dict[str, Any]:
    """How many times `ours` fits into `peer`, by `cpu_ms` or `wall_ms`, repeat by repeat (they ran side by side)."""
    return spread([p / o for p, o in zip(getattr(peer, unit), getattr(ours, unit), strict=True)])


def ratios(arms: Sequence[Arm], unit: str) -> dict[str, Any]:
    """`ratio` of every arm that is not ours to every one of ours, by "NAME / NAME"."""
    ours = [arm for arm in arms if arm.name.startswith("ours")]
    return {f"{p.name} / {o.name}": ratio(p, o, unit) for p in arms if p not in ours for o in ours}


def facts() -> dict[str, Any]:
    """What a reader needs to judge a figure: machine, versions, commit, memory (resident: the most so far)."""
    versions, cuda = {"python": platform.python_version()}, _cuda()
    for name in LIBRARIES:
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return {
        "machine": {
            "processor": _processor(),
            "cores": cores(),
            "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
            "gpu": cuda and cuda.get_device_name(),
            "system": f"{platform.system()} {platform.machine()}",
        },
        "versions": versions,
        "commit": commit(Path(__file__).resolve().parents[1]),
        "peak_memory_mib": round(_peak_memory_mib(), 1),
        "gpu_memory_mib": gpu_memory_mib(),
    }


def _peak_memory_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def resident_memory_mib() -> float:
    """Resident memory of this process now (its peak, on systems without /proc)."""
    if not (statm := Path("/proc/self/statm")).exists():
        return _peak_memory_mib()
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def gpu_memory_mib() -> float | None:
    """GPU memory in use by all processes and libraries (DALI too); None without a GPU."""
    if (cuda := _cuda()) is None:
        return None
    free, total = cuda.mem_get_info()
    return round((total - free) / 2**20, 1)


def _cuda() -> Any:
    """torch.cuda where there is a GPU, else None; torch is not imported for this question alone."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_available() else None


def _processor() -> str:
    """Its name and, on x86, its widest vector instructions, which a name like "AMD EPYC" does not show."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.exists() else ""
    name, flags = ("".join(re.findall(rf"^{key}\s*: *(.*)", text, re.M)[:1]) for key in ("model name", "flags"))
    vectors = next((f" ({v})" for f, v in (("avx512f", "AVX-512"), ("avx2", "AVX2")) if f in flags.split()), "")
    return (name or platform.processor() or "unknown") + vectors


def commit(checkout: Path) -> str:
    """A checkout's commit, with "+changes" where its code differs from it; "unknown" outside of a checkout."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(checkout), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        packages = ("augment", "precompute", "trainer", "benchmarks")
        changes = git("status", "--porcelain", "--", *(f"{package}/*.py" for package in packages))
        return git("rev-parse", "--short=12", "HEAD") + ("+changes" if changes else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
