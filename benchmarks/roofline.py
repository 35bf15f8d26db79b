"""How far the views are from the machine's limits: bytes and operations counted, the machine's rates measured.

python -m benchmarks.roofline --boxes cache/cub.h5 --root data/CUB_200_2011

Counted from the plans, for views made from the decoded cache (decoding has no such bound; benchmarks.throughput shows
it as a ceiling of its own):
  bytes       that must cross the memory at least once: the patch's pixels and the view-sized background in, the
              normalised view out; everything between may stay in caches
  operations  multiplications with addition: the antialiased resize of the patch (a row pass, then a column pass, as
              many taps as the scale asks for), colour (3×3 and its mean), blur (two passes), normalisation
Measured in the same run: the rate of a large copy (bytes read and written), and of a float32 matrix product.
The bound is the larger of the two times; the share is bound / measured.
"""

import os
import statistics
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.program import JobSettings, Output, Photographs, head, parse
from precompute.base.options import group
from precompute.base.program import main

if TYPE_CHECKING:
    import torch

    from augment.views.plan import Plan

COLOUR_OPERATIONS = 3 * 3 + 3  # a 3×3 matrix, and the mean that the offset needs; per pixel
NORMALISE_OPERATIONS = 3


@dataclass(frozen=True)
class RooflineSettings:
    """The program's settings and their only defaults."""

    photographs: Photographs = group(Photographs, "photographs")
    job: JobSettings = group(JobSettings, "job", hidden=("peers", "threads"), backends=("fused:linear",), repeats=7)
    output: Output = group(Output, "result")


def program(argv: list[str] | None = None) -> int:
    """Parses the command line, counts, measures, prints; exit status 0 done, 1 failed, 2 usage."""
    settings = parse(RooflineSettings, "benchmarks.roofline", __doc__, argv)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    settings.output.deliver(measure(settings), table)
    return 0


def count(plan: "Plan", itemsize: int = 4) -> tuple[int, int]:
    """Bytes and operations of all views of a plan, from decoded patches and view-sized backgrounds.

    `itemsize`: bytes of one number of the finished view.
    """
    from augment.views.policy import blur_radius

    pixels = plan.size * plan.size
    moved = operations = 0
    for i in range(len(plan)):
        for v in range(plan.views):
            x0, y0, x1, y1 = plan.rects[i, v].tolist()
            left, top, right, bottom = plan.patch[i, v].tolist()
            width, height = max(x1 - x0, 0), max(y1 - y0, 0)
            if width and height:
                moved += 3 * (right - left) * (bottom - top)
                # A triangle of twice the scale is never narrower than two taps; columns first shrink the rows' work.
                across = max(2 * (right - left) / width, 2)
                down = max(2 * (bottom - top) / height, 2)
                operations += round(3 * width * ((bottom - top) * across + height * down))
            moved += 3 * (pixels - width * height) + 3 * pixels * itemsize
            operations += (COLOUR_OPERATIONS + NORMALISE_OPERATIONS) * pixels
            if plan.sigma[i, v] > 0:
                operations += 2 * (2 * blur_radius(float(plan.sigma[i, v])) + 1) * 3 * pixels
    return moved, operations


def measure(settings: RooflineSettings) -> dict[str, Any]:
    """The result."""
    import torch

    from augment.views.policy import Policy
    from benchmarks import harness, job, scopes

    torch.set_num_threads(1)
    wanted, unit = settings.job, settings.job.unit
    chosen = job.choose(wanted.backends, device=wanted.device, without=("dali",))
    sizes: dict[str, Any] = {"batch": wanted.batch, "batches": wanted.batches, "device": wanted.device}
    work = job.make_job(settings.photographs.images(), Policy(size=wanted.size), **sizes)
    counted = [count(plan) for plan in work.plans["linear"]]
    moved, operations = (sum(column) / work.samples for column in zip(*counted, strict=True))
    rates = Rates(work.device)
    with ExitStack() as stack:
        arms = list(scopes.ARMS["apply"](work, chosen, [], stack))
        rulers = [harness.Arm("copy", rates.copy, rates.rounds), harness.Arm("multiply", rates.multiply, rates.rounds)]
        harness.measure([*arms, *rulers], wanted.repeats)
    middle = {arm.name: statistics.median(getattr(arm, unit)) for arm in [*arms, *rulers]}
    bandwidth = rates.copied / (middle["copy"] / 1e3)
    speed = rates.multiplied / (middle["multiply"] / 1e3)
    bounds = {"memory": 1e3 * moved / bandwidth, "arithmetic": 1e3 * operations / speed}
    binds = max(bounds, key=lambda name: bounds[name])
    inside = "decoded images in memory to two normalised views"
    return {
        **head("roofline", settings, unit),
        "arms": [harness.row(arm, inside) for arm in arms],
        "roofline": {
            "copy_gigabytes_per_second": bandwidth / 1e9,
            "gigaoperations_per_second": speed / 1e9,
            "bytes_per_sample": moved,
            "operations_per_sample": operations,
            "bounds_ms": bounds,
            "binds": binds,
            "shares": {arm.name: bounds[binds] / middle[arm.name] for arm in arms},
        },
    }


class Rates:
    """The machine's own rates: a copy that no cache holds, and a matrix product in float32."""

    rounds = 4

    def __init__(self, device: "torch.device", copy_bytes: int | None = None, side: int | None = None) -> None:
        import torch

        cuda = device.type == "cuda"
        copy_bytes = copy_bytes or (1 << 30 if cuda else 128 << 20)
        side = side or (8192 if cuda else 768)
        self._wait = torch.cuda.synchronize if cuda else lambda: None
        self._from = torch.ones(copy_bytes, dtype=torch.uint8, device=device)
        self._to = torch.empty_like(self._from)
        self._factor = torch.ones(side, side, device=device)
        self._product = torch.empty_like(self._factor)
        self.copied = 2 * copy_bytes  # read and written
        self.multiplied = side**3  # multiplications with addition

    def copy(self) -> None:
        """`rounds` copies."""
        for _ in range(self.rounds):
            self._to.copy_(self._from)
        self._wait()

    def multiply(self) -> None:
        """`rounds` products."""
        import torch

        for _ in range(self.rounds):
            torch.mm(self._factor, self._factor, out=self._product)
        self._wait()


def table(document: dict[str, Any]) -> str:
    """The result as text: counts, the machine's rates, the bounds, and the share of the binding one."""
    roof = document["roofline"]
    unit = document["unit"]
    word = {"cpu_ms": "CPU ms", "wall_ms": "ms"}[unit]
    lines = [
        f"\nmachine: copies {roof['copy_gigabytes_per_second']:.1f} GB/s (read and written), "
        f"multiplies {roof['gigaoperations_per_second']:.1f} G/s in float32",
        f"a source image (two views): {roof['bytes_per_sample'] / 1e6:.2f} MB, "
        f"{roof['operations_per_sample'] / 1e6:.1f} M multiplications",
        f"bounds: memory {roof['bounds_ms']['memory']:.3f} ms, arithmetic {roof['bounds_ms']['arithmetic']:.3f} ms; "
        f"{roof['binds']} binds",
        "",
    ]
    lines += [
        f"{arm['name']:32} {arm[unit]['median']:.3f} {word} a source image: "
        f"{roof['shares'][arm['name']]:.0%} of the bound"
        for arm in document["arms"]
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main(program)
