"""Every detector on pictures with known boxes: agreement, what SaliencySwap's patches would hold, and cost.

    python -m benchmarks.detectors --data ../shared/data --weights ../shared/data/weights/u2netp.onnx
    python -m benchmarks.detectors --detectors geodesic geodesic-colour --sets cub ecssd --markdown table.md --json

Mean IoU with the annotated boxes and the share with IoU >= 0.5, beside the best fixed centred box of the same set,
which is fitted to the very boxes it is judged by. For sets with masks also the mean share of foreground in the patches
that SaliencySwap would draw, and the share of patches with a quarter of it or more.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.harness import Arm, measure, row
from benchmarks.program import Output, head, parse
from precompute.base.errors import BadValue
from precompute.base.files import replacing
from precompute.base.markup import markdown
from precompute.base.options import group, option
from precompute.base.program import check_out, main, progress
from precompute.datasets import DATASETS
from precompute.saliency import DETECTORS

if TYPE_CHECKING:
    import numpy as np

    from precompute.datasets.listing import Listing
    from precompute.saliency import Detector

SETS = tuple(name for name, entry in DATASETS.items() if entry.usual_root is not None)


@dataclass(frozen=True)
class DetectorSettings:
    """The program's settings and their only defaults."""

    data: str = option("data", "folder that holds the sets in their usual folders")
    sets: tuple[str, ...] = option(("cub", "ecssd", "pets"), "the sets", choices=SETS)
    detectors: tuple[str, ...] = option(tuple(DETECTORS), "the detectors", choices=tuple(DETECTORS))
    weights: str | None = option(None, "weights of u2net; without, it is left out")
    basnet_weights: str | None = option(None, "weights of basnet; without, it is left out")
    timed: int = option(32, "pictures that each detector is timed on", least=1)
    repeats: int = option(3, "repeats of that", least=1)
    markdown: str | None = option(None, "write the table to this file")
    output: Output = group(Output, "result")

    def weights_of(self, detector: str) -> str | None:
        """The file of a detector's weights; None where it needs none, or none is named."""
        return {"u2net": self.weights, "basnet": self.basnet_weights}.get(detector)


def program(argv: list[str] | None = None) -> int:
    """Measures and prints; exit status 0 done, 1 failed, 2 usage."""
    settings = parse(DetectorSettings, "benchmarks.detectors", __doc__, argv)
    check_out(settings.markdown, "--markdown")
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    torch.set_num_threads(1)
    listings = {name: _annotated(settings, name) for name in settings.sets}
    chosen = [name for name in settings.detectors if settings.weights_of(name) or not DETECTORS[name].needs_weights]
    for name in sorted(set(settings.detectors) - set(chosen)):
        flag = "weights" if name == "u2net" else f"{name}-weights"
        settings.output.say(f"{name} left out: it needs --{flag} FILE")
    arms = [timed_arm(name, settings, next(iter(listings.values()))) for name in chosen]
    measure(arms, settings.repeats)
    judged = {
        name: {where: judge(name, settings, listing) for where, listing in listings.items()}
        for name in progress(chosen, total=len(chosen), what="detectors")
    }
    document = head("detectors", settings, "cpu_ms") | {
        "pictures": {where: len(listing) for where, listing in listings.items()},
        "arms": [row(arm) for arm in arms],
        "agreement": judged,
    }
    if settings.markdown:
        with replacing(settings.markdown) as temporary:
            temporary.write_text(as_markdown(document) + "\n")
        settings.output.say(f"written: {settings.markdown}")
    settings.output.deliver([document], as_markdown)
    return 0


def _annotated(settings: DetectorSettings, name: str) -> "Listing":
    """The pictures of one set. BadValue for a set without annotated boxes."""
    from precompute.datasets import read_dataset, usual_root

    listing = read_dataset(name, Path(settings.data) / usual_root(name, None).name)
    if not listing.has_boxes:
        raise BadValue("sets", name, "sets with annotated boxes to compare with")
    return listing


