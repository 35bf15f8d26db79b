"""What two SaliencySwap views of an image cost: our backends beside what users would pick instead.

python -m benchmarks.throughput --boxes cache/cub.h5 --root data/CUB_200_2011
python -m benchmarks.throughput --scope decode+apply --peers opencv pillow --json benchmarks/results/mine.json

Scopes, and what is inside the timer:
  apply          decoded images in memory → two normalised views; ours from the decoded cache (open_views(cache="ram")),
                 where backgrounds are kept at view size; the DALI graph always decodes and is not in this scope
  decode+apply   JPEG bytes in memory → two normalised views; one thread
  loader         files on disk → batches, the whole loader: open_views, or a DataLoader with as many workers
  train          a step of ResNet-18 on live views; the arm "frozen batch" takes the same batch again and again
Figures are CPU seconds of the whole process tree per source image, arms taking turns; wall rates stand beside them.
All arms get the same plans, and the peers' views are compared with ours before anything is timed.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from precompute.cli import UsageError, UserError, add_options, as_json, main, option, read_options

if TYPE_CHECKING:
    import torch

    from augment.imageset import ImageSet
    from augment.plan import Plan
    from augment.policy import Policy
    from augment.schedule import Schedule
    from benchmarks.harness import Arm

SCOPES = ("apply", "decode+apply", "loader", "train")
INSIDE = {
    "apply": "decoded images in memory to two normalised views",
    "decode+apply": "JPEG bytes in memory to two normalised views, one thread",
    "loader": "files on disk to batches of two normalised views",
    "train": "one step of ResNet-18 (forward and backward of both views)",
}


@dataclass(frozen=True)
class Settings:
    boxes: str | None = option(None, "box file made by precompute.boxes (default: cache/DATASET.h5)")
    root: str | None = option(None, "image folder that the box file's paths are relative to (default: data/DATASET)")
    dataset: str = option("demo", "data set whose boxes are in cache/, where --boxes is not given")
    scope: tuple[str, ...] = option(("decode+apply",), "what is inside the timer", choices=SCOPES)
    backends: tuple[str, ...] = option((), "our backends (default: all that are installed)")
    peers: tuple[str, ...] = option((), "peers (default: all that are installed; none: no peers)")
    batch: int = option(32, "source images of a batch")
    batches: int = option(4, "batches in one timed repeat")
    size: int = option(224, "side of a view in pixels")
    repeats: int = option(7, "timed repeats of every arm, arms taking turns")
    threads: int = option(1, "threads of our backends, and workers of the peers' DataLoader (loader and train)")
    device: str = option("cpu", "where our backends run: cpu or cuda", choices=("cpu", "cuda"))
    out: str | None = option(None, "also write the result to this file (a folder: benchmarks/results is ours)")
    json: bool = option(False, "print the result as one JSON document at the end")

    def __post_init__(self) -> None:
        for name in ("batch", "batches", "repeats", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} {getattr(self, name)}: must be at least 1")
        if (self.boxes is None) != (self.root is None):
            raise ValueError("--boxes and --root go together")


@dataclass(frozen=True)
class Job:
    """The plans and files that every arm works on."""

    settings: Settings
    images: "ImageSet"
    schedule: "dict[str, Schedule]"  # per meaning of colour
    plans: "dict[str, list[Plan]]"
    files: "list[list[bytes]]"

    @property
    def samples(self) -> int:
        return self.settings.batch * len(self.files)


def program(argv: list[str] | None = None) -> int:
    """Parses the command line, checks the peers, measures, prints; exit status 0 done, 1 failed, 2 usage."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.throughput",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_options(parser, Settings)
    settings = read_options(Settings, parser.parse_args(argv))
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    say = lambda text: print(text, file=sys.stderr if settings.json else sys.stdout, flush=True)  # noqa: E731
    from benchmarks import results

    documents = [_measure_scope(settings, scope, say) for scope in settings.scope]
    for document in documents:
        results.validate(document)
        say(table(document))
    if settings.out:
        for document in documents:
            path = Path(settings.out)
            if len(documents) > 1:
                path = path.with_stem(f"{path.stem}-{document['settings']['scope'].replace('+', '-')}")
            results.save(document, path)
            say(f"written: {path}")
    if settings.json:
        print(json.dumps(documents[0] if len(documents) == 1 else documents, allow_nan=False))
    return 0


