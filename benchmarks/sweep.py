"""How the cost of views grows: one quantity is varied, everything else stays.

python -m benchmarks.sweep --over batch --boxes cache/cub.h5 --root data/CUB_200_2011
python -m benchmarks.sweep --over image --values 0.2 0.8 3 12 --peers opencv --out image.json

  batch    source images of a batch                                  (JPEG bytes in memory → views, CPU time)
  size     side of a view in pixels                                  (the same)
  image    megapixels of the photographs: resized, saved as JPEG 90  (the same)
  images   images of the set: its files, again and again             (the whole loader, CPU time)
  threads  threads of ours, DataLoader workers of the peers          (the whole loader, time on the clock)

The slope is that of log(cost) over log(value): 0 where the value costs nothing, 1 where the cost is proportional to it.
All arms at all values take turns, as in benchmarks.throughput.
"""

import math
import os
import statistics
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.program import DataSettings, check_size, deliver, parse, row
from precompute.base.errors import UsageError
from precompute.base.options import option
from precompute.base.program import main

if TYPE_CHECKING:
    from augment.stream.imageset import ImageSet
    from benchmarks.harness import Arm
    from precompute.base.boxfile import BoxCache

VALUES: dict[str, tuple[float, ...]] = {
    "batch": (4, 16, 64),
    "size": (64, 128, 224, 448),
    "image": (0.2, 0.8, 3, 12),
    "images": (64, 256, 1024),
    "threads": (1, 2, 4),
}
_DEFAULTS = "; ".join(f"{name} {' '.join(f'{v:g}' for v in values)}" for name, values in VALUES.items())
_WORDS = {
    "batch": "source images of a batch",
    "size": "pixels, side of a view",
    "image": "megapixels of a photograph",
    "images": "images of the set",
    "threads": "threads or workers",
}


@dataclass(frozen=True)
class Settings(DataSettings):
    over: str = option("batch", "what is varied", choices=tuple(VALUES))
    values: tuple[float, ...] = option((), f"its values (default: {_DEFAULTS})")
    backends: tuple[str, ...] = option(("fused:linear", "fused:torchvision"), "our backends, as backend:colour")
    peers: tuple[str, ...] = option(("opencv", "pillow"), "peers (none: no peers)")
    batch: int = option(16, "source images of a batch, unless they are varied")
    samples: int = option(64, "source images of a timed repeat, at least")
    size: int = option(224, "side of a view in pixels, unless it is varied")
    repeats: int = option(5, "timed repeats of every arm at every value, all taking turns")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.values:
            object.__setattr__(self, "values", VALUES[self.over])
        whole = self.over != "image"
        if len(self.values) < 2 or min(self.values) <= 0 or (whole and any(v != int(v) for v in self.values)):
            kind = "whole numbers" if whole else "numbers"
            raise ValueError(f"--values {' '.join(map(str, self.values))}: must be at least two positive {kind}")
        for value in self.values if self.over == "size" else ():
            check_size(int(value))


def program(argv: list[str] | None = None) -> int:
    """Parses the command line, measures every value, prints; exit status 0 done, 1 failed, 2 usage."""
    settings = parse(Settings, "benchmarks.sweep", __doc__, argv)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    deliver(measure(settings), settings, table)
    return 0


def measure(settings: Settings) -> dict[str, Any]:
    """The result document: one arm for every backend or peer at every value, and the slopes."""
    import torch

    from benchmarks import harness, job, peers

    torch.set_num_threads(1)
    chosen = job.choose(settings.backends, device="cpu")
    wanted = peers.find(() if settings.peers == ("none",) else settings.peers)
    for peer in wanted:
        if why := peer.missing():
            raise UsageError(f"--peers {peer.name}: {why}")
    ((cache, root),) = settings.images().parts
    with ExitStack() as stack:
        arms: dict[float, list[Arm]] = {}
        for value in settings.values:
            images = _images(settings, value, cache, root, stack)
            arms[value] = _arms(settings, value, images, chosen, wanted, stack)
        settings.say(f"{settings.over}: {len(settings.values)} values, {len(arms[settings.values[0]])} arms each")
        harness.measure([a for some in arms.values() for a in some], settings.repeats, say=settings.progress)
    return _document(settings, arms)


