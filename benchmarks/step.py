"""What a training step costs: with live views, with one frozen batch, and beside lightly's BYOL loop on that batch.

    python -m benchmarks.step                                   # the demo set, a narrow net on a CPU
    python -m benchmarks.step --boxes cache/cub.h5 --root data/CUB_200_2011 --arch resnet50 --size 224 --json
    python -m benchmarks.step --boxes cache/cub.h5 --root data/CUB_200_2011 --modes eager default reduce-overhead

Live over frozen is what the views cost the trainer: 1.00 where the loader keeps up. Batches made ahead while other arms
had their turn are used up before the timer starts, and none is made ahead in other arms' time.

With --modes the same frozen step is measured with the networks run in each of these ways: as they are, and compiled.
The result names the fastest (`choice`) and the flags of trainer.run that ask for it.
"""

import dataclasses
import itertools
import statistics
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from augment.request import Making, Source
from augment.views.policy import LARGEST, SMALLEST
from benchmarks.harness import Arm, measure, ratio, row, settle
from benchmarks.program import Output, Photographs, head, parse
from precompute.base.errors import UserError
from precompute.base.options import group, option, option_of
from precompute.base.program import main
from trainer.config.choices import Hardware, find_hardware, let_idle_threads_sleep
from trainer.config.run import ModelConfig, RunConfig, RunOptions

if TYPE_CHECKING:
    from trainer.engine.data import Data
    from trainer.engine.state import TrainingState

MODES = ("eager", "default", "reduce-overhead")  # but for the first those of --compile-mode
LIVE, FROZEN = "ours: live views", "ours: frozen batch"
OURS, PEER = "ours: byol, frozen batch", "lightly: byol, frozen batch"


@dataclass(frozen=True)
class StepSettings:
    """The program's settings and their only defaults."""

    photographs: Photographs = group(Photographs, "photographs")
    split: str = option_of(Source, "split")
    method: str = option_of(ModelConfig, "method", help="training method of our arms")
    arch: str | None = option(None, "encoder; default resnet50 on CUDA, else resnet10w16")
    size: int | None = option(
        None, "side of a view in pixels; default 224 on CUDA, else 64", least=SMALLEST, most=LARGEST
    )
    batch_size: int | None = option(None, "source images per step; default 256 on CUDA, else 32", least=1)
    optimizer: str = option(
        "lars", "optimizer of all arms; lightly's arm takes lightly's LARS", choices=("lars", "sgd")
    )
    amp: str = option("auto", "autocast of all arms", choices=("auto", "off", "bf16", "fp16"))
    compile: bool = option(False, "torch.compile our networks")
    compile_mode: str = option_of(RunOptions, "compile_mode")
    modes: tuple[str, ...] = option((), "measure these ways to run the networks instead", choices=MODES)
    pipeline: str = option_of(Making, "backend")
    cache: str = option_of(Making, "cache")
    workers: int | None = option_of(Making, "workers")
    device: str = option_of(Making, "device")
    steps: int | None = option(None, "steps per repeat; default 30 on CUDA, else 10", least=1)
    repeats: int = option(5, "repeats of every arm, in turns", least=1)
    output: Output = group(Output, "result")


@dataclass
class StepArm(Arm):
    """Training steps of one network."""

    flops: float = 0.0  # of a step, per source image
    peak: float | None = None  # FLOP/s that the device can do at most, where they are known
    memory: float = 0.0  # GiB that the GPU needed at most so far


