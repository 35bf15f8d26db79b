"""How far the views are from the machine's limits: bytes and operations counted, the machine's rates measured.

python -m benchmarks.roofline --boxes cache/cub.h5 --root data/CUB_200_2011

Counted from the plans, for views made from the decoded cache (decoding has no such bound):
  bytes       that must cross the memory: the patch's pixels and the view-sized background in, the normalised view out
  operations  multiplications with addition: the antialiased resize of the patch (a row pass, then a column pass, as
              many taps as the scale asks for), colour (3×3 and its mean), blur (two passes), normalisation
Measured in the same run: the rates of a large copy (bytes read and written) and of a float32 matrix product.
The bound is the larger of the two times; the share is bound / measured.
"""

import os
import statistics
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from benchmarks import harness
from benchmarks.harness import Arm
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
    settings.output.deliver([measure(settings)], table)
    return 0


def count(plan: "Plan", itemsize: int = 4) -> tuple[int, int]:
    """Bytes and operations of all views of a plan, from decoded patches and view-sized backgrounds.

    `itemsize`: bytes of one number of the finished view.
    """
    import numpy as np

    from augment.views.policy import blur_radius

    pixels = plan.size * plan.size
    width, height = np.moveaxis(np.maximum(plan.rects[..., 2:] - plan.rects[..., :2], 0).astype(np.int64), -1, 0)
    shown = width * height > 0
    wide, high = np.moveaxis((plan.patch[..., 2:] - plan.patch[..., :2]).astype(np.int64), -1, 0) * shown
    moved = 3 * wide * high + 3 * (pixels - width * height) + 3 * pixels * itemsize
    # A triangle of twice the scale is never narrower than two taps; columns first shrink the rows' work.
    across, down = (np.maximum(2 * a / np.maximum(b, 1), 2) for a, b in ((wide, width), (high, height)))
    resize = np.rint(3 * width * (high * across + height * down)) * shown
    windows = sum(2 * blur_radius(float(sigma)) + 1 for sigma in plan.sigma.flat if sigma > 0)
    colours = moved.size * (COLOUR_OPERATIONS + NORMALISE_OPERATIONS)
    return int(moved.sum()), int(resize.sum()) + colours * pixels + 2 * windows * 3 * pixels


def measure(settings: RooflineSettings) -> dict[str, Any]:
    """The result."""
    import torch

    from augment.views.policy import Policy
    from benchmarks import job, scopes

    torch.set_num_threads(1)
    unit = settings.job.unit
    chosen = job.choose(settings.job, without="dali")
    work = job.make_job(settings.photographs.images(), Policy(size=settings.job.size), settings.job)
    counted = [count(plan) for plan in work.plans["linear"]]
    moved, operations = (sum(column) / work.samples for column in zip(*counted, strict=True))
    of_machine, copied, multiplied = rulers(work.device)
    with ExitStack() as stack:
        arms = list(scopes.ARMS["apply"](work, chosen, [], stack))
        harness.measure([*arms, *of_machine], settings.job.repeats)
    middle = {arm.name: statistics.median(getattr(arm, unit)) for arm in [*arms, *of_machine]}
    bandwidth = copied / (middle["copy"] / 1e3)
    speed = multiplied / (middle["multiply"] / 1e3)
    bounds = {"memory": 1e3 * moved / bandwidth, "arithmetic": 1e3 * operations / speed}
    binds = max(bounds, key=lambda name: bounds[name])
    inside = {"inside": "decoded images in memory to two normalised views"}
    return head("roofline", settings, unit) | {
        "arms": [harness.row(arm) | inside for arm in arms],
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


def rulers(device: "torch.device") -> tuple[list[Arm], int, int]:
    """Arms of the machine's own rates, the bytes that a copy reads and writes, and the product's multiplications.

    The copy is larger than any cache; the product is one of float32 matrices.
    """
    import torch

    cuda = device.type == "cuda"
    size, side = (1 << 30, 8192) if cuda else (128 << 20, 768)
    source, factor = torch.ones(size, dtype=torch.uint8, device=device), torch.ones(side, side, device=device)
    target, product = torch.empty_like(source), torch.empty_like(factor)

    def work(step: Callable[[], object]) -> None:
        for _ in range(4):
            step()
        if cuda:
            torch.cuda.synchronize()

    steps = {"copy": lambda: target.copy_(source), "multiply": lambda: torch.mm(factor, factor, out=product)}
    return [Arm(name, partial(work, step), 4) for name, step in steps.items()], 2 * size, side**3


def table(document: dict[str, Any]) -> str:
    """The result as text: counts, the machine's rates, the bounds, and the share of the binding one."""
    roof = document["roofline"]
    unit = document["unit"]
    word = "CPU ms" if unit == "cpu_ms" else "ms"
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
