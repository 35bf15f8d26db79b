"""The scopes of `benchmarks.service`; everything outside the timer is made beforehand."""

import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

from augment.request import Making
from benchmarks.goals import Goal, Measured, ServiceSettings
from benchmarks.harness import Arm
from benchmarks.peers import missing
from benchmarks.readers import Reader, Readers, ReadersArm, in_turns
from benchmarks.transports import CARRIERS
from precompute.base.errors import UserError

CARRIED = 16  # batches of a repeat
PAIR = ("byol:saliencyswap", "cvsa:saliencyswap")  # arms with the same views


def readers(
    settings: ServiceSettings, seeds: Iterable[int], stack: ExitStack, *, one_core: bool = False, **making: Any
) -> Readers:
    """A process for each seed, whose views are not opened yet; `one_core`: on the last core of the machine alone."""
    how = Making(backend="fused", device="cpu", workers=1, **making)
    cores = os.sched_getaffinity(0)
    given = {"source": settings.source(), "policy": settings.policy, "batch": settings.batch, "making": how}
    given["cores"] = {max(cores)} if one_core else cores
    return Readers(Reader, [given | {"seed": seed} for seed in seeds], stack)


def compared(alone: list[list[Any]], shared: list[list[Any]]) -> int:
    """How many batches are equal. UserError where one is not."""
    if alone != shared:
        raise UserError("views are not those of a training alone: a defect")
    return sum(map(len, alone))


def pictures(settings: ServiceSettings, stack: ExitStack) -> Measured:
    """Trainings with different seeds, their first epoch."""
    inside = f"{settings.trainings} trainings, different seeds, first epoch: files on disk to two normalised views"
    seen: dict[str, Any] = {"images": settings.images}

    def arm(name: str, cache: str) -> ReadersArm:
        group = readers(settings, range(settings.trainings), stack)
        arm = ReadersArm(name, group, settings.trainings * settings.images, inside, "read")
        arm.before = partial(group.tell, "open", {"cache": cache})
        decoded: list[int] = []
        seen[f"images decoded, {name}"] = decoded
        if cache == "ram":
            group.tell("open", {"cache": "off"})
            sums.extend(group.tell("sums"))
            group.tell("shut")

        def after() -> float:
            decoded.append(sum(group.tell("decoded")))
            seen[f"MiB of kept pictures, {name}"] = round(sum(group.tell("memory")))
            group.tell("shut")
            return 0.0

        arm.after = after
        return arm

    sums: list[list[int]] = []
    alone, ours = arm("pictures in the memory of each", "ram"), arm("ours: pictures in one file", "shared")
    ours.before()
    seen["batches equal to those of cache off"] = compared(sums, ours.readers.tell("sums"))
    ours.readers.tell("shut")
    in_turns([alone, ours], settings.repeats)
    goal = Goal("first epoch: one file / memory of each", ours, alone, 0.55)
    return Measured([alone, ours], [(alone, ours)], [goal], seen, {})


def batches(settings: ServiceSettings, stack: ExitStack) -> Measured:
    """Trainings of the same views, each batch made once."""
    inside = "files on disk to two normalised views; a sample of one training"
    alone = readers(settings, [0], stack)
    ring = readers(
        settings, [0] * settings.trainings, stack, ring=f"benchmark {os.getpid()}", ring_members=settings.trainings
    )
    for each in (alone, ring):
        each.tell("open", {})
    sums = alone.tell("sums")
    count = compared(sums * settings.trainings, ring.tell("sums"))
    one = ReadersArm("one training", alone, settings.images, inside, "read")
    ours = ReadersArm(f"ours: {settings.trainings} trainings, one ring", ring, settings.images, inside, "read")
    in_turns([one, ours], settings.repeats)
    counts: dict[str, int] = {}
    for status in ring.tell("status"):
        for name in ("shared_made", "shared_taken", "made_alone", "left_behind"):
            counts[name] = counts.get(name, 0) + status["ring"][name]
    seen = {
        "batches equal to those made alone": count,
        **{f"batches {k.replace('_', ' ')}": v for k, v in counts.items()},
    }
    goal = Goal(f"{settings.trainings} trainings in a ring / one training", ours, one, 1.15)
    return Measured([one, ours], [(one, ours)], [goal], seen, {})


