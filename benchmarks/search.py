"""What the search for the best box costs: against brute force and a plain scan, and beside decoding and detection.

    python -m benchmarks.search --dataset cub --root data/CUB_200_2011
    python -m benchmarks.search --dataset demo --images 64 --json
    python -m benchmarks.search --dataset cub --archives     # instead: a pass over files, over tar shards, over zips

One core, CPU time, all arms in turns. Every arm finds the same boxes, which is checked before anything is timed.
"""

import os
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.detectors import map_maker, spread_files
from benchmarks.harness import Arm, measure, ratio, row
from benchmarks.program import Output, head, parse
from precompute.base.errors import UserError
from precompute.base.options import group, option
from precompute.base.program import main
from precompute.datasets import DATASETS
from precompute.saliency import DETECTORS

if TYPE_CHECKING:
    import numpy as np

    from precompute.base.boxfile import BoxCache

PAIRS = {  # name of a ratio: the arm above and the arm below
    "brute force / scan, 16x16": ("brute force, 16x16", "plain scan, 16x16"),
    "brute force / ours, 16x16": ("brute force, 16x16", "ours, 16x16"),
    "scan / ours, 64x64": ("plain scan, 64x64", "ours, 64x64"),
    "decode / detect": ("decode", "detect"),
    "decode / ours, 64x64": ("decode", "ours, 64x64"),
    "detect / ours, 64x64": ("detect", "ours, 64x64"),
    "pass over annotated boxes / read and decode": ("pass over annotated boxes", "read and decode"),
    "pass with the detector / read and decode": ("pass with the detector", "read and decode"),
    "checks of the set / pass over annotated boxes": ("checks of the set", "pass over annotated boxes"),
}

ARCHIVES = ("tar shards", "a zip", "a deflated zip")
ARCHIVE_PAIRS = {
    f"{what} {kind} / files": (f"{what} {kind}", f"{what} files") for what in ("pass over", "read") for kind in ARCHIVES
}


@dataclass(frozen=True)
class SearchSettings:
    """The program's settings and their only defaults."""

    dataset: str = option("demo", "set whose pictures are decoded and whose maps are searched", choices=DATASETS)
    root: str | None = option(None, "its folder (default: the set's usual one)")
    detector: str = option("geodesic-colour", "detector of the maps", choices=DETECTORS)
    weights: str | None = option(None, "its weights, if it needs some")
    images: int = option(128, "pictures, spread over the set", least=1)
    repeats: int = option(7, "repeats of every arm, in turns", least=1)
    archives: bool = option(False, "compare passes over the same pictures in archives with one over files, only")
    output: Output = group(Output, "result")


def program(argv: list[str] | None = None) -> int:
    """Measures and prints; exit status 0 done, 1 failed, 2 usage."""
    settings = parse(SearchSettings, "benchmarks.search", __doc__, argv)
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        arms = archive_arms(settings, Path(folder)) if settings.archives else make_arms(settings)
        measure(arms, settings.repeats, say=settings.output.progress)
    by_name = {arm.name: arm for arm in arms}
    pairs = ARCHIVE_PAIRS if settings.archives else PAIRS
    ratios = {name: ratio(by_name[above], by_name[below]) for name, (above, below) in pairs.items()}
    document = head("search", settings, "cpu_ms") | {"arms": [row(arm) for arm in arms], "ratios": ratios}
    settings.output.deliver([document], table)
    return 0


def make_arms(settings: SearchSettings) -> list[Arm]:
    """All arms. Raises UserError where two of them disagree on a box."""
    import torch

    from precompute.base import boxcheck, pixels
    from precompute.datasets import read_dataset
    from precompute.remarks import remarks
    from precompute.saliency import make_detector
    from precompute.scan import Scan, ScanSettings, read_picture
    from precompute.search.forms import Form, cut, find_boxes, quantise

    torch.set_num_threads(1)
    name = settings.detector
    detector = make_detector(name, weights=settings.weights)
    listing = read_dataset(settings.dataset, settings.root)
    files = spread_files(listing, settings.images)
    detect = map_maker(detector, files)
    form, n = Form("tempered", detector.gamma), len(files)

    def over(source: str | None) -> "BoxCache":
        """The pass over the first pictures of the set, in one thread."""
        scanning = ScanSettings(truth=source is None, detector=source, form=form, weights=settings.weights)
        return Scan(listing, scanning, workers=1).run(0, n)

    def each(search: "Callable[[np.ndarray, float], list[int]]", maps: "np.ndarray") -> list[list[int]]:
        return [search(scores, form.number) for scores in maps]

    maps = {grid: quantise(detect(grid)) for grid in (16, 64, 224)}
    few = maps[64][:8]  # a plain scan of a map takes some 50 ms
    tiny = cut(maps[16][:2])  # and brute force about as long, already at 16x16
    agree = each(brute, tiny) == each(scan, tiny) == find_boxes(maps[16][:2], form).tolist()
    if not agree or each(scan, cut(few)) != find_boxes(few, form).tolist():
        raise UserError("the arms do not find the same boxes: a defect")
    made = over(None)
    plain_pass = "precompute.boxes's pass where annotated boxes are there"
    return [
        Arm("brute force, 16x16", lambda: each(brute, tiny), len(tiny), "every box of 16x16, pixels summed anew"),
        Arm("plain scan, 16x16", lambda: each(scan, tiny), len(tiny), "every box of 16x16, from an integral image"),
        Arm("ours, 16x16", lambda: find_boxes(maps[16], form), n, "cut at Otsu and search, 16x16"),
        Arm("plain scan, 64x64", lambda: each(scan, cut(few)), len(few), "the same scan, 64x64"),
        Arm("ours, 64x64", lambda: find_boxes(maps[64], form), n, "cut at Otsu and search, 64x64"),
        Arm("ours, 224x224", lambda: find_boxes(maps[224][:32], form), min(32, n), "the same, 224x224"),
        Arm("decode", lambda: [pixels.decode(data) for data in files], n, "files in memory to RGB arrays"),
        Arm("detect", lambda: detect(64), n, f"{name}, from small pictures to 64x64 maps"),
        Arm(
            "read and decode",
            lambda: [pixels.decode(read_picture(listing, i)) for i in range(n)],
            n,
            "files to RGB arrays",
        ),
        Arm("pass over annotated boxes", lambda: over(None), n, plain_pass),
        Arm(
            "checks of the set",
            lambda: (boxcheck.check(made), remarks(made)),
            n,
            "every number, and what is remarkable",
        ),
        Arm("pass with the detector", lambda: over(name), n, f"the same with {name}"),
    ]


