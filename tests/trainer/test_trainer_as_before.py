"""What the published tables were made with stays what it was: plans of views, and losses of the methods in them.

The numbers were written down before the methods that came later. A plan is compared to the bit, a loss to rounding.
"""

import hashlib
from typing import Any

import numpy as np
import pytest
import torch

from augment.views.plan import Pool, draw
from augment.views.policy import Policy
from precompute.base.options import as_json
from trainer.config.choices import Hardware
from trainer.config.presets import PRESETS
from trainer.config.run import RunConfig
from trainer.engine.start import build_network, make_method, unsaid

TINY = {"arch": "resnet10w8", "dim": 16, "hidden": 32, "conv_hidden": 24, "batch_size": 4}
PLANS: list[tuple[dict[str, Any], str]] = [
    ({}, "3b9391a0e5cb2157"),
    ({"mode": "paste", "scene": "crop"}, "a557bfdc1decd2b8"),
    ({"scene": "zoom", "own": 0.25}, "08f2407e4742c1ce"),
    ({"name": "rrc"}, "a67fa414dae274d5"),
    ({"name": "instloc", "rotate": 0.75}, "8cb1c4bba039fcfb"),
    ({"name": "copy-paste"}, "3b9391a0e5cb2157"),
]
LOSSES: list[tuple[dict[str, Any], float]] = [
    ({"method": "cvsa"}, 62.065765),
    ({"method": "byol"}, -0.090537),
    ({"method": "mocov2"}, 2.898090),
    ({"method": "simclr"}, 2.492511),
    ({"method": "instloc"}, 2.089198),
    ({"method": "rotpred"}, 1.248339),
    ({"method": "cvsa", "control": "shuffled-masks"}, 62.541109),
    ({"method": "cvsa", "control": "rolled-keys"}, 61.824656),
    ({"method": "cvsa", "control": "direct-head"}, 34.044016),
    ({"method": "cvsa", "loss": "paper"}, 43.673758),
]
# What --preset paper is, beside the defaults of a run.
PAPER = {
    "method": "cvsa", "policy": "saliencyswap", "mode": "swap", "size": 224, "crop_scale": 0.5, "scene": "whole",
    "own": 0.0, "box_cap": 1.0, "colour": "torchvision", "jitter": [0.4, 0.4, 0.4, 0.1], "arch": "resnet50",
    "dim": 256, "conv_hidden": 4096, "ema": 0.996, "loss": "paper", "align_weight": None, "align_stages": [4],
    "control": "none", "epochs": 800, "batch_size": 1024, "base_lr": 0.6, "bias_lr": 1.0, "warmup_epochs": 10.0,
}  # fmt: skip


def digest_of(policy: Policy) -> str:
    """A digest of all that is drawn for sixteen sources in two epochs."""
    rng = np.random.Generator(np.random.Philox(key=5))
    corner = rng.uniform(0, 0.5, (24, 2))
    boxes = np.concatenate((corner, corner + rng.uniform(0.1, 0.5, (24, 2))), 1).astype(np.float32)
    sides = rng.integers(100, 500, (2, 24)).astype(np.int32)
    pool = Pool(sides[0], sides[1], boxes, np.arange(24) % 6 > 0)
    found = hashlib.sha256()
    for epoch in range(2):
        sources = np.arange(16)
        others = (sources[:, None] + 1 + np.arange(policy.views)) % 24
        plan = draw(policy, pool, sources, others, seed=3, epoch=epoch)
        for name in ("patch", "scene", "rects", "finished_rects", "flip", "jitter", "order", "gray", "turns", "sigma"):
            value = np.asarray(getattr(plan, name))
            # The last digits of logarithms and square roots may be a library's own.
            found.update((np.rint(value * 1e4) if value.dtype.kind == "f" else value).astype(np.int64).tobytes())
    return found.hexdigest()[:16]


def loss_of(values: dict[str, Any]) -> float:
    """The loss of a fresh network on two fixed views of noise."""
    config = RunConfig.of({**TINY, "size": 64, **values})
    network, settings, _ = build_network(config, 40, Hardware("cpu", "", bf16=False))
    method = make_method(config, settings, network, unsaid)
    noise = torch.Generator().manual_seed(1)
    views = [torch.randn(4, 3, 64, 64, generator=noise).contiguous(memory_format=torch.channels_last) for _ in range(2)]
    masks = [{4: torch.rand(4, 8, 8, generator=noise).round()} for _ in range(2)]
    return sum(part.loss.item() for part in method.parts(views, masks))


@pytest.mark.parametrize(
    ("changes", "digest"), PLANS, ids=lambda x: "-".join(map(str, x.values())) if isinstance(x, dict) else ""
)
def test_views_are_drawn_as_before(changes: dict[str, Any], digest: str) -> None:
    assert digest_of(Policy(size=64, blur_sigma=(0.1, 1.0), **changes)) == digest


@pytest.mark.parametrize(("values", "loss"), LOSSES, ids=lambda x: "-".join(x.values()) if isinstance(x, dict) else "")
def test_losses_are_as_before(values: dict[str, Any], loss: float) -> None:
    assert loss_of(values) == pytest.approx(loss, rel=2e-4, abs=2e-5)


def test_the_papers_preset_is_as_before() -> None:
    values = as_json(RunConfig.of(PRESETS["paper"]))
    assert {name: values[name] for name in PAPER} == PAPER
    alignment = RunConfig.of(PRESETS["paper"]).loss.alignment
    assert (alignment.scale, alignment.reduction, alignment.weight, alignment.mask) == ("raw", "sum", 1.0, "bilinear")
    assert RunConfig.of(PRESETS["paper"]).model.method == "cvsa"
