"""Image set -> one HDF5 file of saliency boxes.

    python -m precompute.boxes --dataset cub --root data/CUB_200_2011 --out cache/cub.h5
    python -m precompute.boxes --dataset folder --root my_pictures --out cache/mine.h5
    torchrun --nproc-per-node 4 -m precompute.boxes --dataset inat2018

Every picture is decoded once, so damaged files are found here and not during training: they are left out, and named
with the reason. An interrupted run goes on where it stopped. A finished file is reused if nothing changed.
"""

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from precompute.base.errors import UsageError, UserError
from precompute.base.options import Parser, add_options, option, read_options
from precompute.base.program import command, cores, main, progress
from precompute.base.ranks import Team
from precompute.datasets import DATASETS, download, read_dataset
from precompute.saliency import DETECTORS

if TYPE_CHECKING:
    from precompute.base.boxfile import BoxCache
    from precompute.datasets.base import Listing
    from precompute.scan import Pass, Settings
    from precompute.shards import Shards

FALLBACK = "geodesic-colour"  # the detector for pictures without an annotated box, if none is asked for


@dataclass(frozen=True)
class Config:
    """The command's settings and their only defaults."""

    dataset: str = option("demo", "layout of the image set", choices=DATASETS)
    root: str | None = option(None, "its folder (default: data/ and the set's usual folder)")
    out: str | None = option(None, "the file to write (default: cache/DATASET.h5)")
    source: str = option(
        "auto",
        "where boxes come from: gt (the set's annotation), a detector, or a folder of maps; "
        f"auto: gt where there is one, else u2net with --weights, else {FALLBACK}",
        choices=("auto", "gt", "maps", *DETECTORS),
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
    store_path: bool = option(
        False, "keep the boxes of every gamma: python -m precompute.search.box_path changes it later"
    )
    device: str = option("auto", "where detectors run: auto, cpu, cuda")
    workers: int = option(0, "threads; 0: one per core")
    shard: int = option(0, "pictures between two points from which an interrupted run resumes; 0: by the set's size")
    download: bool = option(False, "fetch the set's official archive first, where there is one")
    rebuild: bool = option(False, "make the file again, whatever is there")
    json: bool = option(False, "print the summary as one JSON document at the end")

    def __post_init__(self) -> None:
        if (self.source == "maps") != (self.maps is not None):
            raise ValueError("--source maps and --maps DIR belong together")
        takers = [name for name, kind in DETECTORS.items() if kind.needs_weights]
        if self.weights is not None and self.source not in ("auto", *takers):
            raise ValueError(f"--weights: --source {self.source} has none; {' and '.join(takers)} take them")
        for name, least in (("workers", 0), ("shard", 0), ("grid", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"--{name} {getattr(self, name)}: must be {least} or more")
        if self.store_path and self.form != "tempered":
            raise ValueError(f"--store-path: there is one for --form tempered only, not for {self.form}")
        if self.grid > 1024:
            raise ValueError(f"--grid {self.grid}: at most 1024 (64 is enough, see the documentation)")
        if self.value is not None and not 0 <= self.value <= 1:
            raise ValueError(f"--value {self.value}: must be from 0 to 1")


def program(argv: list[str] | None = None) -> int:
    parser = Parser("precompute.boxes", __doc__)
    add_options(parser, Config)
    config = read_options(Config, parser.parse_args(argv))
    started = time.perf_counter()
    out = Path(config.out or f"cache/{config.dataset}.h5")
    if out.is_dir():
        raise UserError(f"--out {out} is a folder: name a file in it, e.g. {out / (config.dataset + '.h5')}")
    team = Team()
    if team.rank:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  (for the rest of this process)
    try:
        if config.download:
            team.decide(lambda: str(download(config.dataset, config.root)))
        listing = read_dataset(config.dataset, config.root)
        settings, why = choose(config, listing, team)
        say(f"{config.dataset}: {len(listing)} pictures listed below {listing.root}")
        say(f"boxes from {why}")
        if team.size > 1:
            say(f"{team.size} processes")
        finished = make(config, listing, settings, out, team)
    except UserError:
        if team.rank:  # rank 0 says it
            raise SystemExit(1) from None
        raise
    finally:
        team.leave()
    if finished is not None:
        report(*finished, out, listing.root, time.perf_counter() - started, config.json)
    return 0


def choose(config: Config, listing: "Listing", team: Team) -> tuple["Settings", str]:
    """What to do for this set, and why, in words. Raises UserError for a source that the set does not have."""
    from precompute.saliency import make_detector
    from precompute.scan import Settings
    from precompute.search.forms import Form

    if config.source == "gt" and not listing.has_boxes:
        raise UserError(
            f"--source gt: the set {config.dataset!r} has no annotated boxes; take a detector: {', '.join(DETECTORS)}"
        )
    truth = config.source in ("auto", "gt") and listing.has_boxes
    if config.source == "gt" or (truth and listing.every_has_box):
        why = "the set's annotation (gt)" + ("" if config.source == "gt" else ": every picture of this set has one")
        if config.store_path:
            raise UserError("--store-path: annotated boxes have no path; take a detector with --source")
        for flag, given in (("--form", config.form != "tempered"), ("--value", config.value is not None)):
            if given:
                raise UserError(f"{flag}: annotated boxes are not searched for; take a detector with --source")
        return Settings(truth=True, detector=None), why
    detector = config.source
    if detector == "auto":
        detector = "u2net" if config.weights else FALLBACK
    device, device_why = ("cpu", "it only reads files") if detector == "maps" else choose_device(config.device, team)
    value = config.value
    if value is None and config.form == "tempered":
        value = 0.02 if detector == "maps" else make_detector(detector, weights=config.weights).gamma
    form = Form(config.form, value)
    settings = Settings(truth, detector, form, config.grid, config.weights, device, config.maps, config.store_path)
    why = f"{detector} on {device} ({device_why}), Eq. 2 {form.name} {form.number:g}, {config.grid}x{config.grid} maps"
    if truth:
        why = f"the set's annotation (gt) where a picture has one, else {why}"
    elif config.source == "auto":
        why = f"{why}: the set has no annotated boxes"
    return settings, why


def choose_device(wanted: str, team: Team) -> tuple[str, str]:
    import torch

    own = f"cuda:{team.local_rank % max(1, torch.cuda.device_count())}" if team.size > 1 else "cuda"
    if wanted == "auto":
        return (own, "a GPU is there") if torch.cuda.is_available() else ("cpu", "no GPU is there")
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise UserError("--device cuda: torch finds no GPU; take --device cpu")
    if wanted.split(":")[0] not in ("cpu", "cuda"):
        raise UsageError(f"--device {wanted}: auto, cpu or cuda")
    return own if wanted == "cuda" else wanted, "as asked"


def make(
    config: Config, listing: "Listing", settings: "Settings", out: Path, team: Team
) -> "tuple[BoxCache, bool] | None":
    """The finished box file, and whether it was there already. Writes `out`. None on ranks other than 0."""
    from precompute.base.boxfile import write
    from precompute.base.files import sweep
    from precompute.provenance import described, digest, reusable, versions
    from precompute.scan import Pass
    from precompute.shards import Shards, annotations, fingerprint, merge

    old: list[BoxCache] = []

    def decide() -> tuple[dict[str, Any], str] | None:
        """Provenance and the key of the shards; None where the file that is there will do."""
        lasting, passing = fingerprint(listing)
        provenance = {
            "config": described(config.dataset, listing, settings),
            "fingerprint": lasting,
            "annotations": annotations(listing),
            "versions": versions(settings),
        }
        key = digest([provenance, passing, settings.device.split(":")[0]])
        if not config.rebuild and (found := reusable(out, provenance, listing)) is not None:
            old.append(found)
            Shards(out, key, len(listing), config.shard).tidy()
            sweep(out)
            return None
        return provenance, key

    decision = team.decide(decide)
    if decision is None:
        return (old[0], True) if old else None
    provenance, key = decision
    shards = Shards(out, key, len(listing), config.shard)
    shards.prepare()
    work = Pass(listing, settings, config.workers or max(1, cores() // team.local_size))
    with single_threaded(settings.model is not None and settings.device == "cpu"):
        make_shards(work, shards, team)
        team.wait()
        if team.rank:
            return None
        # A shard that another run has tidied away meanwhile is made once more.
        parts = [shards.load(k) or work.run(*shards.span(k)) for k in range(len(shards))]
    if not sum(map(len, parts)):
        bad = [one for part in parts for one in part.quarantine] + listing.quarantine
        reasons = "\n".join(f"{one.path}: {one.reason}" for one in bad[:5])
        raise UserError(f"not one usable picture below {listing.root}; the first reasons:\n{reasons}")
    cache = merge(listing, parts, provenance)
    write(out, cache)
    shards.remove()
    sweep(out)
    return cache, False


@contextmanager
def single_threaded(needed: bool) -> Iterator[None]:
    """Torch works with one thread in the block where that is `needed`: every thread of the pass has its own batch."""
    if not needed:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def make_shards(work: "Pass", shards: "Shards", team: Team) -> None:
    """Makes this rank's part of every shard that is not there yet."""
    missing = [k for k in range(len(shards)) if shards.load(k) is None]
    team.wait()  # all have looked before the first new one appears
    if len(missing) < len(shards):
        say(f"an earlier run was interrupted: {len(shards) - len(missing)} of {len(shards)} parts are there already")
    missing = missing[team.rank :: team.size]
    total = sum(b - a for a, b in map(shards.span, missing))
    bar = progress(range(total + 1), total=total, what="pictures", unit="image")

    def advance(count: int) -> None:
        for _ in range(count):
            next(bar)

    for k in missing:
        shards.store(k, work.run(*shards.span(k), on_done=advance))


def report(cache: "BoxCache", reused: bool, out: Path, root: Path, seconds: float, as_json: bool) -> None:
    """The summary, for people and on request as one JSON line."""
    import numpy as np

    sources = {n: int((cache.sources == i).sum()) for i, n in enumerate(cache.source_names)}
    sources = {name: count for name, count in sources.items() if count}
    splits = {n: int(np.count_nonzero(cache.splits == i)) for i, n in enumerate(cache.split_names)}
    shown = ", ".join(f"{count} {name}" for name, count in sources.items())
    say(f"{len(cache)} boxes ({shown}), {len(cache.class_names)} classes, "
        + ", ".join(f"{count} {name}" for name, count in splits.items()))  # fmt: skip
    for what, count in cache.provenance.get("notes", {}).items():
        say(f"  {count} {what}")
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
        look = command("precompute.inspect", out, "--root", root, "--sheet", out.with_suffix(".png"))
        say(f"Look at it: {look}")
    if as_json:
        summary = {"out": str(out), "root": str(root), "images": len(cache), "quarantined": len(cache.quarantine)}
        summary |= {"sources": sources, "splits": splits, "classes": len(cache.class_names)}
        summary |= {"notes": dict(cache.provenance.get("notes", {})), "reused": reused, "seconds": round(seconds, 3)}
        print(json.dumps(summary))


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main(program)
