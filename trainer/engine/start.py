"""The start of a run: from its configuration to networks, optimizer and views that are ready for the first step."""

import os
import platform
import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from augment import Share, Source, open_views
from augment.views.policy import Policy
from precompute.base.errors import UserError
from precompute.base.options import as_json
from precompute.base.program import count
from precompute.base.ranks import Process
from trainer.config.choices import Hardware, Settings, decide, find_hardware
from trainer.config.run import RunConfig
from trainer.engine.cost import restart_peak_memory
from trainer.engine.data import Data, open_data
from trainer.engine.meter import Meter
from trainer.engine.optim import build_optimizer
from trainer.engine.state import Saver, TrainingState
from trainer.methods.base import Method
from trainer.methods.byol import Alignment
from trainer.methods.dense import MOST_SIMILARITIES
from trainer.model.networks import Heads, Network, build_model, freeze_stages
from trainer.model.resnets import ONEDNN, build_encoder, feature_widths, grid_of
from trainer.model.weights import load_encoder
from trainer.parallel import collectives
from trainer.parallel.batchnorm import count_on_the_host, synchronise_batch_norm
from trainer.record import CHECKPOINT, FINDINGS, METRICS, metrics
from trainer.record.checkpoint import Resumed
from trainer.record.folder import run_folder
from trainer.record.metrics import Journal
from trainer.record.tensorboard import Board, require

Say = Callable[[str], None]
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class Run:
    """A run that is ready for its next step."""

    config: RunConfig
    settings: Settings
    hardware: Hardware
    process: Process
    data: Data
    held_out: str | None  # split of the evaluation at the end; None: none is wanted, or the set has none for it
    state: TrainingState
    journal: Journal
    saver: Saver
    out: Path
    say: Say  # prints a line, on rank 0


@contextmanager
def start(config: RunConfig, resumed: Resumed | None = None, notes: Iterable[str] = ()) -> Iterator[Run]:
    """The run of `config`, from its beginning or from a checkpoint; prints what was chosen, and `notes`.

    In the block the run's folder is locked and its loader open. UserError where the run cannot begin: then it leaves
    no folder behind.
    """
    if config.run.tensorboard:
        require()
    hardware, reasons = find_hardware(config.making.device)
    process = collectives.start(hardware.device)
    say = partial(print, flush=True) if process.first else unsaid
    restart_peak_memory(hardware.device)
    torch.backends.cudnn.benchmark = True  # shapes never change; without effect on the CPU
    with collectives.first_alone(process):
        data = open_data(config.data.dataset, config.data.boxes, config.data.root, say)
    for line in (*(f"chosen: {reason}" for reason in reasons), *(f"note: {note}" for note in notes)):
        say(line)
    out = Path(config.run.out)
    with (
        run_folder(out, resumed and resumed.path, process.first, say),
        prepare(config, data, hardware, process, say, fresh=resumed is None) as (state, held_out),
    ):
        say(described(state))
        board = Board(out) if config.run.tensorboard and process.first else None
        journal = Journal(out, board)
        saver = Saver(out, config.run.save_every, process.first)
        run = Run(config, state.settings, hardware, process, data, held_out, state, journal, saver, out, say)
        if resumed is not None:
            _go_on(run, resumed)
        if process.first:
            _open_journal(run, resumed)
        # Not over the previous checkpoint where that is the one that was good.
        saver.save(state, keep=resumed is None or resumed.path.name == CHECKPOINT)
        yield run


def rehearse(config: RunConfig, data: Data) -> Settings:
    """The settings of a run that is prepared in this process, without a folder. UserError where it could not begin."""
    hardware, _ = find_hardware(config.making.device)
    with prepare(config, data, hardware, Process(), unsaid) as (state, _):
        return state.settings


