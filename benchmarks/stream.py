"""A long stream of views: its rate against bare decoding, its stutter, and whether its memory stays flat.

python -m benchmarks.stream --boxes cache/cub.h5 --root data/CUB_200_2011 --batches 100
python -m benchmarks.stream --device cuda --batch 256 --batches 1000 --threads 16     # what a GPU is judged by

Arms, taking turns, a part of the stream each time:
  decode only   DALI's decoder on the same files in memory, runs queued ahead (on CUDA: at several hardware loads)
  ours          the whole loader from files, per backend
  ours, cached  the loader with decoded pictures kept (fused), from its second epoch on
  peers         Kornia and plain DALI operators on the same device, files in memory
Rates are by the clock, with all of the machine's threads at work. For costs see benchmarks.throughput.
"""

import itertools
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from benchmarks import harness
from benchmarks.harness import Arm
from benchmarks.peers import Peer, find_able
from benchmarks.program import JobSettings, Output, Photographs, head, parse
from precompute.base.errors import BadValue
from precompute.base.options import group
from precompute.base.program import main

if TYPE_CHECKING:
    from benchmarks.job import Job

HARDWARE_LOADS = (0.65, 0.8, 0.9, 1.0)  # shares of a batch that the hardware decoder gets; the CPU has none


@dataclass(frozen=True)
class StreamSettings:
    """The program's settings and their only defaults."""

    photographs: Photographs = group(Photographs, "photographs")
    job: JobSettings = group(
        JobSettings,
        "job: --batches are those of a whole stream, --repeats the parts that it is cut into",
        backends=("fused:linear", "dali"),
        peers=("kornia", "plain dali"),
        batches=60,
        repeats=6,
    )
    output: Output = group(Output, "result")

    def __post_init__(self) -> None:
        if self.job.batches % self.job.repeats:
            raise BadValue("batches", self.job.batches, f"a multiple of --repeats {self.job.repeats}")


def program(argv: list[str] | None = None) -> int:
    """Parses the command line, runs the streams, prints; exit status 0 done, 1 failed, 2 usage."""
    settings = parse(StreamSettings, "benchmarks.stream", __doc__, argv)
    settings.output.deliver([measure(settings)], table)
    return 0


class Stream(Arm):
    """An arm that takes the next of endless batches; the time of each, and memory after each repeat."""

    ahead = 4  # batches that a loader may have made while others took their turn: at least its prefetch, and one

    def __init__(self, name: str, inside: str, batches: Iterator[Any], job: JobSettings) -> None:
        import torch

        self._batches, self._count = batches, job.batches // job.repeats
        super().__init__(name, self._part, self._count * job.batch, inside, self._note_memory, self._use_up)
        self._wait = torch.cuda.synchronize if job.device == "cuda" else lambda: None
        self.seconds: list[float] = []  # of each batch, on the clock; the warm-up's too
        self.memory: list[float] = []  # MiB in use after each repeat: the GPU's, or this process's

    def _use_up(self) -> None:
        """Waits until other streams have made their batches ahead, then takes those that this one has made."""
        harness.settle()
        for _ in range(self.ahead):
            next(self._batches)
        self._wait()

    def _part(self) -> None:
        for _ in range(self._count):
            began = time.perf_counter()
            next(self._batches)
            self._wait()
            self.seconds.append(time.perf_counter() - began)

    def _note_memory(self) -> float:
        """Returns the seconds that it took."""
        began = time.perf_counter()
        gpu = harness.gpu_memory_mib()
        self.memory.append(harness.resident_memory_mib() if gpu is None else gpu)
        return time.perf_counter() - began


