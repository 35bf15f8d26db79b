"""The parts of `precompute.inspect`: what a box file holds, whether its pictures changed, and a sheet to look at."""

import contextlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from precompute.base import pixels
from precompute.base.boxfile import BoxCache
from precompute.base.boxmath import agreement
from precompute.base.errors import BadFile, UserError
from precompute.base.markup import one_line
from precompute.base.members import forget
from precompute.base.program import progress
from precompute.base.sheet import GREEN, RED, WHITE, Tile, contact_sheet, save
from precompute.datasets import DATASETS, read_dataset
from precompute.patches import foreground
from precompute.remarks import Remark, names, remarks
from precompute.saliency import DETECTORS, make_detector
from precompute.scan import detect_maps
from precompute.search.forms import Form, find_boxes, quantise


def find_root(cache: BoxCache, root: str | None, check: str, needed: bool) -> Path | None:
    """The folder of the pictures, `root` if given; None where it is not `needed` and not there. Raises UserError."""
    given = cache.folder(root)
    forget()
    if given.exists():
        return given
    if root or needed:
        raise UserError(f"--root {given}: there is no such folder; say where the pictures of {cache.dataset} are")
    if check != "none":
        print(f"pictures not compared: {given} is not here (say where they are with --root)")
    return None


def summary(cache: BoxCache) -> dict[str, Any]:
    """Counts, shape of the boxes and their agreement with the truth, as JSON values."""
    areas = (cache.boxes[:, 2:] - cache.boxes[:, :2]).astype(np.float64).prod(1)
    centres = (cache.boxes[:, 2:] + cache.boxes[:, :2]) / 2
    splits, sources = cache.counts()
    facts: dict[str, Any] = {
        "dataset": cache.dataset,
        "images": len(cache),
        "classes": len(cache.class_names),
        "labelled": int((cache.labels >= 0).sum()),
        "splits": splits,
        "sources": sources,
        "quarantined": len(cache.quarantine),
        "not_plain": int((~cache.plain).sum()),
        "area": {str(q): float(np.quantile(areas, q / 100)) for q in (5, 25, 50, 75, 95)},
        "area_mean": float(areas.mean()),
        "area_histogram": np.histogram(areas, 10, (0, 1 + 1e-6))[0].tolist(),
        "off_centre": float((np.abs(centres - 0.5).max(1) > 0.15).mean()),
        "score_mean": float(cache.scores.mean()),
        "remarks": [asdict(remark) for remark in remarks(cache)],
        "provenance": dict(cache.provenance),
    }
    detected = cache.sources != 0  # annotated boxes would only agree with themselves
    if cache.truths is not None and detected.any():
        facts["agreement"] = agreement(cache.boxes[detected], cache.truths[detected])
    return facts


def print_summary(file: str, cache: BoxCache, facts: dict[str, Any]) -> None:
    counts = ", ".join(f"{count} {name}" for name, count in facts["splits"].items())
    sources = ", ".join(f"{count} {name}" for name, count in facts["sources"].items() if count)
    print(f"{file}: {cache.dataset}, {len(cache)} pictures ({counts}), {len(cache.class_names)} classes")
    print(f"classes     {names(cache.class_names) or 'none'}")
    print(f"boxes       {sources}")
    for key, value in cache.provenance.get("config", {}).items():
        print(f"  {one_line(key):<9} {one_line(value)}")
    quantiles = "  ".join(f"{q} %: {value:.2f}" for q, value in facts["area"].items())
    print(f"box areas   mean {facts['area_mean']:.2f} of the picture; quantiles {quantiles}")
    largest = max(facts["area_histogram"])
    for i, count in enumerate(facts["area_histogram"]):
        print(f"  {i / 10:.1f}-{(i + 1) / 10:.1f} {'#' * round(40 * count / largest):<40} {count}")
    print(f"off centre  {facts['off_centre']:.0%} (centre more than 0.15 of a side from the middle)")
    if (a := facts.get("agreement", {"pictures": 0}))["pictures"]:
        print(f"agreement with the set's annotated boxes, {a['pictures']} pictures:")
        print(f"  these boxes        mean IoU {a['mean_iou']:.3f}, IoU >= 0.5: {a['iou_at_least_half']:.2f}")
        middle = a["centred_mean_iou"], a["centred_iou_at_least_half"]
        print(f"  best centred box   mean IoU {middle[0]:.3f}, IoU >= 0.5: {middle[1]:.2f}")
    for what, count in cache.provenance.get("notes", {}).items():
        print(f"note        {count} {one_line(what)}")
    for remark in facts["remarks"]:
        print(f"attention   {Remark(**remark)}")
    print(f"left out    {len(cache.quarantine)}" + (" (--quarantine lists them)" if cache.quarantine else ""))


