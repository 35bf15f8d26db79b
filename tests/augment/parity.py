"""How far the backends' pixels differ, stage by stage, on real images: `python tests/augment/parity.py`.

The yardstick is the `kornia` backend on the CPU: it crops with torch's resize (nearly Pillow's to the bit), and the
tests bound its distance from the slow reference by a hundredth of a level. All get the same plans and files.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from augment.backends import NAMES, build, choose
from augment.request import Making, Source
from augment.stream.imageset import ImageSet
from augment.views.plan import Plan, draw, epoch_order, partners
from augment.views.policy import Policy
from precompute.base.device import find_device
from precompute.base.errors import BadValue
from precompute.base.options import Parser, add_options, option, option_of, read_options
from precompute.base.program import main

EXAMPLE = """example:
  python tests/augment/parity.py --boxes cache/demo.h5 --root data/demo
  python tests/augment/parity.py --boxes cache/cub.h5 --root data/CUB_200_2011 --backends dali --device cuda --json
"""
YARDSTICK = "kornia"
_OFF: dict[str, Any] = {"jitter_p": 0.0, "gray_p": 0.0, "blur_p": 0.0, "flip": 0.0}
STAGES: dict[str, dict[str, Any]] = {  # what differs from the policy, one stage at a time
    "geometry": _OFF,
    "own scene": {**_OFF, "own": 0.5},
    "zoom": {**_OFF, "scene": "zoom"},
    "rrc": {**_OFF, "name": "rrc"},
    "flip": {**_OFF, "flip": 1.0},
    "jitter, linear": {**_OFF, "jitter_p": 1.0, "colour": "linear"},
    "jitter, torchvision": {**_OFF, "jitter_p": 1.0, "colour": "torchvision"},
    "gray": {**_OFF, "gray_p": 1.0},
    "blur": {**_OFF, "blur_p": 1.0},
    "all, linear": {"colour": "linear"},
    "all, torchvision": {"colour": "torchvision"},
}


@dataclass(frozen=True)
class ParityConfig:
    """What is compared, and on what."""

    boxes: str | None = option_of(Source, "boxes")
    root: str | None = option_of(Source, "root")
    backends: tuple[str, ...] = option((), "backends to compare; default: all that are installed", choices=NAMES[1:])
    device: str = option_of(Making, "device", default="cpu")
    decode: str = option_of(Making, "decode", help="how fused decodes: exact or scaled")
    count: int = option(32, "sources")
    size: int = option_of(Policy, "size")
    stages: tuple[str, ...] = option((), "stages to compare; default: all", choices=tuple(STAGES))
    seed: int = option(0, "seed of the plan")
    most: float | None = option(None, "fail (exit status 1) where a stage's mean difference is larger")
    json: bool = option(False, "print the table as one JSON document")

    def __post_init__(self) -> None:
        if self.boxes is None:
            raise BadValue("boxes", None, "the box file", "Name it, and --root DIR where its images have moved")
        if self.count < 2:
            raise BadValue("count", self.count, "at least 2")
        Policy(size=self.size)  # raises BadValue for a side that no view has


def program(argv: Sequence[str] | None = None) -> int:
    """Reads the command line, prints the table."""
    parser = Parser("parity", "Compares the backends' pixels, stage by stage, in levels of 255.", EXAMPLE)
    parser.prog = "python tests/augment/parity.py"
    add_options(parser, ParityConfig)
    config = read_options(ParityConfig, parser.parse_args(argv))
    rows = compare(config)
    print(
        f"|backend - {YARDSTICK}| in levels of 255, {config.count} sources, views of {config.size} px, {config.device}"
    )
    print(f"{'backend':10}{'stage':22}{'mean':>8}{'p99':>8}{'max':>8}")
    for row in rows:
        print(f"{row['backend']:10}{row['stage']:22}{row['mean']:8.3f}{row['p99']:8.2f}{row['max']:8.1f}")
    print("dali has linear colour only: its torchvision rows compare that with torchvision's.")
    if config.json:
        print(json.dumps({"yardstick": YARDSTICK, "count": config.count, "size": config.size, "rows": rows}))
    return int(config.most is not None and max(row["mean"] for row in rows) > config.most)


def compare(config: ParityConfig) -> list[dict[str, Any]]:
    """One row a backend and stage: mean, 99th percentile and maximum of the differences."""
    assert config.boxes is not None  # ParityConfig has checked
    images, device = ImageSet.open(config.boxes, config.root), find_device(config.device)
    if len(images) < config.count:
        raise BadValue("count", config.count, f"at most {len(images)}, the box file's images")
    names = list(config.backends) or _installed(device)
    rows = []
    for stage in config.stages or STAGES:
        changes = STAGES[stage]
        settings: dict[str, Any] = {"size": config.size, "mean": (0.0, 0.0, 0.0), "std": (1 / 255,) * 3, **changes}
        policy = Policy(**settings)
        plan = _plan(policy, images, config)
        files = [images.read(row) for row in plan.images.tolist()]
        right = _pixels(YARDSTICK, policy, plan, files, Making(device="cpu", workers=2))
        for name in names:
            making = Making(device=device, workers=2, decode=config.decode if name == "fused" else "exact")
            off = np.abs(_pixels(name, policy, plan, files, making) - right)
            figures = {"mean": off.mean(), "p99": np.percentile(off, 99), "max": off.max()}
            rows.append({"backend": name, "stage": stage, **{k: round(float(v), 4) for k, v in figures.items()}})
    return sorted(rows, key=lambda row: names.index(row["backend"]))


def _installed(device: torch.device) -> list[str]:
    """All backends but the yardstick that work on this device."""
    names = []
    for name in NAMES[1:]:
        try:
            choose(name, device)
        except BadValue:
            continue
        if name != YARDSTICK:
            names.append(name)
    return names


def _plan(policy: Policy, images: ImageSet, config: ParityConfig) -> Plan:
    order = epoch_order(len(images), config.seed, 0)
    positions = np.arange(config.count)
    chosen = partners(order, positions, policy.group, policy.views, config.seed, 0)
    return draw(policy, images.pool, order[positions], chosen, seed=config.seed, epoch=0)


def _pixels(name: str, policy: Policy, plan: Plan, files: list[bytes], making: Making) -> np.ndarray:
    backend = build(name, policy, making, len(plan))
    try:
        return np.stack([view.cpu().numpy() for view in backend.render(plan, files)])
    finally:
        backend.close()


if __name__ == "__main__":
    main(program)
