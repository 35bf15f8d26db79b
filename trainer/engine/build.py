"""From a config to the things it names: policy, networks, method."""

import os
import platform
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from augment.views.policy import Policy
from precompute.base.program import count
from trainer.config.choices import Settings
from trainer.config.run import RunConfig
from trainer.engine.data import Data
from trainer.methods.base import Method
from trainer.methods.byol import Alignment
from trainer.methods.pretext import TURNS
from trainer.methods.registry import METHODS
from trainer.model.networks import Heads, build_model, freeze_stages
from trainer.model.weights import load_encoder


def make_method(config: RunConfig, settings: Settings, say: Callable[[str], None] = lambda _: None) -> Method:
    """The method with its networks on the CPU, initialised from the seed (and from --init)."""
    heads = make_heads(config, settings)
    online = build_model(config.arch, heads, config.seed)
    if config.init is not None:
        encoder, _, remark = load_encoder(config.init, config.arch)
        online.encoder.load_state_dict(encoder.state_dict())
        say(remark)
    freeze_stages(online, config.freeze_stages)
    alignment = Alignment(config.alignment(), config.control) if config.method == "cvsa" else None
    return METHODS[config.method].build(online, alignment, settings.queue)


def make_heads(config: RunConfig, settings: Settings) -> Heads:
    """The heads that the method works with."""
    return Heads(
        dim={"rotpred": TURNS, "looc": 2 * config.dim}.get(config.method, config.dim),
        hidden=settings.hidden,
        conv_hidden=settings.conv_hidden,
        stages=config.align_stages if config.method == "cvsa" else (),
        predictor={"byol": "mlp", "cvsa": "mlp", "relloc": "pairs"}.get(config.method, "none"),
        direct=config.control == "direct-head",
    )


def describe(config: RunConfig, settings: Settings, method: Method, grids: dict[int, int]) -> str:
    """What is trained, in a few lines."""
    parameters = sum(p.numel() for p in method.online.encoder.parameters())
    lines = [
        f"training: {config.method}, {config.arch} ({parameters / 1e6:.2f} M parameters), {settings.steps} steps of "
        f"{settings.batch_size} images in {count(config.epochs, 'epoch')}, {settings.optimizer}"
    ]
    if config.method == "cvsa":
        a = config.alignment()
        scale = f"cosine/{a.temperature:g}" if a.scale == "cosine" else a.scale
        maps = ", ".join(f"{g}×{g} cells at stage {s}" for s, g in grids.items())
        lines.append(f"alignment: {scale}, {a.reduction} over cells, weight {a.weight:g}, {a.mask} masks; {maps}")
        if min(grids.values()) < 4:
            lines.append(f"note: {maps} are few to localise on; larger --size, or a narrow --arch such as resnet10w16")
        if config.control != "none":
            lines.append(f"control arm: {config.control}")
    return "\n".join(lines)


def surroundings(data: Data, policy: Policy) -> dict[str, Any]:
    """What else one needs to know to make the run again: versions, commit, data."""
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
        "data": data.identity(),
        "policy": policy.to_json(),
    }
