"""The fused backend's Triton kernels: compiled ahead of time without a GPU; run and timed on one.

python -m benchmarks.kernels --archs 80 90 100 --every   # machine code: registers, spills, shared memory
python -m benchmarks.kernels --run --device cuda --batch 256 --boxes cache/cub.h5 --root data/CUB_200_2011
python -m benchmarks.kernels --run --size 16   # on a CPU, in Triton's interpreter: the time says nothing

Compiled are the launches that the backend really makes (`benchmarks.launches`); with --device cuda they are compiled
for that GPU and launched there too. Timed is each launch of one real batch, alone, again and again, by CUDA's events.
(The interpreter takes three small pictures.)
"""

import dataclasses
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from augment.views.policy import Policy
from benchmarks import harness
from benchmarks.program import JobSettings, Photographs, check_device, parse
from precompute.base.errors import UserError
from precompute.base.options import group, option, option_of
from precompute.base.program import main

if TYPE_CHECKING:
    from augment.backends.decoded import Picture
    from augment.views.plan import Plan
    from benchmarks.launches import Launch


@dataclass(frozen=True)
class KernelsSettings:
    """The program's settings and their only defaults."""

    photographs: Photographs = group(Photographs, "photographs")
    archs: tuple[int, ...] = option((90,), "compute capabilities to compile for: 80, 90, 100; on CUDA its own")
    every: bool = option(False, "every specialisation; default: one of every kernel and set of constants")
    run: bool = option(False, "run and time the launches of one batch instead")
    device: str = option("cpu", "where they run", choices=("cpu", "cuda"))
    batch: int = option(256, "source images of the batch", least=1)
    size: int = option_of(Policy, "size")
    repeats: int = option(20, "timed launches of each kernel", least=1)


def program(argv: list[str] | None = None) -> int:
    """Prints a JSON line a kernel; exit status 0 done, 1 one is at fault, 2 usage."""
    settings = parse(KernelsSettings, "benchmarks.kernels", __doc__, argv)
    check_device(settings.device)
    if settings.run:
        if settings.device == "cpu":
            os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported
        return run(settings)
    if os.environ.get("TRITON_INTERPRET") == "1":
        raise UserError("TRITON_INTERPRET=1 is set, and Triton's interpreter does not compile: leave it out")
    return compile_all(settings)


def compile_all(settings: KernelsSettings) -> int:
    """Compiles for all GPUs that are asked for; on CUDA launches too."""
    import torch

    from benchmarks import launches

    cuda = settings.device == "cuda"
    archs, wrong = settings.archs, 0
    if cuda:
        major, minor = torch.cuda.get_device_capability()
        archs = (10 * major + minor,)
    made = launches.recorded()
    for arch in archs:
        for launch in made if settings.every else launches.few(made):
            began = time.perf_counter()
            line: dict[str, Any] = {"kernel": str(launch), "arch": arch}
            try:
                code = launch.compiled(arch)
                line |= dataclasses.asdict(code) | {"faults": launch.faults(code)}
            except Exception as error:  # the compiler's own; the other kernels still count
                line |= {"faults": [f"{type(error).__name__}: {error}"]}
            print(json.dumps(line | {"seconds": round(time.perf_counter() - began, 2)}), flush=True)
            wrong += bool(line["faults"])
    if cuda:
        wrong += _launch_all()
    return int(wrong > 0)


def _launch_all() -> int:
    """Launches every specialisation on the GPU; returns how many calls failed. Whether views are right: parity.py."""
    import torch

    from benchmarks import launches

    wrong = done = 0
    for work in launches.all_works("cuda"):
        try:
            made = work()
            torch.cuda.synchronize()
            faults = [] if all(torch.isfinite(view).all() for view in made) else ["a view is not finite"]
        except Exception as error:  # the other works still count, unless the device is lost
            faults = [f"{type(error).__name__}: {error}"]
        done, wrong = done + 1, wrong + bool(faults)
        if faults:
            print(json.dumps({"work": str(work), "faults": faults}), flush=True)
            if wrong >= 3:
                break
    print(json.dumps({"launched": done, "at_fault": wrong}), flush=True)
    return wrong


def run(settings: KernelsSettings) -> int:
    """Times every launch of one batch, both meanings of colour, in the dtypes that trainers take."""
    from benchmarks import launches
    from benchmarks.roofline import count

    cuda = settings.device == "cuda"
    print(json.dumps(harness.facts()), flush=True)
    batch_of = _photographs(settings) if cuda else _small(settings.size)
    for colour, dtype in (("linear", "float32"), ("linear", "bfloat16"), ("torchvision", "float32")):
        policy, plan, pictures = batch_of(colour)
        kept: list[Launch] = []
        with launches.intercepted(lambda *parts, kept=kept: kept.append(launched(launches.Launch(*parts)))):
            launches.views(policy, plan, pictures, dtype, settings.device)
        repeats = settings.repeats if cuda else 1
        times = {launch.name: harness.spread((_by_events if cuda else _by_clock)(launch, repeats)) for launch in kept}
        moved, _ = count(plan, 4 if dtype == "float32" else 2)
        of_all = sum(spread["median"] for spread in times.values())
        line = {"colour": colour, "dtype": dtype, "batch": len(plan), "views": plan.views, "ms": times}
        print(json.dumps(line | {"all_ms": of_all, "least_bytes": moved}), flush=True)
    return 0


def _photographs(settings: KernelsSettings) -> "Callable[[str], tuple[Policy, Plan, list[Picture]]]":
    """A real batch for each meaning of colour, decoded on the CPU."""
    from benchmarks.job import make_job
    from benchmarks.launches import decoded_picture

    job = dataclasses.replace(JobSettings(), device=settings.device, batch=settings.batch, batches=1)
    work = make_job(settings.photographs.images(), Policy(size=settings.size), job)
    pictures = [decoded_picture(data, settings.device) for data in work.files[0]]
    return lambda colour: (work.policy(colour), work.plans[colour][0], pictures)


def _small(size: int) -> "Callable[[str], tuple[Policy, Plan, list[Picture]]]":
    """Three small pictures, for the interpreter."""
    from benchmarks.launches import small

    def batch(colour: str) -> "tuple[Policy, Plan, list[Picture]]":
        policy = Policy(size=size, colour=colour, blur_sigma=(0.1, 1.0))
        plan, pictures, _ = small(policy, 0, "cpu")
        return policy, plan, pictures

    return batch


def launched(launch: "Launch") -> "Launch":
    """The launch, made once."""
    launch()
    return launch


def _by_events(work: Callable[[], object], repeats: int) -> list[float]:
    import torch

    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(repeats)]
    torch.cuda.synchronize()
    for first, last in events:
        first.record()
        work()
        last.record()
    torch.cuda.synchronize()
    return [first.elapsed_time(last) for first, last in events]


def _by_clock(work: Callable[[], object], repeats: int) -> list[float]:
    return [1e3 * harness.timed(work, lambda: 0.0)[1] for _ in range(repeats)]


if __name__ == "__main__":
    main(program)
