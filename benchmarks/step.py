"""What a training step costs: with live views, with one frozen batch, and beside lightly's BYOL loop on that batch.

    python -m benchmarks.step                                   # the demo set, a narrow net on a CPU
    python -m benchmarks.step --boxes cache/cub.h5 --root data/CUB_200_2011 --arch resnet50 --size 224 --json

Live over frozen is what the views cost the trainer: 1.00 where the loader keeps up. Batches made ahead while other arms
had their turn are used up before the timer starts, and none is made ahead in other arms' time. Arms take turns; on CUDA
the figure is wall-clock time, on a CPU CPU time, since other programs may share the cores.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from augment.stream.request import Making, Source
from benchmarks.program import Output, Photographs, check_positive, check_size, head, parse
from precompute.base.errors import UserError
from precompute.base.options import group, option, option_of
from precompute.base.program import main
from trainer.config.choices import Hardware, let_idle_threads_sleep
from trainer.config.run import RunConfig

if TYPE_CHECKING:
    from benchmarks.harness import Arm
    from trainer.engine.data import Data

LIVE, FROZEN = "ours: cvsa, live views", "ours: cvsa, frozen batch"
OURS, PEER = "ours: byol, frozen batch", "lightly: byol, frozen batch"


@dataclass(frozen=True)
class StepSettings:
    """The program's settings and their only defaults."""

    photographs: Photographs = group(Photographs, "photographs")
    split: str = option_of(Source, "split")
    arch: str | None = option(None, "encoder; default resnet50 on CUDA, else resnet10w16")
    size: int | None = option(None, "side of a view in pixels; default 224 on CUDA, else 64")
    batch_size: int | None = option(None, "source images per step; default 256 on CUDA, else 32")
    optimizer: str = option(
        "lars", "optimizer of all arms; lightly's arm takes lightly's LARS", choices=("lars", "sgd")
    )
    amp: str = option("auto", "autocast of all arms", choices=("auto", "off", "bf16", "fp16"))
    compile: bool = option(False, "torch.compile our networks")
    pipeline: str = option_of(Making, "backend")
    cache: str = option_of(Making, "cache")
    workers: int | None = option_of(Making, "workers")
    device: str = option_of(Making, "device")
    steps: int | None = option(None, "steps per repeat; default 30 on CUDA, else 10")
    repeats: int = option(5, "repeats of every arm, in turns")
    output: Output = group(Output, "result")

    def __post_init__(self) -> None:
        check_positive(self, "steps", "repeats", "batch_size")
        check_size(self.size)


def program(argv: list[str] | None = None) -> int:
    """Measures and prints; exit status 0 done, 1 failed, 2 usage."""
    let_idle_threads_sleep()
    config = parse(StepSettings, "benchmarks.step", __doc__, argv)

    from benchmarks.harness import measure
    from trainer.config.choices import find_hardware
    from trainer.engine.data import open_data

    hardware, _ = find_hardware(config.device)
    config = _decided(config, hardware)
    data = open_data(config.photographs.dataset, config.photographs.boxes, config.photographs.root, config.output.say)
    with ExitStack() as stack:
        bench = make_arms(config, data, hardware, stack)
        measure(bench.arms, config.repeats, say=config.output.say)
        document = result(config, bench, hardware)
    config.output.deliver(document, table)
    return 0


def _decided(config: StepSettings, hardware: Hardware) -> StepSettings:
    """The settings, complete: the rest depends on the device."""
    cuda = hardware.device.startswith("cuda")
    arch, size, batch, steps = ("resnet50", 224, 256, 30) if cuda else ("resnet10w16", 64, 32, 10)
    return dataclasses.replace(
        config, arch=config.arch or arch, size=config.size or size, batch_size=config.batch_size or batch,
        steps=config.steps or steps,
    )  # fmt: skip