def archive_arms(settings: SearchSettings, folder: Path) -> list[Arm]:
    """Whole passes over the same pictures as files and in archives, listing included, and reading them alone.

    Raises UserError where the passes do not find the same pictures.
    """
    from precompute.datasets import read_dataset
    from precompute.scan import Scan, ScanSettings, read_picture

    names = [f"{i:06d}.jpg" for i in range(settings.images)]
    contents = list(zip(names, spread_files(read_dataset(settings.dataset, settings.root), len(names)), strict=False))
    for kind in ("files", "tar shards"):
        (folder / kind).mkdir()
    for name, data in contents:
        (folder / "files" / name).write_bytes(data)
    for start in range(0, len(contents), 32):
        with tarfile.open(folder / "tar shards" / f"train-{start // 32:04d}.tar", "w") as shard:
            for name, _ in contents[start : start + 32]:
                shard.add(folder / "files" / name, name)
    for kind, method in (("a zip", zipfile.ZIP_STORED), ("a deflated zip", zipfile.ZIP_DEFLATED)):
        with zipfile.ZipFile(folder / f"{kind}.zip", "w", method) as archive:
            for name, data in contents:
                archive.writestr(name, data)
    roots = {kind: folder / (f"{kind}.zip" if "zip" in kind else kind) for kind in ("files", *ARCHIVES)}
    listings = {kind: read_dataset("folder", root) for kind, root in roots.items()}

    def over(kind: str) -> bytes:
        listing = read_dataset("folder", roots[kind])
        return Scan(listing, ScanSettings(truth=False, detector=None), workers=1).run(0, len(listing)).hashes.tobytes()

    if len({over(kind) for kind in roots}) > 1:
        raise UserError("the passes do not find the same pictures: a defect")
    n, reading = len(contents), "from open archives, or from files, to bytes in memory"

    def read(kind: str) -> list[bytes]:
        return [read_picture(listings[kind], i) for i in range(n)]

    passes = [Arm(f"pass over {kind}", partial(over, kind), n, "to rows, listing included") for kind in roots]
    return passes + [Arm(f"read {kind}", partial(read, kind), n, reading) for kind in roots]


def brute(scores: "np.ndarray", gamma: float) -> list[int]:
    """The best box of a map, from every box with its pixels summed anew: x0, y0, x1, y1."""
    height, width = scores.shape
    best = (float("inf"), 0, 0, 0, 0, 0)
    for y0, y1 in combinations(range(height + 1), 2):
        for x0, x1 in combinations(range(width + 1), 2):
            area = (y1 - y0) * (x1 - x0)
            best = min(best, (-int(scores[y0:y1, x0:x1].sum()) / area**gamma, area, y0, x0, y1 - y0, x1 - x0))
    return _corners(best)


def scan(scores: "np.ndarray", gamma: float) -> list[int]:
    """The same from every size, all its positions at once, on an integral image."""
    from precompute.search.forms import integral, largest_sum

    table = integral(scores)
    best = (float("inf"), 0, 0, 0, 0, 0)
    for h in range(1, scores.shape[0] + 1):
        for w in range(1, scores.shape[1] + 1):
            total, y0, x0 = largest_sum(table, h, w)
            best = min(best, (-total / (h * w) ** gamma, h * w, y0, x0, h, w))
    return _corners(best)


def _corners(best: tuple[float, int, int, int, int, int]) -> list[int]:
    score, _, y0, x0, h, w = best
    return [x0, y0, x0 + w, y0 + h] if score < 0 else [0, 0, 0, 0]  # 0: an empty map


def table(document: dict[str, Any]) -> str:
    """The result as text: a line an arm, a line a ratio."""
    lines = []
    for arm in document["arms"]:
        ms = arm["cpu_ms"]["median"]
        lines.append(f"{arm['name']:<25} {ms:9.4f} ms  {1e3 / ms:10.0f} a second and core   {arm['inside']}")
    for name, of in document["ratios"].items():
        lines.append(f"{name:<44} {of['median']:8.2f}  ({of['q25']:.2f}-{of['q75']:.2f})")
    return "\n".join(lines)


if __name__ == "__main__":
    main(program)