def timed_arm(name: str, settings: DetectorSettings, listing: "Listing") -> Arm:
    """CPU time of one detector on small pictures that are decoded already."""
    from precompute.saliency import make_detector

    files = spread_files(listing, settings.timed)
    detect = map_maker(make_detector(name, weights=settings.weights_of(name)), files)
    return Arm(name, lambda: detect(64), len(files), "small pictures to 64x64 maps; no decoding, no search")


def spread_files(listing: "Listing", count: int) -> list[bytes]:
    """At most `count` files of the set, evenly spread over it."""
    import numpy as np

    from precompute.scan import read_picture

    rows = np.linspace(0, len(listing) - 1, min(count, len(listing))).round().astype(int).tolist()
    return [read_picture(listing, i) for i in rows]


def map_maker(detector: "Detector", files: Sequence[bytes]) -> "Callable[[int], np.ndarray]":
    """Decodes the files; a function of the grid G that makes their saliency maps [N, G, G] from the small pictures."""
    import numpy as np

    from precompute.base import pixels
    from precompute.scan import detect_maps

    small = np.stack([pixels.thumbnail(data, detector.side)[1] for data in files])
    parts = [small[i : i + detector.batch] for i in range(0, len(small), detector.batch)]
    return lambda grid: np.concatenate([detect_maps(detector, part, grid, "cpu") for part in parts])


def judge(name: str, settings: DetectorSettings, listing: "Listing") -> dict[str, Any]:
    """Agreement of a detector's boxes on one set, as `precompute.boxes` makes them; and foreground, with masks."""
    from precompute.base.boxmath import agreement
    from precompute.patches import foreground
    from precompute.saliency import make_detector
    from precompute.scan import Scan, ScanSettings
    from precompute.search.forms import Form

    weights = settings.weights_of(name)
    gamma = make_detector(name, weights=weights).gamma
    scanning = ScanSettings(truth=False, detector=name, form=Form("tempered", gamma), weights=weights)
    cache = Scan(listing, scanning, workers=1).run(0, len(listing))
    assert cache.truths is not None  # `_annotated` lets only sets with boxes through
    shares = foreground(cache, listing) if DATASETS[cache.dataset].masks else {}
    return {"gamma": gamma, **agreement(cache.boxes, cache.truths), "foreground": shares}


def as_markdown(document: dict[str, Any]) -> str:
    """Table of agreement and cost, then one of foreground for the sets that have masks."""
    judged, sets = document["agreement"], document["pictures"]
    cost = {arm["name"]: f"{arm['cpu_ms']['median']:.1f}" for arm in document["arms"]}
    first = next(iter(judged.values()))  # what it says of the sets alone is the same for every detector

    def ious(name: str, of: dict[str, Any], kind: str = "") -> list[str]:
        cells = [f"{of[s][f'{kind}mean_iou']:.3f} / {of[s][f'{kind}iou_at_least_half']:.2f}" for s in sets]
        return [name, *cells, cost.get(name, "-")]

    def shares(name: str, of: dict[str, Any], kind: str = "these boxes") -> list[str]:
        by_set = [of[s]["foreground"][kind] for s in masked]
        return [name, *(f"{share['mean']:.3f} / {share['quarter_or_more']:.3f}" for share in by_set)]

    titles = ["mean IoU / share with IoU ≥ 0.5", *(f"{s} ({n})" for s, n in sets.items()), "ms/picture"]
    lines = _table(titles, ious("best centred box", first, "centred_"), *(ious(*item) for item in judged.items()))
    if masked := [s for s in sets if first[s]["foreground"]]:
        rows = [shares(kind, first, kind) for kind in ("true boxes", "best centred box", "RandomResizedCrop")]
        rows += [shares(*item) for item in judged.items()]
        lines += ["", *_table(["foreground in patches: mean / quarter or more", *masked], *rows)]
    return "\n".join(lines)


def _table(titles: Sequence[str], *rows: Sequence[str]) -> list[str]:
    return [f"| {' | '.join(map(markdown, cells))} |" for cells in (titles, ["---"] * len(titles), *rows)]


if __name__ == "__main__":
    main(program)