def measure(settings: StreamSettings) -> dict[str, Any]:
    """The result."""
    import numpy as np
    import torch

    from augment.views.policy import Policy
    from benchmarks.job import make_job

    job = settings.job
    torch.set_num_threads(job.threads)
    images = settings.photographs.images()
    work = make_job(images, Policy(size=job.size), replace(job, batches=max(len(images) // job.batch, 1)))
    wanted, skipped = find_able(job.peers, settings.output.say)
    with ExitStack() as stack:
        streams = [Stream(name, inside, batches, job) for name, inside, batches in _sources(job, work, wanted, stack)]
        of = f"{job.batches} batches of {job.batch}, {len(images)} images"
        settings.output.say(f"{len(streams)} streams of {of}")
        harness.measure(streams, job.repeats, say=settings.output.progress)
    rows = []
    for stream in streams:
        p50, p99 = 1e3 * np.percentile(stream.seconds[-job.batches :], (50, 99), method="nearest")
        memory = [round(m, 1) for m in stream.memory[-job.repeats :]]
        rows.append(harness.row(stream) | {"batch_ms": {"p50": float(p50), "p99": float(p99)}, "memory_mib": memory})
    ceilings = [s for s in streams if s.name.startswith("decode only")]
    best = min(ceilings, key=lambda s: statistics.median(s.wall_ms))
    plans = work.plans["linear"]
    return head("stream", settings, "wall_ms") | {
        "images_per_sample": sum(len(p.images) for p in plans) / sum(len(p) for p in plans),
        "arms": rows,
        "ratios": harness.ratios([best, *(s for s in streams if s not in ceilings)], "wall_ms"),
        "ceiling": best.name,
        "skipped": skipped,
    }


def _sources(
    job: JobSettings, work: "Job", wanted: list[Peer], stack: ExitStack
) -> Iterator[tuple[str, str, Iterator[Any]]]:
    """(name, what is inside the timer, endless batches) of every arm."""
    from benchmarks.job import choose
    from benchmarks.scopes import endless, title, view_loader

    loads = {f"decode only (hardware load {load:g})": load for load in HARDWARE_LOADS}
    for name, load in (loads if job.device == "cuda" else {"decode only": 0.0}).items():
        yield name, "JPEG bytes in memory to decoded pictures", decoded(work, load)
    for name, colour in choose(job):
        loader, to_views = view_loader(work, name, colour, stack), "to batches of two normalised views"
        yield title(name, colour), f"files on disk {to_views}", endless(loader)
        if name == "fused":
            loader = view_loader(work, name, colour, stack, cached=True)
            yield f"{title(name, colour)}, cached", f"decoded pictures kept by the loader {to_views}", endless(loader)
    for peer in wanted:
        render = partial(peer.way(job.device).render, work.policy("torchvision"))
        batches = itertools.cycle(zip(work.plans["torchvision"], work.files, strict=True))
        yield peer.name, "JPEG bytes in memory to two normalised views", itertools.starmap(render, batches)


def decoded(
    work: "Job", load: float, depth: int = 3, threads: int | None = None, fancy: bool = True, region: bool = False
) -> Iterator[Any]:
    """Batches of the job's own images from DALI's decoder alone, `depth` runs queued ahead.

    `threads`: default the job's; `fancy`: how chroma is upsampled, see `augment.backends.dali_graph.decode`; `region`:
    only what views read.
    """
    import numpy as np

    from augment.backends.dali import pipeline_settings, within_parts
    from augment.backends.dali_graph import decode_graph
    from augment.backends.decoding import Decoding

    rows = max(len(plan) for plan in work.plans["linear"])
    decoding = Decoding(load=load, threads=threads or work.threads, fancy=fancy, region=region)
    own = {"prefetch_queue_depth": depth}
    pipe: Any = decode_graph(**pipeline_settings(work.device, rows, decoding.threads, decoding) | own)  # type: ignore[call-arg]
    pipe.build()
    # The sources: every image of the set once an epoch, as the loader decodes them.
    batches: list[dict[str, Any]] = []
    for plan, files in zip(work.plans["linear"], work.files, strict=True):
        batches.append({"encoded": [np.frombuffer(files[slot], np.uint8) for slot in plan.source_slot]})
        if region:
            part = within_parts(plan, not work.policy("linear").kind.pastes)[1][plan.source_slot]
            batches[-1] |= {"read_from": part[:, [1, 0]].copy(), "read_to": part[:, [3, 2]].copy()}
    feed = itertools.cycle(batches)

    def give() -> None:
        for name, value in next(feed).items():
            pipe.feed_input(name, value)

    for _ in range(depth - 1):
        give()
    while True:  # the first run starts as many as are fed; every later run starts one more
        give()
        yield pipe.run()


def table(document: dict[str, Any]) -> str:
    """The result as text, a line an arm: rate, its share of the best bare decoder's rate, stutter, memory."""
    cost = {arm["name"]: arm["wall_ms"]["median"] for arm in document["arms"]}
    ceiling = cost[document["ceiling"]]
    lines = [f"\n{'':38} {'images/s':>9} {'of decode':>10} {'p99/p50':>8}   memory MiB, first and last part"]
    for arm in document["arms"]:
        name, batch, memory = arm["name"], arm["batch_ms"], arm["memory_mib"]
        lines.append(
            f"{name:38} {1e3 / cost[name]:9.1f} {ceiling / cost[name]:10.2f} {batch['p99'] / batch['p50']:8.2f}   "
            f"{memory[0]:.0f} -> {memory[-1]:.0f}"
        )
    lines.append(f"\nimages decoded for a sample where nothing is kept: {document['images_per_sample']:.3f}")
    return "\n".join(lines)


if __name__ == "__main__":
    main(program)
