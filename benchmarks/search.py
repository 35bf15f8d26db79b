"""What the search for the best box costs: against brute force and a plain scan, and beside decoding and detection.

    python -m benchmarks.search --dataset cub --root data/CUB_200_2011
    python -m benchmarks.search --dataset demo --images 64 --json

One core, CPU time, all arms in turns. Every arm finds the same boxes, which is checked before anything is timed.
"""

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from precompute.base.errors import UserError
from precompute.base.options import Parser, add_options, as_json, option, read_options
from precompute.base.program import check_out, main
from precompute.datasets import DATASETS
from precompute.saliency import DETECTORS

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Config:
    """The command's settings and their only defaults."""

    dataset: str = option("demo", "set whose pictures are decoded and whose maps are searched", choices=DATASETS)
    root: str | None = option(None, "its folder (default: the set's usual one)")
    detector: str = option("geodesic-colour", "detector of the maps", choices=DETECTORS)
    weights: str | None = option(None, "its weights, if it needs some")
    images: int = option(128, "pictures, spread over the set")
    repeats: int = option(7, "repeats of every arm, in turns")
    out: str | None = option(None, "write the result to this .json file")
    json: bool = option(False, "print the result as one JSON document at the end")

    def __post_init__(self) -> None:
        for name in ("images", "repeats"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} {getattr(self, name)}: must be 1 or more")


def program(argv: list[str] | None = None) -> int:
    parser = Parser("benchmarks.search", __doc__)
    add_options(parser, Config)
    config = read_options(Config, parser.parse_args(argv))
    check_out(config.out)
    os.environ["OMP_NUM_THREADS"] = "1"

    from benchmarks.harness import facts, measure, ratio, spread
    from benchmarks.results import SCHEMA, save

    arms, inside = make_arms(config)
    measure(list(arms.values()), config.repeats, say=lambda text: print(text, flush=True))
    pairs = {
        "brute force / scan, 16x16": ("brute force, 16x16", "plain scan, 16x16"),
        "brute force / ours, 16x16": ("brute force, 16x16", "ours, 16x16"),
        "scan / ours, 64x64": ("plain scan, 64x64", "ours, 64x64"),
        "decode / detect": ("decode", "detect"),
        "decode / ours, 64x64": ("decode", "ours, 64x64"),
        "detect / ours, 64x64": ("detect", "ours, 64x64"),
        "pass over annotated boxes / read and decode": ("pass over annotated boxes", "read and decode"),
        "pass with the detector / read and decode": ("pass with the detector", "read and decode"),
    }
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "benchmark": "search",
        "settings": as_json(config),
        **facts(),
        "arms": [
            {
                "name": name,
                "inside": inside[name],
                "samples": arm.samples,
                "cpu_ms": spread(arm.cpu_ms),
                "wall_ms": spread([1e3 * s / arm.samples for s in arm.wall]),
            }
            for name, arm in arms.items()
        ],
        "ratios": {name: ratio(arms[a], arms[b]) for name, (a, b) in pairs.items()},
    }
    for arm in document["arms"]:
        median = arm["cpu_ms"]["median"]
        print(f"{arm['name']:<25} {median:9.4f} ms  {1e3 / median:10.0f} a second and core   {arm['inside']}")
    for name, values in document["ratios"].items():
        print(f"{name:<44} {values['median']:8.2f}  ({values['q25']:.2f}-{values['q75']:.2f})")
    if config.out:
        save(document, config.out)
        print(f"written: {config.out}")
    if config.json:
        print(json.dumps(document))
    return 0