def verify(cache: BoxCache, root: Path, check: str) -> list[str]:
    """Reads every picture and compares it with the file; returns the differences and prints the first ten."""
    if check == "none":
        return []

    compare = cache.check_size if check == "size" else partial(cache.read, check="hash")

    def problem(i: int) -> str | None:
        try:
            compare(root, i)
        except BadFile as error:
            return str(error)
        return None

    with ThreadPoolExecutor(8) as pool:
        texts = progress(pool.map(problem, range(len(cache))), total=len(cache), what="compared", unit="image")
        problems = [text for text in texts if text is not None]
    if problems:
        print(f"pictures    {len(problems)} of {len(cache)} below {root} are missing or have changed:")
        print("\n".join(f"  {text}" for text in problems[:10]))
    else:
        how = "contents" if check == "hash" else "sizes"
        print(f"pictures    all {len(cache)} below {root} are as they were ({how} compared)")
    return problems


def print_foreground(cache: BoxCache, root: Path) -> dict[str, Any]:
    """Prints the share of foreground in SaliencySwap's patches, where the set has masks; returns it as JSON values."""
    if cache.dataset not in DATASETS or not DATASETS[cache.dataset].masks:
        return {}
    try:
        shares = foreground(cache, read_dataset(cache.dataset, root))
    except UserError as error:
        print(f"foreground  not measured: {str(error).splitlines()[0]}")
        return {}
    if shares:
        print("foreground in SaliencySwap's patches: mean share, and share of patches with a quarter of it or more")
        for name, share in shares.items():
            print(f"  {name:<18} {share['mean']:.3f}  {share['quarter_or_more']:.3f}")
    return shares


def detector_of(cache: BoxCache, weights: str | None):
    """The detector that made the boxes, or None: annotated boxes, maps from a folder, weights not at hand."""
    name = cache.provenance.get("config", {}).get("detector", {}).get("detector", "")
    name = "u2net" if name == "u2netp" else name
    if name not in DETECTORS:
        return None
    if DETECTORS[name].needs_weights and weights is None:
        print("sheet       without maps: their detector needs --weights FILE")
        return None
    return make_detector(name, weights=weights)


def write_sheet(cache: BoxCache, root: Path, out: str, images: int, split: str | None, weights: str | None) -> None:
    """Pictures spread evenly over the set: box green; a detector's with the annotated box white, the literal red."""
    rows = cache.indices(split)
    if not len(rows):
        raise UserError(f"--split {split}: no picture in it")
    chosen = rows[np.linspace(0, len(rows) - 1, min(images, len(rows))).round().astype(int)]
    detector = detector_of(cache, weights)
    pictures = []
    for i in chosen.tolist():
        with contextlib.suppress(BadFile, pixels.BadImage):  # `verify` names them
            pictures.append(tiles_of(cache, i, cache.read(root, i), detector))
    if not pictures:
        raise UserError(f"--sheet: none of the chosen pictures below {root} is the picture that was cached")
    title = f"{cache.dataset}: boxes green" + (", annotated boxes white" if cache.truths is not None else "")
    if (cache.sources[chosen] != 0).any():
        title += ", mean saliency inside before the name"
    if detector is not None:
        title += ", Eq. 2 taken literally red; maps beside"
    tiles = [tile for picture in pictures for tile in picture]
    sheet = contact_sheet([tiles[i : i + 6] for i in range(0, len(tiles), 6)], title=title)
    save(sheet, out)
    print(f"sheet       {out}: {len(pictures)} pictures, {sheet.width}x{sheet.height} px")


def tiles_of(cache: BoxCache, i: int, data: bytes, detector: Any) -> list[Tile]:
    """Picture i with its boxes and, where there is a `detector`, its map with the box and the literal box."""
    rgb = pixels.decode(data)[: cache.heights[i]]
    caption, truth, boxes = Path(cache.path(i)).name, [], [(cache.boxes[i].tolist(), GREEN)]
    if cache.sources[i] != 0:  # annotated boxes are the truth, and their score is always 1
        caption = f"{cache.scores[i]:.2f} {caption}"
        if cache.truths is not None and not np.isnan(cache.truths[i, 0]):
            truth = [(cache.truths[i].tolist(), WHITE)]
    if detector is None:
        return [Tile(rgb, caption, truth + boxes)]
    grid = cache.provenance.get("config", {}).get("grid", 64)
    small = pixels.thumbnail(data, detector.side, banner=int(cache.banners[i]))[1]
    maps = quantise(detect_maps(detector, np.stack([small]), grid, "cpu"))
    boxes.append(((find_boxes(maps, Form("literal"))[0] / grid).tolist(), RED))
    return [Tile(rgb, caption, truth + boxes), Tile(rgb, "its map", boxes, heat=maps[0].astype(np.float32))]
