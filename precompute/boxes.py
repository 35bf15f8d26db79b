"""Image set -> one HDF5 file of saliency boxes.

    python -m precompute.boxes --dataset cub --root data/CUB_200_2011 --out cache/cub.h5
    python -m precompute.boxes --dataset folder --root my_pictures --out cache/mine.h5
    python -m precompute.boxes --dataset folder --root my_pictures.zip --out cache/mine.h5   # or a folder of shards
    torchrun --nproc-per-node 4 -m precompute.boxes --dataset inat2018

Every picture is decoded once, so damaged files show here and not during training: they are left out, and named with
the reason. An interrupted run goes on where it stopped. A finished file is reused if nothing changed.
"""

import contextlib
import dataclasses
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from precompute.base.device import check_device, rank_device
from precompute.base.errors import BadValue, UsageError, UserError
from precompute.base.files import sweep
from precompute.base.options import Parser, add_options, option, read_options, whole
from precompute.base.program import command, cores, count, main
from precompute.base.ranks import Process, this_process
from precompute.datasets import DATASETS, download, read_dataset
from precompute.datasets.listing import Listing
from precompute.saliency import DETECTORS, make_detector, needs_weights

if TYPE_CHECKING:  # NumPy and h5py come with these
    from precompute.base.boxfile import BoxCache
    from precompute.kept_maps import KeptMaps
    from precompute.scan import Scan, ScanSettings
    from precompute.shards import Shards

FALLBACK = "geodesic-colour"  # the detector for pictures without an annotated box, if none is asked for
Say = Callable[[str], None]


@dataclass(frozen=True)
class BoxSettings:
    """The settings of a box file, and their only defaults."""

    dataset: str = option("demo", "layout of the image set", choices=DATASETS)
    root: str | None = option(
        None,
        "its folder, or for --dataset folder a tar or zip file (default: data/ and the set's usual folder)",
        flags=("root", "images"),
    )
    annotations: tuple[str, ...] = option((), "files in COCO's JSON format, of whatever names; pictures: --images DIR")
    labels: str | None = option(None, "CSV file of paths, labels and perhaps splits, for --dataset folder")
    out: str | None = option(None, "the file to write (default: cache/DATASET.h5)")
    source: str = option(
        "auto",
        "where boxes come from: gt (the set's annotation), maps (a folder of them), a detector "
        f"({', '.join(DETECTORS)}) or a detector of your own as module:Class; "
        f"auto: gt where there is one, else u2net with --weights, else {FALLBACK}",
    )
    maps: str | None = option(None, "folder of saliency maps, for --source maps: PATH-OF-THE-PICTURE.png, grey")
    weights: str | None = option(None, "file of weights, for detectors that need one (.pth, .onnx)")
    form: str = option(
        "tempered",
        "form of Eq. 2, the search for the best box",
        choices=("tempered", "literal", "min-area", "min-side", "mass", "tau", "component"),
    )
    value: float | None = option(None, "its value: gamma for tempered, ... (default: what suits the detector)")
    grid: int = option(64, "side of the map that is searched")
    keep_maps: str | None = option(
        None, "write the detector's maps to this folder: --source maps --maps DIR searches them again"
    )
    device: str = option("auto", "where detectors run: auto, cpu, cuda")
    workers: int = option(0, "threads; 0: one per core")
    shard: int = option(0, "pictures between two points from which an interrupted run resumes; 0: by the set's size")
    download: bool = option(False, "fetch the set's official archive first, where there is one")
    rebuild: bool = option(False, "make the file again, whatever is there")
    strict: bool = option(False, "end with status 1 where something about the set deserves attention")
    json: bool = option(False, "print the summary as one JSON document at the end")

    def __post_init__(self) -> None:
        sources = ("auto", "gt", "maps", *DETECTORS, "module:Class")
        if self.source not in sources and ":" not in self.source:
            raise BadValue("source", self.source, sources)
        if self.annotations and self.dataset not in ("coco", "demo"):
            raise BadValue("annotations", self.annotations, "left out, or with --dataset coco")
        if self.labels is not None and self.dataset not in ("folder", "demo"):
            raise BadValue("labels", self.labels, "left out, or with --dataset folder")
        if self.labels is not None:
            object.__setattr__(self, "dataset", "folder")
        if self.annotations:
            object.__setattr__(self, "dataset", "coco")
        if (self.source == "maps") != (self.maps is not None):
            raise UsageError("--source maps and --maps DIR belong together")
        if self.weights is not None and self.source != "auto" and not needs_weights(self.source):
            takers = " and ".join(name for name, entry in DETECTORS.items() if entry.needs_weights)
            raise BadValue("weights", self.weights, f"left out: --source {self.source} has none; {takers} take them")
        if self.keep_maps is not None and self.source in ("gt", "maps"):
            raise BadValue("keep_maps", self.keep_maps, f"left out: --source {self.source} makes no maps")
        for name in ("workers", "shard"):
            whole(name, getattr(self, name))
        if not 2 <= self.grid <= 1024:
            raise BadValue("grid", self.grid, "from 2 to 1024 (64 is enough, see the documentation)")
        if self.value is not None and not 0 <= self.value <= 1:
            raise BadValue("value", self.value, "from 0 to 1")
        check_device(self.device)

    @property
    def path(self) -> Path:
        """The file to write. Raises UserError where that is a folder."""
        out = Path(self.out or f"cache/{self.dataset}.h5")
        if out.is_dir():
            raise UserError(f"--out {out} is a folder: name a file in it, e.g. {out / (self.dataset + '.h5')}")
        return out


