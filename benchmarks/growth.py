"""How the cost of views grows: the quantities that `benchmarks.throughput --over` varies.

The slope is that of log(cost) over log(value): 0 where the value costs nothing, 1 where the cost is proportional to it.
"""

import math
import statistics
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.program import JobSettings
from benchmarks.results import UNITS
from precompute.base.errors import BadValue
from precompute.base.options import build

if TYPE_CHECKING:
    from augment.stream.imageset import ImageSet
    from precompute.base.boxfile import BoxCache


class Quantity(NamedTuple):
    """Something that is varied."""

    words: str
    values: tuple[float, ...]  # by default
    scope: str = "decode+apply"


QUANTITIES = {
    "batch": Quantity("source images of a batch", (4, 16, 64)),
    "size": Quantity("pixels, side of a view", (64, 128, 224, 448)),
    "image": Quantity("megapixels of a photograph", (0.2, 0.8, 3, 12)),
    "images": Quantity("images of the set", (64, 256, 1024), "loader"),
    "threads": Quantity("threads or workers", (1, 2, 4), "loader"),
}


def check(over: str, values: Sequence[float]) -> None:
    """BadValue for values that `over` cannot have."""
    whole = over != "image"
    fit = all(0 < v < math.inf and (not whole or v == int(v)) for v in values)
    if not fit or len(values) < 2 or len(set(values)) < len(values):
        kind = "whole" if whole else "finite"
        raise BadValue("values", tuple(values), f"at least two positive {kind} numbers, none of them twice")
    for value in values if over == "size" else ():
        build(JobSettings, {"size": int(value)})  # BadValue


def job_at(job: JobSettings, over: str, value: float) -> JobSettings:
    """The job at one value, on as many images a repeat, or with another number of images."""
    whole = int(value)
    if over == "batch":
        return replace(job, batch=whole, batches=-(-job.batch * job.batches // whole))
    if over == "images":
        return replace(job, batches=-(-whole // job.batch))
    return replace(job, **{over: whole}) if over in ("size", "threads") else job


def images_at(images: "ImageSet", job: JobSettings, over: str, value: float, stack: ExitStack) -> "ImageSet":
    """The photographs of the job at one value: resized, or as they are; again and again where there are too few."""
    import numpy as np

    from augment.stream.imageset import ImageSet

    ((cache, root),) = images.parts
    rows = np.arange(job.batch * job.batches)
    if over == "image":
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        few = rows % min(len(cache), 32)  # to make one of a dozen megapixels takes half a second
        return ImageSet.open(resized(cache, root, few, value, folder), folder)
    return ImageSet.open(of_rows(cache, rows % len(cache)), root)


def resized(cache: "BoxCache", root: Path, rows: Any, megapixels: float, folder: Path) -> "BoxCache":
    """Writes the photographs of `rows` (int64 [n]) with that many pixels to `folder`; the cache of those files.

    Lanczos, JPEG of quality 90 with 4:2:0 colours, as cameras and data sets have it. Boxes are relative: they stay.
    """
    import numpy as np
    from PIL import Image

    from precompute.base import pixels

    few, places = np.unique(rows, return_inverse=True)
    paths = np.array([f"{row}.jpg" for row in few.tolist()], "S")
    small = of_rows(cache, few, paths=paths, banners=np.zeros(len(few), np.int16), plain=np.ones(len(few), bool),
                     offsets=None, packed=None)  # fmt: skip
    for i, row in enumerate(few.tolist()):
        picture = Image.fromarray(pixels.decode(cache.read(root, row)))
        scale = math.sqrt(megapixels * 1e6 / (picture.width * picture.height))
        width, height = (max(round(scale * side), 16) for side in picture.size)
        path = folder / small.path(i)
        picture.resize((width, height), Image.Resampling.LANCZOS).save(path, quality=90)
        small.file_sizes[i], small.widths[i], small.heights[i] = path.stat().st_size, width, height
    return of_rows(small, places)


def of_rows(cache: "BoxCache", rows: Any, **changes: Any) -> "BoxCache":
    """The cache of these rows, some of which may come more than once."""
    from precompute.base.boxfile import COLUMNS, FURTHER

    columns = {name: getattr(cache, name) for name in (*COLUMNS, *FURTHER)}
    return replace(cache, **{name: c[rows] for name, c in columns.items() if c is not None} | changes)


def slope(values: Sequence[float], costs: Sequence[float]) -> float:
    """Of log(cost) over log(value), by least squares."""
    return statistics.linear_regression([math.log(v) for v in values], [math.log(c) for c in costs]).slope


def summary(over: str, values: Sequence[float], arms: Sequence[dict[str, Any]], unit: str) -> dict[str, Any]:
    """Costs and slope by arm, of a result's arms "NAME @ VALUE", whose values come in order."""
    costs: dict[str, list[float]] = {}
    for arm in arms:
        costs.setdefault(arm["name"].rpartition(" @ ")[0], []).append(arm[unit]["median"])
    return {
        "over": over,
        "words": QUANTITIES[over].words,
        "values": list(values),
        "costs": costs,
        "slopes": {name: slope(values, cost) for name, cost in costs.items()},
    }


def table(document: dict[str, Any]) -> str:
    """Costs as text: a line an arm, a column a value, the slope last."""
    sweep = document["sweep"]
    inside = document["arms"][0]["inside"]
    lines = [f"\n{UNITS[document['unit']]} a source image over {sweep['words']}: {inside}", ""]
    lines.append(f"{'':32}" + "".join(f"{v:>10g}" for v in sweep["values"]) + f"{'slope':>10}")
    for name, costs in sweep["costs"].items():
        lines.append(f"{name:32}" + "".join(f"{c:10.2f}" for c in costs) + f"{sweep['slopes'][name]:10.2f}")
    return "\n".join(lines)