def program(argv: list[str] | None = None) -> int:
    """Measures and prints; exit status 0 done, 1 failed, 2 usage."""
    let_idle_threads_sleep()
    config = parse(StepSettings, "benchmarks.step", __doc__, argv)

    import torch

    from trainer.engine.data import open_data

    hardware, _ = find_hardware(config.device)
    cuda = hardware.device.startswith("cuda")
    usual = ("resnet50", 224, 256, 30) if cuda else ("resnet10w16", 64, 32, 10)
    values = zip(("arch", "size", "batch_size", "steps"), usual, strict=True)
    config = dataclasses.replace(config, **{name: getattr(config, name) or value for name, value in values})
    data = open_data(config.photographs.dataset, config.photographs.boxes, config.photographs.root, config.output.say)
    torch.backends.cudnn.benchmark = True
    with ExitStack() as stack:
        make = mode_arms if config.modes else make_arms
        arms, skipped = make(config, data, hardware, stack)
        measure(arms, config.repeats, say=config.output.say)
        document = result(config, arms, hardware) | {"skipped": skipped}
    config.output.deliver([document], table)
    return 0


def make_arms(
    config: StepSettings, data: "Data", hardware: Hardware, stack: ExitStack
) -> tuple[list[StepArm], dict[str, str]]:
    """The arms that `config` asks for; the peer where it is not installed, and why."""
    from benchmarks.lightly_loop import lightly_byol
    from benchmarks.scopes import endless
    from trainer.train import advance, autocast_of

    states = {
        method: _state(config, method, data, hardware, stack) for method in dict.fromkeys((config.method, "byol"))
    }
    loader, settings = states[config.method].loader, states[config.method].settings
    autocast = autocast_of(settings.amp, hardware.device)
    live = endless(loader)
    frozen = next(live)

    def ours(method: str, batches: Iterator[Any]) -> Callable[[], object]:
        return lambda: advance(states[method], next(batches), autocast)

    def arm(name: str, method: str, step: Callable[[], object], text: str) -> StepArm:
        return step_arm(name, states[method], step, text, config, hardware)

    live_step, same = ours(config.method, live), itertools.repeat(frozen)
    arms = [
        arm(LIVE, config.method, live_step, f"{config.method}: views made while training, and the whole step"),
        arm(FROZEN, config.method, ours(config.method, same), f"{config.method}: the whole step on one batch"),
        arm(OURS, "byol", ours("byol", same), "the whole step on the same batch"),
    ]
    arms[0].before = partial(_warm, live_step, live, loader.prefetch + 2, partial(_wait, hardware))
    try:
        peer = lightly_byol(states["byol"].config.model.arch, config.optimizer, settings, hardware)
    except UserError as error:
        config.output.say(f"skipped: {PEER}: {error}")
        return arms, {PEER: str(error)}
    text = f"lightly's BYOL example, its modules and {config.optimizer}, on the same batch"
    return [*arms, arm(PEER, "byol", lambda: peer(frozen.views), text)], {}


def step_arm(
    name: str, state: "TrainingState", step: Callable[[], object], text: str, config: StepSettings, hardware: Hardware
) -> StepArm:
    """The arm of a step of that state's networks."""
    from trainer.engine.cost import peak_flops, peak_memory, restart_peak_memory, step_flops

    assert config.steps is not None
    steps, settings = range(config.steps), state.settings

    def before() -> None:
        settle()  # the loader has made its batches ahead, and takes nothing from this arm's time
        _wait(hardware)

    def work() -> None:
        restart_peak_memory(hardware.device)
        for _ in steps:
            step()
        _wait(hardware)
        if hardware.device.startswith("cuda"):
            made.memory = peak_memory(hardware.device) or 0.0

    inside = f"{text}; {config.arch}, {config.size} px, autocast {settings.amp}"
    flops, peak = step_flops(state.method, state.config.views.size), peak_flops(hardware.name, settings.amp)
    made = StepArm(name, work, len(steps) * settings.batch_size, inside, before=before, flops=flops, peak=peak)
    return made