@dataclass(frozen=True)
class Bench:
    """The arms, and facts about each by its name."""

    arms: list["Arm"]
    inside: dict[str, str]  # the timer
    flops: dict[str, float]  # of a step, per source image
    memory: dict[str, float]  # GiB that the GPU needed at most so far; empty on a CPU
    skipped: dict[str, str]  # the peer, where it is not installed, and why
    amp: str  # autocast of all arms


def make_arms(config: StepSettings, data: "Data", hardware: Hardware, stack: ExitStack) -> Bench:
    """The arms for the loader, the networks and the peer that `config` asks for."""
    import torch

    from benchmarks.harness import Arm
    from benchmarks.lightly_loop import lightly_byol
    from benchmarks.scopes import endless
    from trainer.engine.cost import step_flops

    torch.backends.cudnn.benchmark = True
    ours = {method: _run_config(config, method) for method in ("cvsa", "byol")}
    states = {method: _state(run, data, hardware, stack) for method, run in ours.items()}
    state = states["cvsa"]
    live = endless(state.loader)
    frozen = next(live)
    assert config.size is not None
    assert config.steps is not None
    assert config.arch is not None
    flops = {method: step_flops(s.method, config.size) for method, s in states.items()}
    amp = state.settings.amp

    def step(method: str, batches: Iterator[Any]) -> Callable[[], object]:
        return lambda: _our_step(states[method], next(batches), amp, hardware.device)

    steps = {
        LIVE: (step("cvsa", live), "cvsa", "views made while training, and the whole step"),
        FROZEN: (step("cvsa", itertools.repeat(frozen)), "cvsa", "the whole step on one batch"),
        OURS: (step("byol", itertools.repeat(frozen)), "byol", "the whole step on the same batch"),
    }
    skipped: dict[str, str] = {}
    try:
        peer = lightly_byol(config.arch, config.optimizer, state.settings, amp, hardware)
        text = f"lightly's BYOL example, its modules and {config.optimizer}, on the same batch"
        steps[PEER] = lambda: peer(frozen.views), "byol", text
    except UserError as error:
        skipped[PEER] = str(error)
        config.output.say(f"skipped: {PEER}: {error}")

    memory: dict[str, float] = {}
    made_ahead = state.loader.prefetch + 2
    arms = []
    for name, (run, _, _) in steps.items():
        before = _warmed(run, live, made_ahead, hardware) if name == LIVE else _settled(hardware)
        work = _work(run, config.steps, hardware, lambda peak, name=name: memory.update({name: peak}))
        arms.append(Arm(name, work, config.steps * state.settings.batch_size, before=before))
    inside = {name: f"{text}; {config.arch}, {config.size} px, autocast {amp}" for name, (_, _, text) in steps.items()}
    of_arms = {name: flops[method] for name, (_, method, _) in steps.items()}
    return Bench(arms, inside, of_arms, memory, skipped, amp)


def _run_config(config: StepSettings, method: str) -> RunConfig:
    """The configuration of `trainer.run` for one of our arms."""
    return RunConfig.of(
        method=method, arch=config.arch, size=config.size, batch_size=config.batch_size, optimizer=config.optimizer,
        amp=config.amp, compile=config.compile, pipeline=config.pipeline, device=config.device, epochs=100_000,
        train_split=config.split, workers=config.workers, cache=config.cache, evaluate=False,
    )  # fmt: skip


def _state(run: RunConfig, data: "Data", hardware: Hardware, stack: ExitStack) -> Any:
    """The state that `trainer.run` would begin with."""
    from precompute.base.ranks import Process
    from trainer.engine.start import prepare, unsaid

    return stack.enter_context(prepare(run, data, hardware, Process(), unsaid))[0]


def _our_step(state: Any, batch: Any, amp: str, device: str) -> None:
    from trainer.train import advance, autocast_of

    advance(state, batch, autocast_of(amp, device))