def make_arms(config: Config) -> tuple[dict[str, Any], dict[str, str]]:
    """All arms by name, and what is inside the timer of each. Raises UserError where two arms disagree on a box."""
    import numpy as np
    import torch

    from benchmarks.harness import Arm
    from precompute.base import pixels
    from precompute.datasets import read_dataset
    from precompute.saliency import make_detector
    from precompute.scan import Scan, ScanSettings, detect_maps
    from precompute.search.forms import Form, cut, find_boxes, quantise

    torch.set_num_threads(1)
    detector = make_detector(config.detector, weights=config.weights)
    listing = read_dataset(config.dataset, config.root)
    rows = np.linspace(0, len(listing) - 1, min(config.images, len(listing))).round().astype(int).tolist()
    files = [(listing.root / listing.paths[i]).read_bytes() for i in rows]
    small = np.stack([pixels.thumbnail(data, detector.side)[1] for data in files])

    def detect(grid: int) -> "np.ndarray":
        steps = range(0, len(small), detector.batch)
        return np.concatenate([detect_maps(detector, small[i : i + detector.batch], grid, "cpu") for i in steps])

    def over(name: str | None) -> object:
        """The pass over the first pictures of the set, in one thread."""
        settings = ScanSettings(truth=name is None, detector=name, form=form, weights=config.weights)
        return Scan(listing, settings, workers=1).run(0, len(paths))

    form = Form("tempered", detector.gamma)
    paths = [listing.root / path for path in listing.paths[: len(rows)]]
    maps = {grid: quantise(detect(grid)) for grid in (16, 64, 224)}
    few = maps[64][:8]  # a plain scan takes some 50 ms of a map
    tiny = cut(maps[16][:2])  # and brute force about as long, already at 16x16
    expected = find_boxes(maps[16][:2], form).tolist()
    if [scan(one, form.number) for one in tiny] != expected or [brute(o, form.number) for o in tiny] != expected:
        raise UserError("the arms do not find the same boxes: a defect")
    if [scan(one, form.number) for one in cut(few)] != find_boxes(few, form).tolist():
        raise UserError("the arms do not find the same boxes: a defect")
    work = {
        "brute force, 16x16": (
            lambda: [brute(one, form.number) for one in tiny],
            2,
            "every box of 16x16, pixels summed anew",
        ),
        "plain scan, 16x16": (
            lambda: [scan(one, form.number) for one in tiny],
            2,
            "every box of 16x16, from an integral image",
        ),
        "ours, 16x16": (lambda: find_boxes(maps[16], form), len(files), "cut at Otsu and search, 16x16"),
        "plain scan, 64x64": (lambda: [scan(one, form.number) for one in cut(few)], len(few), "the same scan, 64x64"),
        "ours, 64x64": (lambda: find_boxes(maps[64], form), len(files), "cut at Otsu and search, 64x64"),
        "ours, 224x224": (lambda: find_boxes(maps[224][:32], form), min(32, len(files)), "the same, 224x224"),
        "decode": (lambda: [pixels.decode(data) for data in files], len(files), "files in memory to RGB arrays"),
        "detect": (lambda: detect(64), len(files), f"{config.detector}, from small pictures to 64x64 maps"),
        "read and decode": (
            lambda: [pixels.decode(path.read_bytes()) for path in paths],
            len(paths),
            "files to RGB arrays",
        ),
        "pass over annotated boxes": (
            lambda: over(None),
            len(paths),
            "precompute.boxes's pass where annotated boxes are there",
        ),
        "pass with the detector": (lambda: over(config.detector), len(paths), f"the same with {config.detector}"),
    }
    arms = {name: Arm(name, function, samples) for name, (function, samples, _) in work.items()}
    return arms, {name: text for name, (_, _, text) in work.items()}


def brute(one: "np.ndarray", gamma: float) -> list[int]:
    """Every box, its pixels summed anew: x0, y0, x1, y1."""
    height, width = one.shape
    best = (float("inf"), 0, 0, 0, 0, 0)
    for y0 in range(height):
        for y1 in range(y0 + 1, height + 1):
            for x0 in range(width):
                for x1 in range(x0 + 1, width + 1):
                    area = (y1 - y0) * (x1 - x0)
                    best = min(best, (-int(one[y0:y1, x0:x1].sum()) / area**gamma, area, y0, x0, y1 - y0, x1))
    _, _, y0, x0, h, x1 = best
    return [x0, y0, x1, y0 + h] if one.any() else [0, 0, 0, 0]


def scan(one: "np.ndarray", gamma: float) -> list[int]:
    """Every size, all its positions at once, from an integral image."""
    from precompute.search.forms import integral, largest_sum

    table = integral(one)
    best = (float("inf"), 0, 0, 0, 0, 0)
    for h in range(1, one.shape[0] + 1):
        for w in range(1, one.shape[1] + 1):
            total, y0, x0 = largest_sum(table, h, w)
            best = min(best, (-total / (h * w) ** gamma, h * w, y0, x0, h, w))
    _, _, y0, x0, h, w = best
    return [x0, y0, x0 + w, y0 + h] if one.any() else [0, 0, 0, 0]


if __name__ == "__main__":
    main(program)
