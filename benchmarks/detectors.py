"""Every detector on pictures with known boxes: agreement, what SaliencySwap's patches would hold, and cost.

    python -m benchmarks.detectors --data ../shared/data --weights ../shared/data/weights/u2netp.onnx
    python -m benchmarks.detectors --detectors geodesic geodesic-colour --sets cub ecssd --markdown table.md --json

Mean IoU with the annotated boxes and the share with IoU >= 0.5, beside the best fixed centred box of the same set,
which is fitted to the very boxes it is judged by. For sets with masks also the mean share of foreground in the patches
that SaliencySwap would draw, and the share of patches with a quarter of it or more.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from precompute.base.errors import UserError
from precompute.base.options import Parser, add_options, as_json, option, read_options
from precompute.base.program import check_out, main, progress
from precompute.datasets import DATASETS
from precompute.saliency import DETECTORS

if TYPE_CHECKING:
    from precompute.datasets.listing import Listing


@dataclass(frozen=True)
class Config:
    """The command's settings and their only defaults."""

    data: str = option("data", "folder that holds the sets in their usual folders")
    sets: tuple[str, ...] = option(("cub", "ecssd", "pets"), "the sets", choices=tuple(DATASETS))
    detectors: tuple[str, ...] = option(tuple(DETECTORS), "the detectors", choices=tuple(DETECTORS))
    weights: str | None = option(None, "weights of u2net; without, it is left out")
    basnet_weights: str | None = option(None, "weights of basnet; without, it is left out")
    timed: int = option(32, "pictures that each detector is timed on")
    repeats: int = option(3, "repeats of that")
    markdown: str | None = option(None, "write the table to this file")
    out: str | None = option(None, "write the result to this .json file")
    json: bool = option(False, "print the result as one JSON document at the end")

    def __post_init__(self) -> None:
        for name in ("timed", "repeats"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} {getattr(self, name)}: must be 1 or more")

    def weights_of(self, detector: str) -> str | None:
        return {"u2net": self.weights, "basnet": self.basnet_weights}.get(detector)


def program(argv: list[str] | None = None) -> int:
    parser = Parser("benchmarks.detectors", __doc__)
    add_options(parser, Config)
    config = read_options(Config, parser.parse_args(argv))
    check_out(config.out)
    check_out(config.markdown, "--markdown")
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    from benchmarks.harness import facts, measure, spread
    from benchmarks.results import SCHEMA, save
    from precompute.base.files import replacing
    from precompute.datasets import read_dataset

    torch.set_num_threads(1)
    listings = {}
    for name in config.sets:
        usual = DATASETS[name].usual_root
        if usual is None:
            raise UserError(f"--sets {name}: it has no usual folder")
        listings[name] = read_dataset(name, str(Path(config.data) / Path(usual).name))
        if not listings[name].has_boxes:
            raise UserError(f"--sets {name}: this set has no annotated boxes to compare with")
    chosen = [name for name in config.detectors if config.weights_of(name) or not DETECTORS[name].needs_weights]
    for name in sorted(set(config.detectors) - set(chosen)):
        print(f"{name} left out: it needs --{'weights' if name == 'u2net' else name + '-weights'} FILE")
    arms = {name: timed_arm(name, config, next(iter(listings.values()))) for name in chosen}
    measure(list(arms.values()), config.repeats)
    found = {
        name: {where: judge(name, config, listing) for where, listing in listings.items()}
        for name in progress(chosen, total=len(chosen), what="detectors")
    }
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "benchmark": "detectors",
        "settings": as_json(config),
        **facts(),
        "pictures": {where: len(listing) for where, listing in listings.items()},
        "arms": [
            {
                "name": name,
                "inside": "small pictures to 64x64 maps; no decoding, no search",
                "samples": arm.samples,
                "cpu_ms": spread(arm.cpu_ms),
                "wall_ms": spread(arm.wall_ms),
            }
            for name, arm in arms.items()
        ],
        "agreement": found,
    }
    table = as_markdown(document)
    print(table)
    if config.markdown:
        with replacing(config.markdown) as temporary:
            temporary.write_text(table + "\n")
    if config.out:
        save(document, config.out)
    for path in filter(None, (config.markdown, config.out)):
        print(f"written: {path}")
    if config.json:
        print(json.dumps(document))
    return 0