def _work(
    step: Callable[[], object], steps: int, hardware: Hardware, keep: Callable[[float], object]
) -> Callable[[], None]:
    """Takes `steps` steps and waits for their end; `keep` gets the GPU memory that they needed at most, in GiB."""
    from trainer.engine.cost import peak_memory, restart_peak_memory

    def work() -> None:
        restart_peak_memory(hardware.device)
        for _ in range(steps):
            step()
        _synchronize(hardware)
        if hardware.device.startswith("cuda"):
            keep(peak_memory(hardware.device) or 0.0)

    return work


def _warmed(
    step: Callable[[], object], batches: Iterator[Any], made_ahead: int, hardware: Hardware
) -> Callable[[], None]:
    """Uses up the batches made ahead and steps on until as many are ready as usual at this pace."""

    def before() -> None:
        for _ in range(made_ahead):
            next(batches)
        for _ in range(made_ahead):
            step()
        _synchronize(hardware)

    return before


def _settled(hardware: Hardware) -> Callable[[], None]:
    """Waits until the loader has made its batches ahead, so that they take nothing from this arm's time."""
    from benchmarks.scopes import settle

    def before() -> None:
        settle()
        _synchronize(hardware)

    return before


def _synchronize(hardware: Hardware) -> None:
    if hardware.device.startswith("cuda"):
        import torch

        torch.cuda.synchronize(hardware.device)


def result(config: StepSettings, bench: Bench, hardware: Hardware) -> dict[str, Any]:
    """The measured arms as a result."""
    from benchmarks.harness import ratio, row
    from trainer.engine.cost import peak_flops

    # The clock judges GPU steps; on a CPU, which others may use, CPU time does, in which live views count in full.
    unit = "wall_ms" if hardware.device.startswith("cuda") else "cpu_ms"
    peak = peak_flops(hardware.name, bench.amp)
    rows = []
    for arm in bench.arms:
        measured, flops = row(arm, bench.inside[arm.name]), bench.flops[arm.name]
        rate = 1e3 / measured["wall_ms"]["median"]
        more = {
            "images_per_second": rate,
            "gflops_per_image": flops / 1e9,
            "gflops_per_second": rate * flops / 1e9,
            "mfu": None if peak is None else rate * flops / peak,
        }
        memory = {"gpu_memory_gib": round(bench.memory[arm.name], 2)} if bench.memory else {}
        rows.append(measured | more | memory)
    by_name = {arm.name: arm for arm in bench.arms}
    ratios = {}
    for label, above, below in (("live / frozen", LIVE, FROZEN), ("lightly / ours, byol", PEER, OURS)):
        for kind, of in (("wall", "wall_ms"), ("CPU", "cpu_ms")):
            if above in by_name:
                ratios[f"{label}, {kind}"] = ratio(by_name[above], by_name[below], of)
    return head("step", config, unit) | {"skipped": bench.skipped, "arms": rows, "ratios": ratios}


def table(document: dict[str, Any]) -> str:
    """The result as text: a line an arm, a line a ratio."""
    lines = []
    for arm in document["arms"]:
        wall, mfu = arm["wall_ms"], arm["mfu"]
        lines.append(
            f"{arm['name']:<28} {wall['median']:8.3f} ms a source image ({wall['q25']:.3f}-{wall['q75']:.3f}), CPU "
            f"{arm['cpu_ms']['median']:.3f} ms; {arm['images_per_second']:.1f} images/s, "
            f"{arm['gflops_per_second']:.1f} GFLOP/s"
            + ("" if mfu is None else f", MFU {mfu:.1%}")
            + (f", {memory} GiB at most" if (memory := arm.get("gpu_memory_gib")) else "")
        )
    for name, values in document["ratios"].items():
        lines.append(f"{name:<28} {values['median']:8.3f}  ({values['q25']:.3f}-{values['q75']:.3f})")
    return "\n".join(lines)


if __name__ == "__main__":
    main(program)