def program(argv: list[str] | None = None) -> int:
    parser = Parser("precompute.boxes", __doc__)
    add_options(parser, BoxSettings)
    argv = sys.argv[1:] if argv is None else argv
    if {"--store-path", "--no-store-path"} & {*argv}:  # flags of earlier versions
        parser.error("--store-path is gone: --keep-maps DIR keeps the maps, which --source maps --maps DIR searches")
    settings = read_options(BoxSettings, parser.parse_args(argv))
    with this_process() as ranks:
        facts = _made(settings, ranks, partial(print, flush=True) if ranks.first else lambda text: None)[1]
    if settings.json and ranks.first:
        print(json.dumps(facts))
    if settings.strict and facts["remarks"]:
        raise UserError(f"--strict: {count(len(facts['remarks']), 'remark')} on {settings.path}, which is written")
    return 0


def make_boxes(settings: BoxSettings | str = "demo", *, say: Say = print, **options: Any) -> "BoxCache":
    """Makes the box file of an image set, or reuses the one that is there, and opens it.

        make_boxes("cub", root="data/CUB_200_2011", out="cache/cub.h5")

    `settings`: all of them, or the data set's name; `options`: further fields of `BoxSettings`. `say` prints a line of
    the report. This process works alone, under torchrun too. Raises UserError.
    """
    if isinstance(settings, str):
        settings = BoxSettings(dataset=settings)
    return _made(dataclasses.replace(settings, **options), Process(), say)[0]


def _made(settings: BoxSettings, ranks: Process, say: Say) -> "tuple[BoxCache, dict[str, Any]]":
    """The finished box file on every rank, and the facts of the report."""
    from precompute.base.boxfile import BoxCache

    started, out = time.perf_counter(), settings.path
    if settings.download:
        ranks.decide(lambda: str(download(settings.dataset, settings.root)))
    listing = read_dataset(settings.dataset, settings.root, settings.annotations, settings.labels)
    scan_settings, why = choose(settings, listing, ranks)
    say(f"{settings.dataset}: {len(listing)} pictures listed below {listing.root}")
    say(f"boxes from {why}")
    if ranks.world > 1:
        say(f"{ranks.world} processes")
    written = _write(settings, listing, scan_settings, ranks, say)
    cache = BoxCache.open(out)
    return cache, report(cache, not written, out, listing.root, time.perf_counter() - started, say)


