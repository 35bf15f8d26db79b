"""What a training step costs: with live views, with one frozen batch, and beside lightly's BYOL loop on that batch.

    python -m benchmarks.step                                   # the demo set, a narrow net on a CPU
    python -m benchmarks.step --boxes cache/cub.h5 --root data/CUB_200_2011 --arch resnet50 --size 224 --json

Live over frozen tells what the views cost the trainer; it is 1.00 where the loader keeps up. Batches made ahead while
others had their turn are used up before the timer starts, and nothing is made ahead in the time of others. Arms take
turns; on CUDA the figure is wall-clock time, on a CPU CPU time, since other programs may share the cores.
"""

import dataclasses
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.program import check_size
from precompute.base.errors import UserError
from precompute.base.options import Parser, add_options, as_json, option, read_options
from precompute.base.program import check_out, main
from trainer.config.choices import Hardware, let_idle_threads_sleep
from trainer.config.run import RunConfig

if TYPE_CHECKING:
    from benchmarks.harness import Arm
    from trainer.engine.data import Data

LIVE, FROZEN = "ours: cvsa, live views", "ours: cvsa, frozen batch"
OURS, PEER = "ours: byol, frozen batch", "lightly: byol, frozen batch"


@dataclass(frozen=True)
class Config:
    """The command's settings and their only defaults."""

    dataset: str | None = option(None, "name of a data set whose boxes are in cache/NAME.h5")
    boxes: str | None = option(None, "box file made by precompute.boxes")
    root: str | None = option(None, "image folder that the box file's paths are relative to")
    split: str = option("train", "split of the views")
    arch: str | None = option(None, "encoder; default resnet50 on CUDA, else resnet10w16")
    size: int | None = option(None, "side of a view in pixels; default 224 on CUDA, else 64")
    batch_size: int | None = option(None, "source images per step; default 256 on CUDA, else 32")
    optimizer: str = option(
        "lars", "optimizer of all arms; lightly's arm takes lightly's LARS", choices=("lars", "sgd")
    )
    amp: str = option("auto", "autocast of all arms", choices=("auto", "off", "bf16", "fp16"))
    compile: bool = option(False, "torch.compile our networks")
    pipeline: str = option("auto", "what makes the views", choices=("auto", "dali", "kornia", "fused"))
    cache: str = option("off", "keep decoded pictures from epoch to epoch", choices=("off", "ram", "gpu"))
    workers: int | None = option(None, "threads of the pipeline; default: the machine's cores")
    device: str = option("auto", "auto, cpu, cuda or cuda:N")
    steps: int | None = option(None, "steps per repeat; default 30 on CUDA, else 10")
    repeats: int = option(5, "repeats of every arm, in turns")
    out: str | None = option(None, "write the result to this .json file")
    json: bool = option(False, "print the result as one JSON document at the end")

    def __post_init__(self) -> None:
        for name in ("steps", "repeats", "size", "batch_size"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"--{name.replace('_', '-')} {value}: must be 1 or more")
        check_size(self.size)


def program(argv: list[str] | None = None) -> int:
    """Measures and prints; exit status 0 done, 1 failed, 2 usage."""
    let_idle_threads_sleep()
    parser = Parser("benchmarks.step", __doc__)
    add_options(parser, Config)
    config = read_options(Config, parser.parse_args(argv))
    check_out(config.out)

    from benchmarks.harness import measure
    from benchmarks.results import save
    from trainer.config.choices import find_hardware
    from trainer.engine.data import open_data

    hardware, _ = find_hardware(config.device)
    config = _decided(config, hardware)
    data = open_data(config.dataset, config.boxes, config.root, print)
    with ExitStack() as stack:
        bench = make_arms(config, data, hardware, stack)
        measure(bench.arms, config.repeats, say=lambda text: print(text, flush=True))
        document = result(config, bench, hardware)
    _show(document)
    if config.out:
        save(document, config.out)
        print(f"written: {config.out}")
    if config.json:
        print(json.dumps(document, allow_nan=False))
    return 0


