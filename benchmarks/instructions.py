"""How many instructions the fused backend's CUDA kernels need for real batches, counted on the compiled code.

python -m benchmarks.instructions --boxes cache/cub.h5 --root data/CUB_200_2011
python -m benchmarks.instructions --boxes cache/cub.h5 --out now.json --beside benchmarks/counts/first.json

Needs no GPU, and times nothing. Every launch of real plans is recorded (`benchmarks.launches`), its kernel compiled,
and the machine code read as `nvdisasm` shows it. An instruction in a loop counts as often as the loop runs, which
follows from the launch's own arguments: sizes of crops, radii of blurs, orders of colour's operations. Both sides of
a branch count, so it is a little too many.

  instructions  of all warps; and of a thread, for one pixel of a view (all warps' · 32 / pixels)
  bound         the time that a GPU needs to issue them if every scheduler issues one each cycle: nothing is faster
  bytes         that must be read and written at least (`roofline.count`), and the time of a copy of so many

Cases: pictures from the decoded cache or fresh from the decoder; linear or torchvision's colour; the views' dtype.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from augment.views.policy import Policy
from benchmarks.program import Output, Photographs, enough, parse
from precompute.base.files import replacing
from precompute.base.options import group, option, option_of
from precompute.base.program import main

if TYPE_CHECKING:
    from augment.views.plan import Plan, Pool
    from benchmarks.launches import Launch

# Taken for an H200, not measured: multiprocessors · schedulers of each, which issue one instruction a cycle; cycles a
# second; bytes a second that a large copy reads and writes (its data sheet says 4.8e12 for the memory).
SCHEDULERS, CLOCK, COPY = 132 * 4, 1.755e9, 4.3e12
CASES = {  # name: (pictures from the decoded cache, colour, dtype); the first is the one that is compared
    "cached": (True, "linear", "float32"),
    "cached, bfloat16": (True, "linear", "bfloat16"),
    "uncached": (False, "linear", "float32"),
    "cached, torchvision": (True, "torchvision", "float32"),
}
Trips = tuple[tuple[str, int], ...]  # a program's loops, by the name of their variable, and how often each runs


@dataclass(frozen=True)
class InstructionsSettings:
    """The program's settings and their only defaults."""

    photographs: Photographs = group(Photographs, "photographs")
    output: Output = group(Output, "result")
    batch: int = option(256, "source images of a batch", least=1)
    batches: int = option(4, "batches that are counted; the result is their mean", least=1)
    size: int = option_of(Policy, "size")
    capability: int = option(90, "compute capability of the GPU that is compiled for: 90 is an H100 or H200")
    beside: str | None = option(None, "an earlier result: ratios to it are printed")


def program(argv: list[str] | None = None) -> int:
    """Parses the command line, counts, prints; exit status 0 done, 1 failed, 2 usage."""
    settings = parse(InstructionsSettings, "benchmarks.instructions", __doc__, argv)
    output = settings.output
    before = json.loads(Path(settings.beside).read_text()) if settings.beside else None
    document = count(settings)
    output.say(table(document, before))
    if output.out:
        with replacing(Path(output.out)) as temporary:
            temporary.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n")
        output.say(f"written: {output.out}")
    if output.json:
        print(json.dumps(document, allow_nan=False))
    return 0


def count(settings: InstructionsSettings) -> dict[str, Any]:
    """The result: of each case the instructions of each kernel, in one batch on average."""
    import torch
    import triton

    from augment.views.plan import Pool
    from benchmarks import harness, roofline

    boxes = settings.photographs.cache()
    pool, facts = Pool.of(boxes), harness.facts()
    enough(len(pool.widths), settings.batch * settings.batches)
    cases = {}
    for name, (cached, colour, dtype) in CASES.items():
        policy = Policy(size=settings.size, colour=colour)
        plans = list(drawn(policy, pool, settings.batch, settings.batches))
        kernels: Counter[str] = Counter()
        for launch in launched(policy, pool, plans, cached, dtype):
            kernels[launch.name] += of_launch(launch, settings.capability)
        moved = sum(roofline.count(plan, itemsize=4 if dtype == "float32" else 2)[0] for plan in plans)
        pixels = settings.batch * policy.views * settings.size**2
        total = kernels.total() / len(plans)
        cases[name] = {
            "warp_instructions": {kernel: round(n / len(plans)) for kernel, n in kernels.items()},
            "thread_instructions_per_pixel": round(32 * total / pixels, 1),
            "bound_ms": round(1e3 * total / (SCHEDULERS * CLOCK), 4),
            "bytes": round(moved / len(plans)),
            "bytes_ms": round(1e3 * moved / len(plans) / COPY, 4),
        }
    return {
        "settings": {
            "photographs": settings.photographs.names()["dataset"], "batch": settings.batch,
            "batches": settings.batches, "size": settings.size, "capability": settings.capability,
        },
        "versions": {"torch": torch.__version__, "triton": triton.__version__},
        "commit": facts["commit"],
        "cases": cases,
    }  # fmt: skip