@contextmanager
def prepare(
    config: RunConfig, data: Data, hardware: Hardware, process: Process, say: Say, fresh: bool = True
) -> Iterator[tuple[TrainingState, str | None]]:
    """State and held-out split of a run before its first step; not `fresh`: to be filled from a checkpoint.

    UserError for everything that the run would end with, also in its evaluation, hours later.
    """
    held_out = data.held_out(config.data.train_split, config.data.eval_split) if config.run.evaluate else None
    if config.run.evaluate and held_out is None:
        say(f"chosen: no evaluation: {data.nothing_held_out}")
    if held_out is not None:
        data.check_classes(config.data.train_split, held_out, "leave the evaluation out: --no-evaluate")
    if held_out is not None and config.data.eval_split is None and (why := data.why(held_out)):
        say(f"chosen: {why}")
    if held_out is not None and config.maps_used and config.model.record.aligns:  # C maps are of views
        data.require_maps(config.maps_used, held_out)
    split = data.split(config.data.train_split, "train_split")
    network, settings, reasons = build_network(config, len(data.cache.indices(split)), hardware)
    for reason in reasons:
        say("chosen: " + reason)
    # By its path on a GPU: the decoder's measured settings lie beside the box file.
    boxes = data.boxes if hardware.device.startswith("cuda") else data.cache
    source = Source(boxes, data.root, split, config.data.backgrounds, config.data.own_backgrounds, config.maps_used)
    device, schedule = hardware.device, config.schedule
    making = replace(config.making, device=device, say=lambda line: say("views: " + line))
    if making.dtype is None:
        making = replace(making, dtype=dtype_of_views(settings.amp, device))
    if making.cache == "disk" and making.cache_dir is None:
        making = replace(making, cache_dir=data.boxes.parent)
    with open_views(
        source, policy=config.views, batch_size=settings.batch_size, seed=config.run.seed, making=making,
        share=Share(process.rank, process.world),
    ) as loader:  # fmt: skip
        # Some methods draw in the step, and runs of trainer.compare follow each other in one process.
        torch.manual_seed(config.run.seed)
        method = make_method(config, settings, network, say, fresh).to(device)
        if process.world > 1:
            synchronise_batch_norm(method, device)
            method.run_online_by(collectives.parallel(method.online, device))
        if device.startswith("cuda") and not config.run.compile:
            count_on_the_host(method)
        optimizer = build_optimizer(
            settings.optimizer, [method.online], settings.weight_decay, schedule.momentum, schedule.bias_lr
        )
        scaler = torch.amp.GradScaler(device.split(":")[0], enabled=settings.amp == "fp16")
        stages = config.model.record.mask_stages(config.loss.align_stages)
        grids = {stage: grid_of(network.encoder, config.views.size, stage) for stage in stages}
        yield TrainingState(config, settings, method, optimizer, scaler, loader, Meter(), grids), held_out


def dtype_of_views(amp: str, device: str) -> torch.dtype:
    """What views are handed over in: on CUDA what autocast would make of them before the first convolution anyway.

    To the network that is equal to the bit, and saves writing and reading them in float32.
    """
    return AUTOCAST[amp] if device.startswith("cuda") and amp != "off" else torch.float32


def build_network(config: RunConfig, images: int, hardware: Hardware) -> tuple[Network, Settings, list[str]]:
    """The online network on the CPU, initialised from the seed alone; the run's settings and the reasons for them."""
    torch.backends.mkldnn.enabled = ONEDNN  # type: ignore[assignment] - an earlier run here may have gone without
    record = config.model.record
    with torch.device("meta"):
        width = feature_widths(build_encoder(config.model.arch))[4]
    settings, reasons = decide(config, images, width, hardware)
    heads = Heads(
        dim=record.dim(config.model.dim),
        hidden=settings.hidden,
        conv_hidden=settings.conv_hidden,
        stages=config.loss.align_stages if record.aligns else (),
        predictor=record.predictor,
        direct=config.loss.control == "direct-head",
    )
    return build_model(config.model.arch, heads, config.run.seed), settings, reasons


def make_method(config: RunConfig, settings: Settings, network: Network, say: Say, fresh: bool = True) -> Method:
    """The method around its online network, which gets the weights of --init (a checkpoint holds all weights)."""
    model, record = config.model, config.model.record
    if model.init is not None and fresh:
        encoder, _, remark = load_encoder(model.init, model.arch)
        network.encoder.load_state_dict(encoder.state_dict())
        say(remark)
    freeze_stages(network, model.freeze_stages)
    alignment = Alignment(config.loss.alignment, config.loss.control) if record.aligns else None
    method = record.build(network, alignment, settings.queue, config.loss.matching, model)
    compile_networks(method, config.run.compiled)
    return method


def compile_networks(method: Method, mode: str | None) -> None:
    """Lets torch.compile run the networks in that mode, or not; what they compute and how they are saved stays."""
    for network in (method.online, method.target):
        if network is not None:
            network.compiled = mode