def _decided(config: Config, hardware: Hardware) -> Config:
    """The config with what depends on the device filled in."""
    cuda = hardware.device.startswith("cuda")
    arch, size, batch, steps = ("resnet50", 224, 256, 30) if cuda else ("resnet10w16", 64, 32, 10)
    return dataclasses.replace(
        config, arch=config.arch or arch, size=config.size or size, batch_size=config.batch_size or batch,
        steps=config.steps or steps,
    )  # fmt: skip


@dataclass(frozen=True)
class Bench:
    """The arms, and by the name of each what is inside its timer, the FLOPs of its step per source image, and its peak
    of memory on the GPU so far (nothing on a CPU).
    """

    arms: list["Arm"]
    inside: dict[str, str]
    flops: dict[str, float]
    memory: dict[str, float]
    skipped: dict[str, str]  # the peer, where it is not installed, and why


def make_arms(config: Config, data: "Data", hardware: Hardware, stack: ExitStack) -> Bench:
    """The arms for the loader, the networks and the peer that `config` asks for."""
    import torch

    from benchmarks.harness import Arm
    from benchmarks.lightly_loop import lightly_byol
    from trainer.engine.cost import step_flops

    torch.backends.cudnn.benchmark = True
    ours = {method: _run_config(config, method) for method in ("cvsa", "byol")}
    states = {method: _state(run, data, hardware, stack) for method, run in ours.items()}
    state = states["cvsa"]
    live = _without_end(state.loader)
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
        FROZEN: (step("cvsa", _repeat(frozen)), "cvsa", "the whole step on one batch"),
        OURS: (step("byol", _repeat(frozen)), "byol", "the whole step on the same batch"),
    }
    skipped: dict[str, str] = {}
    try:
        peer = lightly_byol(config.arch, config.optimizer, state.settings, amp, hardware)
        text = f"lightly's BYOL example, its modules and {config.optimizer}, on the same batch"
        steps[PEER] = lambda: peer(frozen.views), "byol", text
    except UserError as error:
        skipped[PEER] = str(error)
        print(f"skipped: {PEER}: {error}", flush=True)

    memory: dict[str, float] = {}
    made_ahead = state.loader.prefetch + 2
    arms = []
    for name, (run, _, _) in steps.items():
        before = _warmed(run, live, made_ahead, hardware) if name == LIVE else _settled(hardware)
        work = _work(run, config.steps, hardware, lambda peak, name=name: memory.update({name: peak}))
        arms.append(Arm(name, work, config.steps * state.settings.batch_size, before=before))
    inside = {name: f"{text}; {config.arch}, {config.size} px, autocast {amp}" for name, (_, _, text) in steps.items()}
    return Bench(arms, inside, {name: flops[method] for name, (_, method, _) in steps.items()}, memory, skipped)


def _run_config(config: Config, method: str) -> RunConfig:
    """The settings of `trainer.run` for one of our arms."""
    return RunConfig.of(
        method=method, arch=config.arch, size=config.size, batch_size=config.batch_size, optimizer=config.optimizer,
        amp=config.amp, compile=config.compile, pipeline=config.pipeline, device=config.device, epochs=100_000,
        train_split=config.split, workers=config.workers, cache=config.cache, evaluate=False,
    )  # fmt: skip


def _state(run: RunConfig, data: "Data", hardware: Hardware, stack: ExitStack) -> Any:
    """The state that `trainer.run` would begin with."""
    from trainer.engine.start import prepare, unsaid
    from trainer.parallel.distributed import Process

    return stack.enter_context(prepare(run, data, hardware, Process(), unsaid))[0]


def _our_step(state: Any, batch: Any, amp: str, device: str) -> None:
    from trainer.train import advance, autocast_of

    advance(state, batch, autocast_of(amp, device))


def _work(
    step: Callable[[], object], steps: int, hardware: Hardware, tell: Callable[[float], object]
) -> Callable[[], None]:
    """`steps` steps, done when it returns; `tell` takes the peak of memory in GiB that they needed of the GPU."""

    from trainer.engine.cost import peak_memory, restart_peak_memory

    def work() -> None:
        restart_peak_memory(hardware.device)
        for _ in range(steps):
            step()
        _synchronize(hardware)
        if hardware.device.startswith("cuda"):
            tell(peak_memory(hardware.device) or 0.0)

    return work