def timed_arm(name: str, config: Config, listing: "Listing"):
    """CPU time of one detector on small pictures that are decoded already."""
    import numpy as np

    from benchmarks.harness import Arm
    from precompute.base import pixels
    from precompute.saliency import make_detector
    from precompute.scan import detect_maps

    detector = make_detector(name, weights=config.weights_of(name))
    rows = np.linspace(0, len(listing) - 1, min(config.timed, len(listing))).round().astype(int).tolist()
    files = ((listing.root / listing.paths[i]).read_bytes() for i in rows)
    small = np.stack([pixels.thumbnail(data, detector.side)[1] for data in files])
    parts = [small[i : i + detector.batch] for i in range(0, len(small), detector.batch)]
    return Arm(name, lambda: [detect_maps(detector, part, 64, "cpu") for part in parts], len(small))


def judge(name: str, config: Config, listing: "Listing") -> dict[str, Any]:
    """Agreement of a detector's boxes on one set, as `precompute.boxes` makes them; and foreground, with masks."""
    from precompute.base.boxmath import agreement
    from precompute.patches import foreground
    from precompute.saliency import make_detector
    from precompute.scan import Scan, ScanSettings
    from precompute.search.forms import Form

    gamma = make_detector(name, weights=config.weights_of(name)).gamma
    settings = ScanSettings(truth=False, detector=name, form=Form("tempered", gamma), weights=config.weights_of(name))
    cache = Scan(listing, settings, workers=1).run(0, len(listing))
    assert cache.truths is not None  # program lets only sets with boxes through
    shares = foreground(cache, listing) if DATASETS[cache.dataset].masks else {}
    return {"gamma": gamma, **agreement(cache.boxes, cache.truths), "foreground": shares}


def as_markdown(document: dict[str, Any]) -> str:
    """Table of agreement and cost, then one of foreground for the sets that have masks."""
    found = document["agreement"]
    sets = document["pictures"]
    cost = {arm["name"]: arm["cpu_ms"]["median"] for arm in document["arms"]}
    any_of = next(iter(found.values()))
    lines = [
        "| mean IoU / share with IoU ≥ 0.5 | " + " | ".join(f"{s} ({n})" for s, n in sets.items()) + " | ms/picture |",
        "|---|" + "---|" * (len(sets) + 1),
        "| best centred box | "
        + " | ".join(
            f"{any_of[s]['centred_mean_iou']:.3f} / {any_of[s]['centred_iou_at_least_half']:.2f}" for s in sets
        )
        + " | - |",
    ]
    for name, by_set in found.items():
        cells = " | ".join(f"{by_set[s]['mean_iou']:.3f} / {by_set[s]['iou_at_least_half']:.2f}" for s in sets)
        lines.append(f"| {name} | {cells} | {cost[name]:.1f} |")
    masked = [s for s in sets if any_of[s]["foreground"]]
    if masked:
        lines += ["", "| foreground in patches: mean / quarter or more | " + " | ".join(masked) + " |"]
        lines.append("|---|" + "---|" * len(masked))
        for kind in ("true boxes", "best centred box", "RandomResizedCrop"):
            lines.append(f"| {kind} | " + " | ".join(_shares(any_of[s]["foreground"][kind]) for s in masked) + " |")
        for name, by_set in found.items():
            cells = " | ".join(_shares(by_set[s]["foreground"]["these boxes"]) for s in masked)
            lines.append(f"| {name} | {cells} |")
    return "\n".join(lines)


def _shares(share: dict[str, float]) -> str:
    return f"{share['mean']:.3f} / {share['quarter_or_more']:.3f}"


if __name__ == "__main__":
    main(program)