def _arms(
    settings: Settings,
    value: float,
    images: "ImageSet",
    chosen: list[tuple[str, str]],
    wanted: Sequence[Any],
    stack: ExitStack,
) -> "list[Arm]":
    """All backends and peers at one value."""
    from augment.views.policy import Policy
    from benchmarks.job import make_job
    from benchmarks.scopes import ARMS

    whole = int(value)
    batch = whole if settings.over == "batch" else settings.batch
    samples = whole if settings.over == "images" else max(settings.samples, batch)
    size = whole if settings.over == "size" else settings.size
    work = make_job(
        images,
        Policy(size=size),
        batch=batch,
        batches=-(-samples // batch),
        threads=whole if settings.over == "threads" else 1,
    )
    made = list(ARMS[_scope(settings.over)](work, chosen, wanted, stack))
    return [arm for arm in made if arm.name != "decode only"]


def _scope(over: str) -> str:
    return "loader" if over in ("images", "threads") else "decode+apply"


def _images(settings: Settings, value: float, cache: "BoxCache", root: Path, stack: ExitStack) -> "ImageSet":
    """The photographs for one value: as they are, resized, or as many as are wanted."""
    import numpy as np

    from augment.stream.imageset import ImageSet

    if settings.over == "image":
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        count = max(settings.samples, settings.batch) // settings.batch * settings.batch
        rows = np.arange(count) % min(len(cache), 32)  # a dozen megapixels take half a second to make
        return ImageSet.open(resized(cache, root, rows, value, folder), folder)
    most = max(settings.samples, *map(int, settings.values if settings.over in ("batch", "images") else (0,)))
    most = -(-most // settings.batch) * settings.batch
    return ImageSet.open(_rows(cache, np.arange(max(most, 2 * settings.batch)) % len(cache)), root)


def _rows(cache: "BoxCache", rows: Any, **changes: Any) -> "BoxCache":
    """The cache of these rows, also of some more than once."""
    from dataclasses import replace

    from precompute.base.boxfile import COLUMNS

    columns = {name: getattr(cache, name)[rows] for name in COLUMNS}
    return replace(cache, **columns | changes)


def resized(cache: "BoxCache", root: Path, rows: Any, megapixels: float, folder: Path) -> "BoxCache":
    """Writes the photographs of `rows` (int64 [n]) with that many pixels to `folder`; the cache of those files.

    Lanczos, JPEG of quality 90 with 4:2:0 colours, as cameras and data sets have it. Boxes are relative: they stay.
    """
    import io

    import numpy as np
    from PIL import Image

    from precompute.base import pixels

    made: dict[int, tuple[str, int, int, int]] = {}
    for k in np.unique(rows).tolist():
        picture = Image.fromarray(pixels.decode(cache.read(root, k)))
        scale = math.sqrt(megapixels * 1e6 / (picture.width * picture.height))
        width, height = (max(round(scale * side), 16) for side in picture.size)
        data = io.BytesIO()
        picture.resize((width, height), Image.Resampling.LANCZOS).save(data, "jpeg", quality=90)
        (folder / f"{k}.jpg").write_bytes(data.getvalue())
        made[k] = f"{k}.jpg", len(data.getvalue()), width, height
    names, sizes, widths, heights = zip(*(made[k] for k in rows.tolist()), strict=True)
    return _rows(
        cache,
        rows,
        paths=np.array(names, "S"),
        file_sizes=np.array(sizes, np.int64),
        widths=np.array(widths, np.int32),
        heights=np.array(heights, np.int32),
        banners=np.zeros(len(rows), np.int16),
        plain=np.ones(len(rows), bool),
    )


def slope(values: Sequence[float], costs: Sequence[float]) -> float:
    """Of log(cost) over log(value), by least squares."""
    return statistics.linear_regression([math.log(v) for v in values], [math.log(c) for c in costs]).slope


def _document(settings: Settings, arms: "dict[float, list[Arm]]") -> dict[str, Any]:
    from benchmarks import harness, results
    from benchmarks.throughput import INSIDE

    unit = "wall_ms" if settings.over == "threads" else "cpu_ms"
    inside = INSIDE[_scope(settings.over)]
    rows = [
        row(f"{arm.name} @ {value:g}", inside, arm.samples, arm.cpu_ms, arm.wall_ms)
        for value, some in arms.items()
        for arm in some
    ]
    names = [arm.name for arm in next(iter(arms.values()))]
    ratios = {}
    for value, some in arms.items():
        pairs = [(p, o) for p in some for o in some if o.name.startswith("ours") and not p.name.startswith("ours")]
        ratios |= {f"{p.name} @ {value:g} / {o.name} @ {value:g}": harness.ratio(p, o, unit) for p, o in pairs}
    costs = {n: [statistics.median(getattr(some[k], unit)) for some in arms.values()] for k, n in enumerate(names)}
    return {
        "schema": results.SCHEMA,
        "benchmark": "sweep",
        "settings": settings.told(),
        "unit": unit,
        **harness.facts(),
        "peak_memory_mib": round(harness.peak_memory_mib(), 1),
        "arms": rows,
        "ratios": ratios,
        "sweep": {
            "over": settings.over,
            "words": _WORDS[settings.over],
            "values": list(arms),
            "costs": costs,
            "slopes": {name: slope(list(arms), cost) for name, cost in costs.items()},
        },
    }


def table(document: dict[str, Any]) -> str:
    """Costs as text: a line an arm, a column a value, the slope last."""
    sweep = document["sweep"]
    word = {"cpu_ms": "CPU ms", "wall_ms": "ms on the clock"}[document["unit"]]
    lines = [f"\n{word} a source image over {sweep['words']}: {document['arms'][0]['inside']}", ""]
    lines.append(f"{'':32}" + "".join(f"{v:>10g}" for v in sweep["values"]) + f"{'slope':>10}")
    for name, costs in sweep["costs"].items():
        lines.append(f"{name:32}" + "".join(f"{c:10.2f}" for c in costs) + f"{sweep['slopes'][name]:10.2f}")
    return "\n".join(lines)


if __name__ == "__main__":
    main(program)