def choose(settings: BoxSettings, listing: Listing, ranks: Process) -> tuple["ScanSettings", str]:
    """The scan's settings for this set, and the reasons in words. UserError for a source that the set does not have."""
    from precompute.scan import ScanSettings
    from precompute.search.forms import Form

    if settings.source == "gt" and not listing.has_boxes:
        raise UserError(
            f"--source gt: {settings.dataset} has no annotated boxes; take a detector: {', '.join(DETECTORS)}"
        )
    truth = settings.source in ("auto", "gt") and listing.has_boxes
    if settings.source == "gt" or (truth and listing.every_has_box):
        why = "the set's annotation (gt)" + ("" if settings.source == "gt" else ": every picture of this set has one")
        if settings.keep_maps is not None:
            raise UserError("--keep-maps: annotated boxes have no maps; take a detector with --source")
        for flag, given in (("--form", settings.form != "tempered"), ("--value", settings.value is not None)):
            if given:
                raise UserError(f"{flag}: annotated boxes are not searched for; take a detector with --source")
        spare = None if settings.source == "gt" else "u2net" if settings.weights else FALLBACK
        return ScanSettings(truth=True, detector=None, spare=spare, weights=settings.weights), why
    asked = settings.source != "auto"
    detector = settings.source if asked else "u2net" if settings.weights else FALLBACK
    reads = "cpu", "it only reads files"
    device, device_why = reads if detector == "maps" else rank_device(settings.device, ranks)
    value = settings.value
    if value is None and settings.form == "tempered":
        value = 0.02 if detector == "maps" else make_detector(detector, weights=settings.weights).gamma
    form, grid = Form(settings.form, value), settings.grid
    why = f"{detector} on {device} ({device_why}), Eq. 2 {form.name} {form.number:g}, {grid}x{grid} maps"
    if truth:
        why = f"the set's annotation (gt) where a picture has one, else {why}"
    elif not asked:
        why = f"{why}: the set has no annotated boxes"
    return ScanSettings(truth, detector, form, grid, settings.weights, str(device), settings.maps), why


