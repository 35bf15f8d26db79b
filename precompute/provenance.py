"""How a box file was made, as it says itself; and whether an older file is what a new run would make."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from precompute.base.boxfile import BoxCache
from precompute.base.errors import UserError
from precompute.base.maps import check_maps, find_map, map_names
from precompute.datasets.listing import Box, Listing
from precompute.scan import ScanSettings
from precompute.shards import annotations, size_and_time

REVISION = 1  # of this package's meaning: another number makes older files and shards stale


def described(dataset: str, listing: Listing, settings: ScanSettings) -> dict[str, Any]:
    """The settings as the box file keeps them: those that decide its rows, and the root as it was given."""
    sources = (["gt"] if settings.truth else []) + ([settings.detector] if settings.detector else [])
    about: dict[str, Any] = {"dataset": dataset, "root": str(listing.root), "source": ", else ".join(sources)}
    about["revision"] = REVISION
    if settings.detector:
        model = settings.model
        about |= {"form": settings.form.name, "value": settings.form.number, "grid": settings.grid}
        about |= {"detector": describe_maps(settings.maps or "", listing) if model is None else model.describe()}
    return about


def describe_maps(folder: str, listing: Listing) -> dict[str, Any]:
    """Where maps were read from, and a hash of their sizes and times of change: other maps make other boxes."""
    if not os.path.isdir(folder):
        raise UserError(f"--maps {folder}: there is no such folder")
    check_maps(folder, listing.paths)
    files = {path: find_map(folder, path) for path in listing.paths}
    maps = [[path, *size_and_time(Path(file))] for path, file in files.items() if file is not None]
    if not maps:
        names = " or ".join(map_names(folder, listing.paths[0]))
        raise UserError(f"--maps {folder}: no map for any of {len(listing)} pictures; expected {names}")
    return {"detector": "maps", "folder": folder, "maps": len(maps), "fingerprint": digest(maps)}


def versions(settings: ScanSettings) -> dict[str, str]:
    """Versions of what the pixels pass through."""
    import PIL
    from PIL import features

    numbers = {"pillow": PIL.__version__, "libjpeg_turbo": str(features.version_feature("libjpeg_turbo"))}
    if settings.detector and settings.detector != "maps":
        import torch

        numbers["torch"] = torch.__version__
    return numbers


def reusable(out: Path, provenance: dict[str, Any], listing: Listing, say: Callable[[str], Any]) -> BoxCache | None:
    """The file that is there, if it is what this run would make; None where there is none.

    `say` is told where an older file does not show all of that. Raises UserError, with both values and the remedy,
    where it was made otherwise or is damaged.
    """
    if not out.exists():
        return None
    old = BoxCache.open(out)
    # A root may be named in other ways; "path" is of earlier versions and did not change the boxes.
    then, now = (
        {key: value for key, value in config.items() if key not in ("root", "path")}
        for config in (old.provenance.get("config", {}), provenance["config"])
    )
    remedy = "Name another --out, or make it again with --rebuild."
    if then != now:
        keys = [k for k in sorted(then.keys() | now.keys()) if then.get(k) != now.get(k)]
        pairs = "; ".join(f"{k}: {then.get(k, 'nothing')} there, {now.get(k, 'nothing')} now" for k in keys)
        raise UserError(f"{out} exists and was made with other settings ({pairs}). {remedy}")
    if old.provenance.get("fingerprint") != provenance["fingerprint"]:
        raise UserError(f"{out} exists, but the pictures have changed since: {difference(old, listing)}. {remedy}")
    noted, now = str(old.provenance.get("annotations")), provenance["annotations"]
    if older := ":" not in noted:
        now = annotations(listing, version=1)
    if noted != now:
        raise UserError(f"{out} exists, but classes, labels, splits or boxes of {listing.root} have changed. {remedy}")
    boxes = listing.boxes or ()
    if older and (any(listing.files) or any(isinstance(box, Box) and box.size for box in boxes)):
        say(f"{out} is of an earlier version, which did not note all that its annotated boxes are made of: if you have "
            "mended files of annotations or of sizes since, make it again with --rebuild")  # fmt: skip
    return old


def difference(old: BoxCache, listing: Listing) -> str:
    """How the pictures differ from those of an older file, in numbers and an example."""
    offsets = np.full(len(old), -1) if old.offsets is None else old.offsets
    before = {old.path(i): (int(size), int(offsets[i])) for i, size in enumerate(old.file_sizes)}
    left_out = {bad.path for bad in old.quarantine}
    new = [p for p in listing.paths if p not in before and p not in left_out]
    gone = sorted(before.keys() - set(listing.paths))
    members = listing.members or [None] * len(listing)
    now = ((p, (m.size, m.offset) if m else (size_and_time(listing.root / p)[0], -1))
           for p, m in zip(listing.paths, members, strict=True) if p in before)  # fmt: skip
    other = [path for path, place in now if place != before[path]]
    parts = [f"{len(x)} {what} (e.g. {x[0]})" for what, x in (("new", new), ("gone", gone), ("changed", other)) if x]
    return ", ".join(parts) or "a picture that was left out has changed"


def digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
