"""How many pictures a second DALI's decoder gives, alone, by its settings.

python -m benchmarks.decoder --boxes cache/cub.h5 --root data/CUB_200_2011 --threads 1 2
python -m benchmarks.decoder --device cuda --batch 256 --threads 4 8 16 --loads 0.65 0.8 0.9 1
python -m benchmarks.decoder --device cuda --batch 256 --threads 8 --regions rrc

Settings: how chroma is upsampled (fancy is what libjpeg does), threads, and on CUDA the share of a batch that the
hardware decoder gets. With --regions also whole pictures beside what two views of that policy read of them; where that
gives more pictures: "region": true among the settings in the box file's .decoder.json. Each repeat goes through all
settings, every other one backwards. A line is printed for each measurement at once, so that a run that is cut off
leaves what it had.
"""

import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from augment.views.kinds import KINDS
from benchmarks import harness, results
from benchmarks.harness import Arm
from benchmarks.program import JobSettings, Output, Photographs, head, parse
from precompute.base.options import group, option
from precompute.base.program import main

WARM = 3  # batches before the clock starts: at least the depth of the pipeline's queue


@dataclass(frozen=True)
class DecoderSettings:
    """The program's settings and their only defaults."""

    photographs: Photographs = group(Photographs, "photographs")
    batch: int = option(32, "pictures of a run", least=1)
    batches: int = option(8, "runs of one measurement", least=1)
    repeats: int = option(2, "measurements of each setting", least=1)
    threads: tuple[int, ...] = option((1,), "threads of the decoder", least=1)
    loads: tuple[float, ...] = option(
        (), "shares of the hardware decoder, CUDA; default 0.65 (DALI's)", least=0, most=1
    )
    regions: str | None = option(None, "also decode only what two views of this policy read", choices=tuple(KINDS))
    device: str = option("cpu", "where pictures are decoded to", choices=("cpu", "cuda"))
    output: Output = group(Output, "result")


def program(argv: list[str] | None = None) -> int:
    """Measures and prints; exit status 0 done, 1 failed, 2 usage."""
    settings = parse(DecoderSettings, "benchmarks.decoder", __doc__, argv)
    document = measure(settings, lambda line: print(json.dumps(line), flush=True))
    settings.output.deliver([document], table)
    if not settings.output.json:
        print(json.dumps(document, allow_nan=False))
    return 0


def measure(settings: DecoderSettings, say: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """The result. `say` is told of every measurement."""
    import torch

    from augment.views.policy import Policy
    from benchmarks.job import make_job

    cuda = settings.device == "cuda"
    images = settings.photographs.images()
    job = replace(JobSettings(), device=settings.device, batch=min(settings.batch, len(images)), batches=1)
    job = replace(job, batches=min(settings.batches, len(images) // job.batch))
    work = make_job(images, Policy(name=settings.regions or Policy.name), job)
    wait = torch.cuda.synchronize if cuda else lambda: None
    loads = (settings.loads or (0.65,)) if cuda else (0.0,)
    arms, parts = [], {}
    regions = (False, True) if settings.regions else (False,)
    for fancy, load, threads, region in itertools.product((True, False), loads, settings.threads, regions):
        name = f"{'fancy' if fancy else 'plain'} upsampling, {threads} threads" + (f", load {load:g}" if cuda else "")
        name += f", regions of {settings.regions}" if region else ""
        way = {"load": load, "threads": threads, "fancy": fancy, "region": region}
        part = parts[name] = Part(work, way, settings.batches, wait)
        samples = settings.batches * job.batch
        arms.append(Arm(name, part, samples, "JPEG bytes in memory to decoded pictures", before=part.warm))
    for repeat in range(settings.repeats):
        for arm in arms if repeat % 2 == 0 else reversed(arms):
            arm.before()
            cpu, wall = harness.timed(arm.parts[0], lambda: 0.0)
            parts[arm.name].close()
            arm.cpu.append(cpu)
            arm.wall.append(wall)
            say({"arm": arm.name, "images_per_second": round(arm.samples / wall, 1), "cpu_ms": arm.cpu_ms[-1]})
    shown = head("decoder", settings, "wall_ms", batch=job.batch)
    return shown | {"arms": [harness.row(arm) for arm in arms], "ratios": {}}


class Part:
    """The runs of one measurement, by a pipeline that is built for it and goes when it is over."""

    def __init__(self, work: Any, way: dict[str, Any], count: int, wait: Callable[[], object]):
        self._work, self._way, self._count, self._wait = work, way, count, wait
        self._batches: Iterator[Any] = iter(())

    def warm(self) -> None:
        """Builds the pipeline and fills its queue."""
        from benchmarks.stream import decoded

        self._batches = decoded(self._work, **self._way)
        for _ in range(WARM):
            next(self._batches)
        self._wait()

    def __call__(self) -> None:
        for _ in range(self._count):
            next(self._batches)
        self._wait()

    def close(self) -> None:
        """Frees the pipeline."""
        self._batches = iter(())


def table(document: dict[str, Any]) -> str:
    """The result as text, fastest first."""
    rows = results.rows(document)
    return "\n".join(f"{name:44} {1e3 / ms:10.1f} images/s" for name, ms, *_ in rows)


if __name__ == "__main__":
    main(program)