def jobs(settings: ServiceSettings, stack: ExitStack) -> Measured:
    """Two arms of a comparison with the same views, side by side and one after the other."""
    inside = "trainings of two arms with the same views: CPU time of the threads that make views"
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    turn = (Trainings(settings, folder, inside, 1), Trainings(settings, folder, inside, 2))
    in_turns(turn, settings.repeats, warm=False)
    alone, ours = turn
    compared([alone.results], [ours.results])
    seen = {"runs with equal weights, to the bit": f"{len(set(ours.results))} of {len(PAIR)}"}
    goal = Goal("--jobs 2 / one run after the other", ours, alone, 0.6)
    return Measured([alone, ours], [(alone, ours)], [goal], seen, {})


class Trainings(Arm):
    """The runs of a comparison, `count` at a time."""

    def __init__(self, settings: ServiceSettings, folder: Path, inside: str, count: int) -> None:
        name = "two trainings, one after the other" if count == 1 else f"ours: two trainings, --jobs {count}"
        super().__init__(name, lambda: None, 0, inside)
        self.results: list[str] = []  # digests of the weights, of every run
        self._settings, self._folder, self._count = settings, folder, count

    def turn(self) -> None:
        """Trains both arms, and takes the times of their views."""
        from dataclasses import replace

        from trainer.comparison.arms import arm_of
        from trainer.comparison.jobs import side_by_side, waves

        s = self._settings
        epochs = -(-s.images // len(s.photographs.cache()))
        flags = [*s.photographs.flags(), "--train-split", "all", "--arch", "resnet10w8", "--size", s.size,
                 "--batch-size", s.batch, "--epochs", epochs, "--scene", s.scene, "--own", 0, "--device", "cpu",
                 "--workers", 1]  # fmt: skip
        with tempfile.TemporaryDirectory(dir=self._folder) as out:
            runs = []
            for name in PAIR:
                arm = arm_of(name, list(map(str, flags)), Path(out))
                runs.append((replace(arm, values=arm.values | {"evaluate": False}), 0))
            began = time.perf_counter()
            for wave in waves(runs, self._count):
                if side_by_side(counted, wave):
                    raise UserError(f"a training of the benchmark failed:\n{(Path(out) / 'log').read_text()[-2000:]}")
            self.wall.append(time.perf_counter() - began)
            trained = [json.loads(path.read_text()) for path in sorted(Path(out).glob("*/counted.json"))]
        self.cpu.append(sum(run["seconds"] for run in trained))
        self.samples = sum(run["samples"] for run in trained)
        self.results += [run["weights"] for run in trained]


def counted(arm: Any, seed: int, ring: tuple[str, int]) -> int:
    """One run of `trainer.compare`; a file says what the threads that make views took."""
    import hashlib

    from trainer.compare import run_one
    from trainer.comparison.arms import folder_of

    seconds, run = [], threading.Thread.run

    def measured(thread: threading.Thread) -> None:
        try:
            run(thread)
        finally:
            if thread.name.startswith("augment-"):
                seconds.append(time.thread_time())

    threading.Thread.run = measured  # type: ignore[method-assign]
    arm.out.mkdir(exist_ok=True)
    with open(arm.out / "log", "a") as log, redirect_stdout(log), redirect_stderr(log):
        status = run_one(arm, seed, ring)
    folder = folder_of(arm.name, seed, arm.out)
    if status == 0:
        weights = hashlib.sha256((folder / "encoder.safetensors").read_bytes()).hexdigest()
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        samples = arm.config(seed).schedule.batch_size * max(line["step"] for line in lines if line["kind"] == "step")
        figures = {"seconds": sum(seconds), "samples": samples, "weights": weights}
        (folder / "counted.json").write_text(json.dumps(figures))
    return status


def ray(settings: ServiceSettings, stack: ExitStack) -> Measured:
    """A training with a helper on Ray."""
    inside = "files on disk to two normalised views; the training's process, and all of Ray's"
    sums: list[list[int]] = []

    def arm(name: str, one_core: bool, **making: Any) -> ReadersArm:
        of = readers(settings, [0], stack, one_core=one_core, **making)
        of.tell("open", {})
        if "service" in making:
            of.tell("wait_for_helpers", 1)
        sums.extend(of.tell("sums"))
        where = "on one core" if one_core else "on all cores"
        return ReadersArm(f"{name}, {where}", of, settings.images, inside, "read")

    local, kept, ours = (
        arm("alone", True), arm("alone, pictures kept in memory", True, cache="ram"),
        arm("ours: a helper on Ray", True, service="ray"),
    )  # fmt: skip
    free, helped = arm("alone", False), arm("ours: a helper on Ray", False, service="ray")
    count = compared(sums[:1] * len(sums[1:]), sums[1:])
    in_turns([local, kept, ours, free, helped], settings.repeats)
    own = Arm("of it, the training's process", lambda: None, settings.images, inside, cpu=ours.own, wall=ours.wall)
    counts: dict[str, int] = {}
    for group in (ours, helped):
        (status,) = group.readers.tell("status")
        for key in ("made_there", "made_here", "late", "lost"):
            name = f"batches {key.replace('_', ' ')}"
            counts[name] = counts.get(name, 0) + status["service"][key]
    goals = [
        Goal("all processes with a helper / alone", ours, local, 1.15),
        Goal("the training's process with a helper / alone", own, local, 0.3),
    ]
    seen = {"batches equal to those made alone": count, **counts}
    pairs: list[tuple[Arm, Arm]] = [(local, ours), (kept, ours), (free, helped)]
    return Measured([local, kept, ours, own, free, helped], pairs, goals, seen, {})


def transport(settings: ServiceSettings, stack: ExitStack) -> Measured:
    """The same bytes from one process to another."""
    crops = crop_bytes(settings)
    inside = f"{crops / settings.batch / 1e3:.0f} kB of crops a sample, from memory of one process to that of another"
    arms, skipped = [], {}
    for name, (kind, needs) in CARRIERS.items():
        if why := missing(*needs):
            skipped[name] = why
            settings.output.say(f"skipped: {name}: {why}")
            continue
        group = Readers(kind, [{"count": crops}], stack)
        arm = ReadersArm(name, group, CARRIED * settings.batch, inside, "carry", CARRIED)
        # After another's turn nothing of this arm lies in the processor's caches.
        arm.before = partial(group.tell, "carry", CARRIED // 4)
        arms.append(arm)
    in_turns(arms, settings.repeats)
    ours = next((arm for arm in arms if arm.name.startswith("ours")), None)
    pairs = [(peer, ours) for peer in arms if ours is not None and peer is not ours]
    goals = [Goal(f"{ours.name} / {peer.name}", ours, peer, 0.5) for peer, ours in pairs]
    seen = {"MB of a batch": round(crops / 1e6, 1), "batches of a repeat": CARRIED}
    return Measured([*arms], [*pairs], goals, seen, skipped)


def crop_bytes(settings: ServiceSettings) -> int:
    """Bytes of the crops of the first batch."""
    from augment import open_views
    from augment.backends.layout import lay_out

    making = Making(backend="fused", device="cpu", workers=1, say=lambda line: None)
    given = {"policy": settings.policy, "batch_size": settings.batch, "making": making}
    with open_views(settings.source(), **given) as loader:
        plan = loader.schedule.plan(loader.images.pool, 0, 0)
        return lay_out(plan, shared=settings.scene == "whole", scenes_exist=False).total


SCOPES: dict[str, Callable[[ServiceSettings, ExitStack], Measured]] = {
    "pictures": pictures, "batches": batches, "jobs": jobs, "ray": ray, "transport": transport,
}  # fmt: skip