def _measure_scope(settings: Settings, scope: str, say: Callable[[str], None]) -> dict[str, Any]:
    import torch

    from benchmarks import harness, peers

    torch.set_num_threads(settings.threads)
    chosen = _backends(settings, scope)
    names = () if settings.peers == ("none",) else settings.peers or tuple(peers.PEERS)
    wanted, skipped = [], {}
    for peer in peers.find(names):
        why = peer.missing()
        if why:
            skipped[peer.name] = why
            say(f"skipped: {peer.name}: {why}")
        else:
            wanted.append(peer)
    job = _job(settings)
    with ExitStack() as stack:
        checks = {p.name: _check(job, p, stack) for p in wanted}
        for name, difference in checks.items():
            say(f"checked: {name}'s views are {difference:.2f} levels of 255 from ours on average")
        arms = list(_ARMS[scope](job, chosen, wanted, stack))
        say(f"{scope}: {len(arms)} arms, {job.samples} images a repeat, {settings.repeats} repeats")
        harness.measure(arms, settings.repeats, say=say if sys.stderr.isatty() else lambda _: None)
    return _document(settings, scope, arms, checks, skipped)


def _backends(settings: Settings, scope: str) -> list[tuple[str, str]]:
    """(backend, colour) pairs to measure, "name" or "name:colour" on the command line."""
    from augment import backends
    from augment.policy import COLOURS

    known = [n for n in backends.NAMES if n != "auto"]
    default = [n for n in known if not (n == "dali" and backends.why_no_dali())]
    out = []
    for item in settings.backends or default:
        name, _, colour = item.partition(":")
        if name not in known or (colour and colour not in COLOURS):
            raise UsageError(
                f"--backends {item}: known are {', '.join(known)}, each with :{' or :'.join(COLOURS)} behind it"
            )
        if scope == "apply" and name == "dali":
            continue
        colours = (colour,) if colour else ("linear",) if name == "dali" else COLOURS
        out += [(name, c) for c in colours]
    return out


def _job(settings: Settings) -> Job:
    from augment.imageset import ImageSet
    from augment.policy import COLOURS, Policy
    from augment.schedule import Schedule

    boxes = settings.boxes or f"cache/{settings.dataset}.h5"
    images = ImageSet.open(boxes, settings.root or f"data/{settings.dataset}")
    needed = settings.batch * settings.batches
    rows = images.parts[0][0].indices(None)
    if len(rows) < needed:
        raise UserError(f"{boxes} has {len(rows)} images, {needed} are needed: make --batch or --batches smaller")
    rows = rows[:needed]  # an epoch of a loader is one repeat
    schedules = {
        c: Schedule(Policy(size=settings.size, colour=c), rows, settings.batch, seed=0, drop_last=True) for c in COLOURS
    }
    order = schedules["linear"].order(0)
    plans = {c: [s.plan(images.pool, order, 0, k) for k in range(settings.batches)] for c, s in schedules.items()}
    files = [[images.read(int(i)) for i in plan.images] for plan in plans["linear"]]
    return Job(settings, images, schedules, plans, files)


def _build(job: Job, name: str, colour: str, stack: ExitStack, *, cached: bool = False) -> Any:
    import torch

    from augment import backends
    from augment.backends.decoded import DecodedCache

    s, policy = job.settings, job.schedule[colour].policy
    cache = DecodedCache(policy, job.images.pool, budget=8 << 30) if cached else None
    backend = backends.build(name, policy, torch.device(s.device), torch.float32, s.threads, s.batch, cache=cache)
    stack.callback(backend.close)
    return backend


def _check(job: Job, peer: Any, stack: ExitStack) -> float:
    """Mean difference of a peer's views from the Kornia backend's, which the tests hold to the reference, in levels."""
    import torch

    plan, files = job.plans["torchvision"][0], job.files[0]
    policy = job.schedule["torchvision"].policy
    theirs = peer.render()(plan, policy, files)
    ours = _build(job, "kornia", "torchvision", stack).render(plan, files)
    std = torch.tensor(policy.std)[:, None, None] * 255
    pairs = zip(theirs, ours, strict=True)
    difference = torch.stack([((a - b.cpu().float()) * std).abs().mean() for a, b in pairs]).mean().item()
    if not difference <= peer.tolerance:
        raise UserError(
            f"peer {peer.name}: its views are {difference:.1f} levels from ours, more than {peer.tolerance}: "
            "it does not do the same job"
        )
    return difference


def _apply_arms(job: Job, chosen: list[tuple[str, str]], wanted: Sequence[Any], stack: ExitStack) -> Iterator["Arm"]:
    from augment.backends.torch_ops import decode
    from benchmarks.harness import Arm

    decoded = [[decode(data) for data in files] for files in job.files]
    for name, colour in chosen:
        plans = job.plans[colour]
        if name == "kornia":
            backend = _build(job, name, colour, stack)
            yield Arm(_title(name, colour), partial(_apply_ours, backend, plans, decoded), job.samples)
        else:  # its decoded cache: the warm-up fills it
            backend = _build(job, name, colour, stack, cached=True)
            yield Arm(_title(name, colour), partial(_render_ours, backend, plans, job.files), job.samples)
    for peer in wanted:
        decode_one, views = peer.apply()
        theirs = [[decode_one(data) for data in files] for files in job.files]
        plans, policy = job.plans["torchvision"], job.schedule["torchvision"].policy
        yield Arm(peer.name, partial(_each, views, plans, policy, theirs), job.samples)