def _go_on(run: Run, resumed: Resumed) -> None:
    state = run.state
    state.restore(resumed)
    _check_data(run, resumed.path)
    run.saver.saved = state.step
    left = "" if state.step < run.settings.steps else ": nothing is left to train"
    run.say(f"resumed at step {state.step} of {run.settings.steps} from {resumed.path}{left}")
    if resumed.remark:
        run.say("note: " + resumed.remark)


def _check_data(run: Run, path: Path) -> None:
    """UserError where the run of the checkpoint `path` began with other data, as far as its metrics.jsonl tells."""
    rows = metrics.read(path.with_name(METRICS)) if path.with_name(METRICS).exists() else []
    was = next((row["about"].get("data", {}) for row in rows if row["kind"] == "config"), {})
    if other := run.data.other_than(was):
        raise UserError(
            f"--boxes {run.data.boxes}: {path} was trained with other {other}, and a continuation must keep them. "
            "Give the box file of then, or start a new run with another --out"
        )


def _open_journal(run: Run, resumed: Resumed | None) -> None:
    """Begins metrics.jsonl, or takes it back to the step that the run goes on from.

    What was found of another run in the folder, or of a later step, is removed.
    """
    if resumed is None or resumed.path.parent.resolve() != run.out.resolve() or run.state.step < run.settings.steps:
        for name in FINDINGS:
            (run.out / name).unlink(missing_ok=True)
    about = surroundings(run.data, run.config.views)
    header = {"config": as_json(run.config), "settings": as_json(run.settings), "about": about}
    if resumed is None:
        run.journal.begin(header)
        return
    was = about | run.journal.rewind(run.state.step, header, resumed.path.parent)["about"]  # older ones tell less
    if was["threads"] != about["threads"]:
        run.say(
            f"note: begun with {was['threads']} threads, now there are {about['threads']}; on a CPU only "
            f"OMP_NUM_THREADS={was['threads']} is bit-equal"
        )
    if was["world"] != about["world"]:
        run.say(
            f"note: begun with {count(was['world'], 'rank')}, now with {about['world']}; "
            "only as many as then are bit-equal"
        )


def described(state: TrainingState) -> str:
    """What is trained, in a few lines."""
    config, settings, grids = state.config, state.settings, state.grids
    parameters = sum(p.numel() for p in state.method.online.encoder.parameters())
    lines = [
        f"training: {config.model.method}, {config.model.arch} ({parameters / 1e6:.2f} M parameters), {settings.steps} "
        f"steps of {settings.batch_size} images in {count(config.schedule.epochs, 'epoch')}, {settings.optimizer}"
    ]
    if config.model.record.aligns:
        a = config.loss.alignment
        scale = f"cosine/{a.temperature:g}" if a.scale == "cosine" else a.scale
        maps = ", ".join(f"{g}×{g} cells at stage {s}" for s, g in grids.items())
        lines.append(f"alignment: {scale}, {a.reduction} over cells, weight {a.weight:g}, {a.mask} masks; {maps}")
        if min(grids.values()) < 4:
            lines.append(f"note: {maps} are few to localise on; larger --size, or a narrow --arch such as resnet10w16")
        if config.model.record.matches:
            m, seen = config.loss.matching, settings.batch_size // config.schedule.accumulate
            keys = ", ".join(str(seen * grid**2) for grid in grids.values())
            lines.append(
                f"matching: {m.contrast} of whole views, dense weight {m.weight:g}, temperature {m.temperature:g}; "
                f"each cell against {keys} keys, in parts of at most {MOST_SIMILARITIES >> 18} MiB of similarities"
            )
        if config.loss.control != "none":
            lines.append(f"control arm: {config.loss.control}")
    return "\n".join(lines)


def surroundings(data: Data, policy: Policy) -> dict[str, Any]:
    """What else is needed to make the run again: versions, commit, data."""
    here = str(Path(__file__).parent)
    describe = ["git", "-C", here, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        commit = subprocess.run(describe, capture_output=True, text=True).stdout.strip()
    except OSError:  # no git here
        commit = ""
    return {
        "commit": commit or None,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "world": collectives.world(),
        "data": data.identity(),
        "policy": policy.to_json(),
    }


def unsaid(line: str) -> None:
    """Prints nothing."""
