"""What a run needs before its first step: its views, its networks and optimizer; and whether all of it can be had."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from augment import Making, Share, Source, open_views
from precompute.base.errors import UserError
from precompute.base.ranks import Process
from trainer.config.choices import Hardware, Settings, decide, find_hardware
from trainer.config.run import RunConfig
from trainer.engine.build import make_method
from trainer.engine.data import Data
from trainer.engine.optim import build_optimizer
from trainer.engine.state import TrainingState
from trainer.methods.base import Method
from trainer.model.resnets import build_encoder, feature_widths
from trainer.parallel import collectives
from trainer.parallel.batchnorm import synchronise_batch_norm
from trainer.record.metrics import Meter

if TYPE_CHECKING:
    from augment.stream.loader import ViewLoader

Say = Callable[[str], None]
_FLAGS = {"backend": "--pipeline", "cache": "--cache", "colour": "--colour", "maps": "--maps", "workers": "--workers",
          "cache_side": "--cache-side"}  # fmt: skip
_ARGUMENT = re.compile(rf"\b({'|'.join(_FLAGS)})=")


def held_out_of(config: RunConfig, data: Data) -> str | None:
    """The split of the evaluation at the end; None: none is wanted, or the set has none for it.

    UserError where it could not be evaluated on.
    """
    held_out = data.held_out(config.train_split, config.eval_split) if config.evaluate else None
    if held_out is not None and config.maps_used and config.method == "cvsa":  # whose C maps are of views
        data.require_maps(config.maps_used, held_out)
    return held_out


def open_loader(
    config: RunConfig, data: Data, settings: Settings, device: str, process: Process, say: Say
) -> "ViewLoader":
    """The views that the run learns from. UserError with the names of flags for those of arguments."""
    try:
        return open_views(
            Source(
                data.cache, data.root, data.split(config.train_split), backgrounds=config.backgrounds,
                own_backgrounds=config.own_backgrounds, maps=config.maps_used,
            ),
            policy=config.views(), batch_size=settings.batch_size, seed=config.seed,
            making=Making(
                backend=config.pipeline, device=device, workers=config.workers, cache=config.cache,
                cache_side=config.cache_side, check=config.check, on_bad=config.on_bad,
                say=lambda line: say("views: " + line),
            ),
            share=Share(process.rank, process.world),
        )  # fmt: skip
    except UserError as error:
        raise UserError(_ARGUMENT.sub(lambda m: f"{_FLAGS[m[1]]} ", str(error))) from error


def make_state(
    config: RunConfig,
    settings: Settings,
    loader: "ViewLoader",
    hardware: Hardware,
    process: Process,
    say: Say,
    fresh: bool = True,
) -> TrainingState:
    """Networks and optimizer on their device, ready for the first step; not `fresh`: to be filled from a checkpoint."""
    device = hardware.device
    # A checkpoint holds all weights: a continuation does without the file of --init.
    method = make_method(config if fresh else replace(config, init=None), settings, say).to(device)
    compile_networks(method, config.compile)
    if process.world > 1:
        synchronise_batch_norm(method, device)
        method.run_online_by(collectives.parallel(method.online, device))
    return TrainingState(
        config=config,
        settings=settings,
        method=method,
        optimizer=build_optimizer(
            settings.optimizer, [method.online], settings.weight_decay, config.momentum, config.bias_lr
        ),
        scaler=torch.amp.GradScaler(device.split(":")[0], enabled=settings.amp == "fp16"),
        loader=loader,
        meter=Meter(),
    )


def compile_networks(method: Method, compiled: bool) -> None:
    """Lets torch.compile run the networks, or not; what they compute and how they are saved stays the same."""
    for network in (method.online, method.target):
        if network is not None:
            network.compiled = compiled


def rehearse(config: RunConfig, data: Data) -> None:
    """Makes what a run of `config` needs, in one process, and lets it go: UserError for what the run would end with."""
    hardware, _ = find_hardware(config.device)
    held_out_of(config, data)
    images = len(data.cache.indices(data.split(config.train_split, "--train-split")))
    settings, _ = decide(config, images, feature_widths(build_encoder(config.arch))[4], hardware)
    with open_loader(config, data, settings, hardware.device, Process(), _quiet) as loader:
        make_state(config, settings, loader, hardware, Process(), _quiet)


def _quiet(line: str) -> None:
    """The run itself will say what it chose."""