def drawn(policy: Policy, pool: "Pool", batch: int, batches: int) -> "Iterator[Plan]":
    """The first plans of an epoch of just so many pictures."""
    import numpy as np

    from augment.views.schedule import Schedule

    schedule = Schedule(policy, np.arange(batch * batches), batch, seed=0, drop_last=True)
    return (schedule.plan(pool, 0, k) for k in range(batches))


def launched(policy: Policy, pool: "Pool", plans: "list[Plan]", cached: bool, dtype: str) -> "Iterator[Launch]":
    """What is launched for these plans, with pictures of the right sizes whose pixels are never looked at."""
    import torch

    from augment.backends.addressed import Addressed, KeptOnDevice
    from augment.backends.decoded import DecodedCache, Picture
    from augment.backends.fused_cuda import make_views
    from benchmarks.launches import Launch, intercepted

    host, found = torch.device("cpu"), []
    for plan in plans:
        # As large as the pool says, but of no memory that is ever written: nothing runs.
        blank = [torch.empty(int(pool.heights[i]), int(pool.widths[i]), 3, dtype=torch.uint8) for i in plan.images]
        pictures, _memory = Addressed.of([Picture(pixels) for pixels in blank]), None
        if cached:
            kept = KeptOnDevice(DecodedCache(policy, pool, budget=1 << 40), host)
            pictures, _memory = kept.add(plan.images, pictures, lambda *crops: None)
        with intercepted(lambda *a: found.append(Launch(*a))):
            make_views(policy, plan, pictures, host, getattr(torch, dtype))
        yield from found
        found.clear()


def of_launch(launch: "Launch", capability: int) -> int:
    """Warp instructions of a launch."""
    from benchmarks.launches import feigned

    with feigned(capability):
        made = launch.kernel.warmup(*launch.arguments, grid=launch.grid, **launch.options)
    entry, code = _read(made.asm["cubin"])
    work = programs(launch)
    total = entry * (math.prod(launch.grid) - work.total())  # those that find nothing to do
    for trips, many in work.items():
        often = dict(trips)
        total += many * sum(n * math.prod(often[loop] for loop in loops) for loops, n in code.items())
    return total * made.metadata.num_warps


