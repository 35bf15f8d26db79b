"""The job of a benchmark: plans and files that all arms share, our backends, and the check of the peers."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from augment import backends
from augment.backends.decoded import DecodedCache
from augment.request import Making
from augment.stream.imageset import ImageSet
from augment.views.plan import Plan
from augment.views.policy import COLOURS, Policy
from augment.views.schedule import Schedule
from benchmarks.peers import Peer
from benchmarks.program import BACKENDS, JobSettings, backend_of, enough
from precompute.base.device import find_device
from precompute.base.errors import UserError


@dataclass(frozen=True)
class Job:
    """Plans and files of `batches` batches, the same for every arm."""

    images: ImageSet
    schedule: dict[str, Schedule]  # per meaning of colour
    plans: dict[str, list[Plan]]
    files: list[list[bytes]]
    device: torch.device
    threads: int
    decode: str = "exact"  # of the fused backend

    @property
    def samples(self) -> int:
        """Source images of one repeat."""
        return sum(len(plan) for plan in self.plans["linear"])

    def policy(self, colour: str) -> Policy:
        """The policy with that meaning of colour."""
        return self.schedule[colour].policy


def make_job(images: ImageSet, policy: Policy, settings: JobSettings) -> Job:
    """Plans and files of one epoch of batch · batches images. UserError where there are not so many."""
    needed = settings.batch * settings.batches
    enough(len(images), needed)
    rows = np.arange(needed)  # an epoch of a loader is one repeat
    schedules = {c: Schedule(policy.replace(colour=c), rows, settings.batch, seed=0, drop_last=True) for c in COLOURS}
    plans = {c: [s.plan(images.pool, 0, k) for k in range(settings.batches)] for c, s in schedules.items()}
    files = [[images.read(int(i)) for i in plan.images] for plan in plans["linear"]]
    return Job(images, schedules, plans, files, find_device(settings.device), settings.threads, settings.decode)


def build(job: Job, name: str, colour: str, stack: ExitStack, *, cached: bool = False) -> Any:
    """One of our backends for the job, closed with `stack`."""
    policy = job.policy(colour)
    cache = DecodedCache(policy, job.images.pool, budget=8 << 30) if cached else None
    largest = job.schedule[colour].largest
    decode = job.decode if name == "fused" and not cached else "exact"
    making = Making(device=job.device, workers=job.threads, decode=decode)
    backend = backends.build(name, policy, making, largest, cache, job.images.pool)
    stack.callback(backend.close)
    return backend


def choose(settings: JobSettings, *, without: str = "") -> list[tuple[str, str]]:
    """(backend, colour) pairs of the settings, but for the backend `without`; all that are installed if none is named.

    UserError says why one cannot run on the device.
    """
    absent = {"dali"} if backends.why_no_dali() else set()
    absent |= {"eager"} if settings.device == "cuda" else set()
    out = []
    for item in settings.backends or [n for n in BACKENDS if n not in absent]:
        name, colour = backend_of(item)
        backends.choose(name, find_device(settings.device))
        if name != without:
            colours = (colour,) if colour else ("linear",) if name == "dali" else COLOURS
            out += [(name, c) for c in colours]
    return out


def difference(peer: Peer, theirs: Sequence[torch.Tensor], ours: Sequence[torch.Tensor], policy: Policy) -> float:
    """How far a peer's views are from ours, in levels of 255.

    The mean over all pixels; for a peer that draws its own numbers, over the channels' means and standard deviations.
    """
    mean, std = (255 * torch.tensor(x)[:, None, None] for x in (policy.mean, policy.std))
    levels = [torch.cat([view.cpu().float() for view in views]) * std + mean for views in (theirs, ours)]
    if levels[0].shape != levels[1].shape:
        raise UserError(f"peer {peer.name}: makes {tuple(levels[0].shape)}, ours {tuple(levels[1].shape)}")
    if peer.draws:
        levels = [torch.cat((x.mean((0, 2, 3)), x.std((0, 2, 3)))) for x in levels]
    return (levels[0] - levels[1]).abs().mean().item()


def check(job: Job, peer: Peer, stack: ExitStack, say: Callable[[str], None] = lambda _: None) -> float:
    """`difference` from the Kornia backend's views, which the tests hold to the reference. UserError if too large."""
    plan, files, policy = job.plans["torchvision"][0], job.files[0], job.policy("torchvision")
    theirs = peer.way(job.device.type).render(policy, plan, files)
    ours = build(job, "kornia", "torchvision", stack).render(plan, files)
    distance = difference(peer, theirs, ours, policy)
    if not distance <= peer.tolerance:
        far = f"{distance:.1f} levels from ours, more than {peer.tolerance}"
        raise UserError(f"peer {peer.name} does not do the same job: its views are {far}")
    kind = "statistics" if peer.draws else "views"
    say(f"checked: {peer.name}'s {kind} are {distance:.2f} levels of 255 from ours on average")
    return distance