def _each(peer: Callable[..., object], plans: "Sequence[Plan]", policy: "Policy", images: Sequence[Any]) -> None:
    for plan, inputs in zip(plans, images, strict=True):
        peer(plan, policy, inputs)


def _apply_ours(backend: Any, plans: "Sequence[Plan]", decoded: Sequence[Any]) -> None:
    for plan, images in zip(plans, decoded, strict=True):
        for v in range(plan.views):
            backend.apply(plan, images, v)
    _wait()


def _render_arms(job: Job, chosen: list[tuple[str, str]], wanted: Sequence[Any], stack: ExitStack) -> Iterator["Arm"]:
    from augment.backends.torch_ops import decode
    from benchmarks.harness import Arm

    yield Arm("decode only", lambda: [decode(data) for files in job.files for data in files], job.samples)
    for name, colour in chosen:
        backend = _build(job, name, colour, stack)
        yield Arm(_title(name, colour), partial(_render_ours, backend, job.plans[colour], job.files), job.samples)
    for peer in wanted:
        render, policy = peer.render(), job.schedule["torchvision"].policy
        plans = job.plans["torchvision"]
        yield Arm(peer.name, partial(_each, render, plans, policy, job.files), job.samples)


def _render_ours(backend: Any, plans: "Sequence[Plan]", files: Sequence[Sequence[bytes]]) -> None:
    for plan, data in zip(plans, files, strict=True):
        backend.render(plan, data)
    _wait()


def _wait() -> None:
    """CUDA works behind our back: a repeat is over when the views are there."""
    import torch

    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


class _PeerBatches:
    """A map-style data set whose items are whole batches of a peer's views: a DataLoader's workers share the work."""

    def __init__(self, images: "ImageSet", plans: "Sequence[Plan]", policy: "Policy", peer_name: str) -> None:
        self.images, self.plans, self.policy, self.peer_name = images, plans, policy, peer_name
        self._render: Any = None

    def __len__(self) -> int:
        return len(self.plans)

    def __getitem__(self, step: int) -> Any:
        from benchmarks.peers import PEERS

        if self._render is None:  # in the worker
            self._render = PEERS[self.peer_name].render()
        plan = self.plans[step]
        return self._render(plan, self.policy, [self.images.read(int(i)) for i in plan.images])


def _peer_loader(job: Job, peer: Any) -> Any:
    from torch.utils.data import DataLoader

    dataset: Any = _PeerBatches(job.images, job.plans["torchvision"], job.schedule["torchvision"].policy, peer.name)
    return DataLoader(dataset, batch_size=None, num_workers=job.settings.threads, persistent_workers=True)


def _view_loader(job: Job, name: str, colour: str, stack: ExitStack) -> Any:
    from augment.loader import ViewLoader

    backend = _build(job, name, colour, stack)
    loader = ViewLoader(job.images, job.schedule[colour], backend, workers=job.settings.threads, say=lambda _: None)
    stack.callback(loader.close)
    return loader


def _epoch(loader: Any, use: Callable[[Any], object]) -> None:
    """All batches of one epoch; loaders go on in the background with the next one, as in training."""
    for batch in loader:
        use(getattr(batch, "views", batch))
    _settle()


def _settle() -> None:
    """Waits until what loaders make ahead is made, so that every repeat pays for as many batches as it takes."""
    from benchmarks.harness import tree_cpu_seconds

    before = tree_cpu_seconds()
    while True:
        time.sleep(0.05)
        now = tree_cpu_seconds()
        if now - before < 0.01:
            return
        before = now


def _loader_arms(job: Job, chosen: list[tuple[str, str]], wanted: Sequence[Any], stack: ExitStack) -> Iterator["Arm"]:
    from benchmarks.harness import Arm

    for name, colour in chosen:
        loader = _view_loader(job, name, colour, stack)
        yield Arm(_title(name, colour), partial(_epoch, loader, len), job.samples)
    for peer in wanted:
        loader = _peer_loader(job, peer)
        yield Arm(f"{peer.name} + DataLoader", partial(_epoch, loader, len), job.samples)