def programs(launch: "Launch") -> Counter[Trips]:
    """The programs of a launch that have something to do, by their loops' trips."""
    import numpy as np

    from augment.backends.layout import JOB
    from augment.backends.native import VIEW

    named = launch.named
    jobs, work = named["jobs"].numpy(), Counter[Trips]()
    if launch.name == "crop_kernel":
        crops = jobs[: launch.grid[2] * (JOB.itemsize // 4)].view(JOB)  # the tables are flat, and padded
        shape, roi = np.stack((crops["width"], crops["height"]), axis=1), crops["roi"]
        taps = np.ceil(2 * np.maximum((roi[:, 2:] - roi[:, :2]) / shape.astype(np.float32), 1)).astype(int)
        tiles = np.ceil(shape / (named["COLUMNS"], named["ROWS"])).astype(int).prod(axis=1)
        for (across, down), many in zip(taps.tolist(), tiles.tolist(), strict=True):
            work[("ky", down), ("kx", across)] += many
        return work
    views = jobs[: len(named["sums"]) * (VIEW.itemsize // 4)].view(VIEW)
    mean, blur = launch.name == "mean_kernel", launch.name == "blur_kernel"
    views = views[views["jittered"] != 0] if mean else views[named["which"].numpy()[: launch.grid[-1]]]
    each = np.full(len(views), launch.grid[0])  # programs of a view
    loops = (("first", -(-named["size"] // named.get("ROWS", named["size"]))),)
    if blur:
        inner = named["TILE"] - 2 * views["radius"] * (named["CHUNKS"] == 1)
        each = np.ceil(named["size"] / inner).astype(int) ** 2
        loops = ("cx", named["CHUNKS"]), ("cy", named["CHUNKS"]), ("channel", 3)
    # The operations of torchvision's colour: all of a jittered view, or those before the contrast's.
    hue, contrast = (np.argmax(views["order"] == op, axis=1) for op in (3, 1))
    end = contrast if mean else 4 * views["jittered"]
    for h, e, many in zip(hue.tolist(), end.tolist(), each.tolist(), strict=True):
        work[*loops, ("early", min(h, e)), ("_once", int(h < e)), ("late", max(e - h - 1, 0))] += many
    return work


@cache
def _read(cubin: bytes) -> tuple[int, Counter[tuple[str, ...]]]:
    """Of a kernel's machine code `entry_of` and `by_loops`."""
    from benchmarks.launches import read_cubin

    text = read_cubin(cubin, "nvdisasm", "-g", "-c")  # with the lines of the source
    return entry_of(text), by_loops(text)


def entry_of(text: str) -> int:
    """Instructions until a program may first end or jump: all that one executes that finds nothing to do."""
    code = re.findall(r"^\s*/\*[0-9a-f]+\*/\s+(.*?);", text, re.M)
    return next(number for number, line in enumerate(code, 1) if re.match(r"@\S+ (EXIT|BRA)|EXIT", line))


def by_loops(text: str) -> Counter[tuple[str, ...]]:
    """Instructions by the loops that they are in, the outermost first; () are those in none.

    A loop is what lies between a jump back and its target. Its name is the variable of the `for` in whose line the jump
    is. ValueError where the compiler has made two loops of one `for`, whose trips would not be known.
    """
    address, line = 0, ("", 0)
    addresses: list[int] = []
    labels: dict[str, int] = {}
    jumps: list[tuple[int, str, tuple[str, int]]] = []
    for row in text.splitlines():
        if found := re.match(r"\s*//## File \"(.*?)\", line (\d+)", row):
            line = found[1], int(found[2])
        elif found := re.match(r"(\.L_x_\d+):", row):
            labels[found[1]] = address + 16 if addresses else 0
        elif found := re.match(r"\s*/\*([0-9a-f]+)\*/\s+(.*?);", row):
            address = int(found[1], 16)
            if "NOP" not in found[2]:
                addresses.append(address)
            if jump := re.search(r"\bBRA `\((\.L_x_\d+)\)", found[2]):
                jumps.append((address, jump[1], line))
    # The last jump of a kernel is one to itself, which is never reached.
    back = [(labels[to], end, at) for end, to, at in jumps if labels.get(to, end) < end]
    spans = sorted((start, -end, _variable(at)) for start, end, at in back)
    names = [name for _, _, name in spans]
    if len(set(names)) < len(names):
        raise ValueError(f"loops {names}: the compiler has made more than one of a `for`")
    inside = (tuple(name for start, end, name in spans if start <= at <= -end) for at in addresses)
    return Counter(inside)


def _variable(line: tuple[str, int]) -> str:
    """The variable of the `for` in that line of the kernels' source. It may have been compiled in another checkout."""
    import augment.backends

    source = Path(augment.backends.__file__).with_name(Path(line[0]).name).read_text().splitlines()
    if not (found := re.match(r"\s*for (\w+) in", text := source[line[1] - 1])):
        raise ValueError(f"{line[0]}, line {line[1]}: {text.strip()!r} jumps back and is no `for`")
    return found[1]


def table(document: dict[str, Any], before: dict[str, Any] | None = None) -> str:
    """The result as text."""
    lines, sources = [], f"{document['settings']['batch']} sources"
    for name, case in document["cases"].items():
        each, bound, copy = (case[key] for key in ("thread_instructions_per_pixel", "bound_ms", "bytes_ms"))
        lines += [
            "",
            f"{name}: {each} instructions a pixel; {sources} {bound:.3f} ms, a copy of the bytes {copy:.3f} ms",
        ]
        kernels = case["warp_instructions"].items()
        lines += [f"  {kernel:16} {n / 1e6:8.1f} M warp instructions" for kernel, n in kernels]
        if before:
            old = before["cases"][name]["bound_ms"]
            lines.append(f"  {case['bound_ms'] / old:.2f} of what it was ({old:.3f} ms)")
    lines += ["", "From the compiled code, not measured: the least that issuing takes, were nothing waited for."]
    return "\n".join(lines)


if __name__ == "__main__":
    main(program)