def _warmed(
    step: Callable[[], object], batches: Iterator[Any], made_ahead: int, hardware: Hardware
) -> Callable[[], None]:
    """Uses up what was made ahead and steps on until as much lies ready as does at this pace."""

    def before() -> None:
        for _ in range(made_ahead):
            next(batches)
        for _ in range(made_ahead):
            step()
        _synchronize(hardware)

    return before


def _settled(hardware: Hardware) -> Callable[[], None]:
    """Waits until what the loader makes ahead is made, so that it takes nothing from this arm's time."""

    from benchmarks.scopes import settle

    def before() -> None:
        settle()
        _synchronize(hardware)

    return before


def _synchronize(hardware: Hardware) -> None:
    if hardware.device.startswith("cuda"):
        import torch

        torch.cuda.synchronize(hardware.device)


def result(config: Config, bench: Bench, hardware: Hardware) -> dict[str, Any]:
    """The measured arms as a result document."""
    from benchmarks.harness import facts, ratio, spread
    from benchmarks.results import SCHEMA
    from trainer.engine.cost import peak_flops

    # GPU steps are judged by the clock; on a CPU that others use by CPU time, in which live views count in full.
    unit = "wall_ms" if hardware.device.startswith("cuda") else "cpu_ms"
    arms, flops = bench.arms, bench.flops
    amp = bench.inside[LIVE].rsplit(" ", 1)[1]
    peak = peak_flops(hardware.name, amp)
    rows = []
    for arm in arms:
        spreads = {"cpu_ms": spread(arm.cpu_ms), "wall_ms": spread(arm.wall_ms)}
        rate = 1e3 / spreads["wall_ms"]["median"]
        rows.append(
            {
                "name": arm.name, "inside": bench.inside[arm.name], "samples": arm.samples, **spreads,
                "images_per_second": rate,
                "gflops_per_image": flops[arm.name] / 1e9,
                "gflops_per_second": rate * flops[arm.name] / 1e9,
                "mfu": None if peak is None else rate * flops[arm.name] / peak,
                **({"gpu_memory_gib": round(bench.memory[arm.name], 2)} if bench.memory else {}),
            }
        )  # fmt: skip
    by_name = {arm.name: arm for arm in arms}
    ratios = {}
    for label, above, below in (("live / frozen", LIVE, FROZEN), ("lightly / ours, byol", PEER, OURS)):
        for kind, of in (("wall", "wall_ms"), ("CPU", "cpu_ms")):
            if above in by_name:
                ratios[f"{label}, {kind}"] = ratio(by_name[above], by_name[below], of)
    return {
        "schema": SCHEMA, "benchmark": "step", "unit": unit, "settings": as_json(config), **facts(),
        "skipped": bench.skipped, "arms": rows, "ratios": ratios,
    }  # fmt: skip


def _show(document: dict[str, Any]) -> None:
    for arm in document["arms"]:
        wall, mfu = arm["wall_ms"], arm["mfu"]
        print(
            f"{arm['name']:<28} {wall['median']:8.3f} ms a source image ({wall['q25']:.3f}-{wall['q75']:.3f}), CPU "
            f"{arm['cpu_ms']['median']:.3f} ms; {arm['images_per_second']:.1f} images/s, "
            f"{arm['gflops_per_second']:.1f} GFLOP/s"
            + ("" if mfu is None else f", MFU {mfu:.1%}")
            + (f", {memory} GiB at most" if (memory := arm.get("gpu_memory_gib")) else "")
        )
    for name, values in document["ratios"].items():
        print(f"{name:<28} {values['median']:8.3f}  ({values['q25']:.3f}-{values['q75']:.3f})")


def _repeat(batch: Any) -> Iterator[Any]:
    while True:
        yield batch


def _without_end(loader: Any) -> Iterator[Any]:
    while True:
        yield from loader


if __name__ == "__main__":
    main(program)