def _write(settings: BoxSettings, listing: Listing, scan_settings: "ScanSettings", ranks: Process, say: Say) -> bool:
    """Writes the box file, all ranks together; False where the file that is there is what they would write."""
    from precompute.base.boxfile import write
    from precompute.scan import Scan
    from precompute.shards import merge

    plan = ranks.decide(lambda: _decide(settings, listing, scan_settings, say))
    if plan is None:
        return False
    provenance, shards, keep = plan
    shards.prepare()
    scan = Scan(listing, scan_settings, settings.workers or max(1, cores() // ranks.local_world), keep)

    def finish() -> None:
        # A shard that another run has removed meanwhile is made again.
        parts = [shards.load(k) or scan.run(*shards.span(k)) for k in range(len(shards))]
        write(settings.path, merge(listing, parts, provenance))
        shards.remove()
        sweep(settings.path)
        if keep is not None:
            keep.sweep()

    with contextlib.ExitStack() as stack:
        if scan_settings.model is not None and scan_settings.device == "cpu":
            import torch

            stack.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(1)  # every thread of the scan has a batch of its own
        _make_shards(scan, shards, keep, ranks, say)
        ranks.wait()
        ranks.decide(finish)
    return True


def _decide(
    settings: BoxSettings, listing: Listing, scan_settings: "ScanSettings", say: Say
) -> "tuple[dict[str, Any], Shards, KeptMaps | None] | None":
    """Provenance, shards and the folder for maps of a new file; None where the file that is there will do."""
    from precompute.kept_maps import KeptMaps
    from precompute.provenance import described, digest, reusable, versions
    from precompute.shards import Shards, annotations, fingerprint

    lasting, passing = fingerprint(listing)
    config, device = described(settings.dataset, listing, scan_settings), scan_settings.device.split(":")[0]
    provenance = {"config": config, "fingerprint": lasting, "annotations": annotations(listing)}
    provenance["versions"] = versions(scan_settings)
    shards = Shards(settings.path, digest([provenance, passing, device]), len(listing), settings.shard)
    old = None if settings.rebuild else reusable(settings.path, provenance, listing, say)
    keep = None
    if settings.keep_maps is not None:
        about = {name: config[name] for name in ("dataset", "detector", "grid")}
        keep = KeptMaps(settings.keep_maps, about | {"device": device, "fingerprint": lasting})
        keep.prepare(listing.root)
    if old is None or (keep is not None and not keep.complete(old)):
        return provenance, shards, keep
    shards.tidy()
    sweep(settings.path)
    return None


def _make_shards(scan: "Scan", shards: "Shards", keep: "KeptMaps | None", ranks: Process, say: Say) -> None:
    """Makes this rank's part of every shard that is not there yet, or whose maps are not."""
    from tqdm import tqdm

    def missing(k: int) -> bool:
        shard = shards.load(k)
        return shard is None or (keep is not None and not keep.complete(shard))

    wanted = [k for k in range(len(shards)) if missing(k)]
    ranks.wait()  # every rank has looked before the first new shard appears
    if len(wanted) < len(shards):
        say(f"an earlier run was interrupted: {len(shards) - len(wanted)} of {len(shards)} parts are there already")
    spans = {k: shards.span(k) for k in wanted[ranks.rank :: ranks.world]}
    total = sum(stop - start for start, stop in spans.values())
    # `disable=None`: no bar where stderr is no terminal.
    with tqdm(total=total, desc="pictures", unit="image", dynamic_ncols=True, leave=False, disable=None) as bar:
        for k, span in spans.items():
            shards.store(k, scan.run(*span, on_done=bar.update))


def report(cache: "BoxCache", reused: bool, out: Path, root: Path, seconds: float, say: Say) -> dict[str, Any]:
    """Prints the summary by `say`; returns it as JSON values."""
    from precompute.remarks import names, remarks

    splits, sources = cache.counts()
    sources = {name: count for name, count in sources.items() if count}
    by_source, by_split = (", ".join(f"{n} {name}" for name, n in counts.items()) for counts in (sources, splits))
    say(f"{len(cache)} boxes ({by_source}), {len(cache.class_names)} classes, {by_split}")
    if cache.class_names:
        say(f"classes: {names(cache.class_names)}")
    notes, attention = dict(cache.provenance.get("notes", {})), remarks(cache)
    for what, number in notes.items():
        say(f"  {number} {what}")
    for remark in attention:
        say(f"attention: {remark}")
    say(f"{len(cache.quarantine)} left out (quarantined)" + (":" if cache.quarantine else ""))
    for bad in cache.quarantine[:10]:
        say(f"  {bad.path}: {bad.reason}")
    if len(cache.quarantine) > 10:
        say(f"  ... and {len(cache.quarantine) - 10} more: {command('precompute.inspect', out, '--quarantine')}")
    if reused:
        say(f"{out} is up to date: nothing to do ({seconds:.1f} s)")
    else:
        size = out.stat().st_size / 1e6
        say(f"{out} written: {size:.2f} MB in {seconds:.1f} s ({len(cache) / seconds:.0f} pictures/s)")
        sheet = out.with_suffix(".png")
        say(f"Look at it: {command('precompute.inspect', out, '--root', root, '--sheet', sheet)}")
    facts = {"out": str(out), "root": str(root), "images": len(cache), "quarantined": len(cache.quarantine)}
    facts |= {"sources": sources, "splits": splits, "classes": len(cache.class_names)}
    return facts | {
        "notes": notes,
        "remarks": [asdict(remark) for remark in attention],
        "reused": reused,
        "seconds": round(seconds, 3),
    }


if __name__ == "__main__":
    main(program)