def mode_arms(
    config: StepSettings, data: "Data", hardware: Hardware, stack: ExitStack
) -> tuple[list[StepArm], dict[str, str]]:
    """An arm for each of `config.modes`, on the same batch; those whose first step fails, and why."""
    from benchmarks.scopes import endless
    from trainer.train import advance, autocast_of

    arms, skipped, frozen = [], {}, None
    for mode in config.modes:
        compiled = {"compile": mode != "eager", "compile_mode": "default" if mode == "eager" else mode}
        state = _state(dataclasses.replace(config, **compiled), config.method, data, hardware, stack)
        frozen = next(endless(state.loader)) if frozen is None else frozen
        step = partial(advance, state, frozen, autocast_of(state.settings.amp, hardware.device))
        try:
            step()
        except Exception as error:  # the compiler's: the other ways are worth their figures
            skipped[way(mode)] = f"{type(error).__name__}: {error}".splitlines()[0]
            config.output.say(f"skipped: {way(mode)}: {skipped[way(mode)]}")
        else:
            arms.append(
                step_arm(way(mode), state, step, f"{config.method}: the whole step on one batch", config, hardware)
            )
    if not arms:
        raise UserError(f"no way to run the networks could make a step: {skipped}")
    return arms, skipped


def way(mode: str) -> str:
    """The name of an arm of `mode_arms`."""
    return f"ours: {mode if mode == 'eager' else f'compiled ({mode})'}, frozen batch"


def _wait(hardware: Hardware) -> None:
    import torch

    if hardware.device.startswith("cuda"):
        torch.cuda.synchronize(hardware.device)


def _state(config: StepSettings, method: str, data: "Data", hardware: Hardware, stack: ExitStack) -> "TrainingState":
    """The state that `trainer.run` would begin with."""
    from precompute.base.ranks import Process
    from trainer.engine.start import prepare, unsaid

    same = ("arch", "size", "batch_size", "optimizer", "amp", "compile", "compile_mode", "pipeline", "device",
            "workers", "cache")  # fmt: skip
    options = {name: getattr(config, name) for name in same}
    run = RunConfig.of(method=method, epochs=100_000, train_split=config.split, evaluate=False, **options)
    return stack.enter_context(prepare(run, data, hardware, Process(), unsaid))[0]


def _warm(step: Callable[[], object], batches: Iterator[Any], made_ahead: int, wait: Callable[[], object]) -> None:
    """Uses up the batches made ahead and steps on until as many are ready as usual at this pace."""
    for _ in range(made_ahead):
        next(batches)
    for _ in range(made_ahead):
        step()
    wait()


def result(config: StepSettings, arms: list[StepArm], hardware: Hardware) -> dict[str, Any]:
    """The measured arms as a result."""
    # The clock judges GPU steps; on a CPU, which others may use, CPU time does, in which live views count in full.
    unit = "wall_ms" if hardware.device.startswith("cuda") else "cpu_ms"
    rows = []
    for arm in arms:
        measured = row(arm)
        rate = 1e3 / measured["wall_ms"]["median"]
        measured |= {
            "images_per_second": rate,
            "gflops_per_image": arm.flops / 1e9,
            "gflops_per_second": rate * arm.flops / 1e9,
            "mfu": arm.peak and rate * arm.flops / arm.peak,
        }
        rows.append(measured | ({"gpu_memory_gib": round(arm.memory, 2)} if arm.memory else {}))
    by_name = {arm.name: arm for arm in arms}
    ratios = {
        f"{label}, {kind}": ratio(by_name[above], by_name[below], of)
        for label, above, below in (("live / frozen", LIVE, FROZEN), ("lightly / ours, byol", PEER, OURS))
        for kind, of in (("wall", "wall_ms"), ("CPU", "cpu_ms"))
        if above in by_name
    }
    return head("step", config, unit) | {"arms": rows, "ratios": ratios} | chosen(config, arms, unit)


def chosen(config: StepSettings, arms: list[StepArm], unit: str) -> dict[str, Any]:
    """Of ways to run the networks the fastest, and the flags of trainer.run for it."""
    if not config.modes:
        return {}
    best = min(arms, key=lambda arm: statistics.median(getattr(arm, unit)))
    mode = next(mode for mode in config.modes if way(mode) == best.name)
    flags = {"eager": "", "default": "--compile"}.get(mode, f"--compile --compile-mode {mode}")
    return {"choice": mode, "flags": flags}


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