def _train_arms(job: Job, chosen: list[tuple[str, str]], wanted: Sequence[Any], stack: ExitStack) -> Iterator["Arm"]:
    import torch
    from torchvision.models import resnet18

    from benchmarks.harness import Arm

    device = torch.device(job.settings.device)
    net = resnet18().to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def step(views: "Sequence[torch.Tensor]") -> None:
        for view in views:
            net(view.to(device)).square().mean().backward()
        net.zero_grad(set_to_none=True)

    backend = _build(job, "kornia", "linear", stack)
    frozen = backend.render(job.plans["linear"][0], job.files[0])
    yield Arm("frozen batch", lambda: [step(frozen) for _ in job.files], job.samples)
    for name, colour in chosen:
        loader = _view_loader(job, name, colour, stack)
        yield Arm(_title(name, colour), partial(_epoch, loader, step), job.samples)
    for peer in wanted:
        loader = _peer_loader(job, peer)
        yield Arm(f"{peer.name} + DataLoader", partial(_epoch, loader, step), job.samples)


_ARMS = {"apply": _apply_arms, "decode+apply": _render_arms, "loader": _loader_arms, "train": _train_arms}
CEILINGS = ("decode only", "frozen batch")


def _title(name: str, colour: str) -> str:
    return f"ours: {name} ({colour})"


def _document(
    settings: Settings, scope: str, arms: "Sequence[Arm]", checks: dict[str, float], skipped: dict[str, str]
) -> dict[str, Any]:
    from benchmarks import harness, results

    rows = [
        {
            "name": arm.name,
            "inside": INSIDE[scope],
            "samples": arm.samples,
            "cpu_ms": harness.spread(arm.cpu_ms),
            "wall_ms": harness.spread([1e3 * s / arm.samples for s in arm.wall]),
        }
        for arm in arms
    ]
    ours = [a for a in arms if a.name.startswith("ours")]
    others = [a for a in arms if not a.name.startswith("ours")]
    return {
        "schema": results.SCHEMA,
        "benchmark": "throughput",
        "settings": _told(settings, scope),
        **harness.facts(),
        "peak_memory_mib": round(harness.peak_memory_mib(), 1),
        "checked_levels": checks,
        "skipped": skipped,
        "arms": rows,
        "ratios": {f"{p.name} / {o.name}": harness.ratio(p, o) for p in others for o in ours},
        "verdict": _verdict(scope, ours, others),
    }


def _told(settings: Settings, scope: str) -> dict[str, Any]:
    """The settings as a result tells them: names of files and folders, not where they lie on this machine."""
    told = as_json(settings) | {"scope": scope}
    del told["out"], told["json"]
    for name in ("boxes", "root"):
        told[name] = Path(told[name]).name if told[name] else None
    return told


def _verdict(scope: str, ours: "Sequence[Arm]", others: "Sequence[Arm]") -> str:
    """What the job is bound by, from the ceilings that were measured in the same run."""
    import statistics

    if not ours:
        return "none of our backends was measured"
    best = min(ours, key=lambda a: statistics.median(a.cpu_ms))
    cost = statistics.median(best.cpu_ms)
    for arm in others:
        share = statistics.median(arm.cpu_ms) / cost
        if arm.name == "decode only":
            bound = "decode" if share > 0.5 else "augmentation"
            return f"{best.name} is {bound}-bound: decoding is {share:.0%} of its CPU time"
        if arm.name == "frozen batch":
            bound = "trainer" if share > 0.5 else "augmentation"
            return f"with {best.name} the step is {bound}-bound: the frozen batch takes {share:.0%} of its CPU time"
    return f"{best.name} is the cheapest of ours at {cost:.2f} CPU ms a sample"


def table(document: dict[str, Any]) -> str:
    """The result as text: one line an arm, cheapest first, and what each peer costs in terms of our best."""
    arms = sorted(document["arms"], key=lambda a: a["cpu_ms"]["median"])
    ours = [a for a in arms if a["name"].startswith("ours")]
    lines = [f"\n{document['settings']['scope']}: {document['arms'][0]['inside']}", ""]
    lines.append(f"{'':32} {'CPU ms/sample':>14} {'[quartiles]':>18} {'samples/s':>10}  CPU time in ours' best")
    for arm in arms:
        cpu, wall = arm["cpu_ms"], arm["wall_ms"]["median"]
        times = f"{cpu['median'] / ours[0]['cpu_ms']['median']:.2f}x" if ours else ""
        quartiles = f"[{cpu['q25']:.2f}, {cpu['q75']:.2f}]"
        lines.append(f"{arm['name']:32} {cpu['median']:14.2f} {quartiles:>18} {1e3 / wall:10.1f}  {times}")
    lines += ["", f"verdict: {document['verdict']} (peak memory {document['peak_memory_mib']} MiB)"]
    return "\n".join(lines)


if __name__ == "__main__":
    main(program)
