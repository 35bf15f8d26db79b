"""The arms of each scope of `benchmarks.throughput`; everything outside the timer is made beforehand."""

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from augment.backends import why_no_dali
from augment.backends.torch_ops import crop_resize, decode
from augment.request import Making
from augment.stream.imageset import ImageSet
from augment.stream.loader import ViewLoader
from augment.stream.maker import BatchMaker
from augment.views.plan import Plan
from augment.views.policy import Policy
from benchmarks.harness import Arm, settle
from benchmarks.job import Job, build
from benchmarks.peers import PEERS, Peer

Pairs = Sequence[tuple[str, str]]  # (backend, colour)
_EPOCHS = 4  # epochs of a loader in one repeat, so that waiting for its end (`settle`) is a small part


def _apply_arms(job: Job, chosen: Pairs, wanted: Sequence[Peer], stack: ExitStack) -> Iterator[Arm]:
    small = _with_scenes(job)
    shared = small[0][0] is not job.plans["torchvision"][0]
    for name, colour in chosen:
        # All but kornia have a decoded cache, which the warm-up fills.
        backend = build(job, name, colour, stack, cached=name != "kornia")
        make, plans, inputs = backend.render, job.plans[colour], job.files
        if name == "kornia":
            make = partial(_apply_ours, backend)
            plans = [_of_scenes(plan) if shared else plan for plan in plans]
            inputs = [[decode(data) for data in files] for _, files in small]
        yield _arm(title(name, colour), job, make, plans, inputs)
    for peer in wanted:
        way = peer.way(job.device.type)
        if way.decode is None:  # decoding is part of its graph
            continue
        inputs = [[way.decode(data) for data in files] for _, files in small]
        plans, make = [plan for plan, _ in small], partial(way.views, job.policy("torchvision"))
        yield _arm(peer.name, job, make, plans, inputs)


def _with_scenes(job: Job) -> list[tuple[Plan, list[bytes]]]:
    """Each batch with its backgrounds at the size of a view beside its images, as our decoded cache keeps them.

    Peers get small backgrounds too, so that a cache is no privilege of ours: they only paste, colour and blur. Their
    own decoders make their own kind of image of the files, outside the timer.
    """
    if job.plans["torchvision"][0].covered or job.policy("torchvision").scene != "whole":
        return list(zip(job.plans["torchvision"], job.files, strict=True))
    pool, out = job.images.pool, []
    for plan, files in zip(job.plans["torchvision"], job.files, strict=True):
        sides = zip(pool.widths[plan.images], pool.heights[plan.images], strict=True)
        scenes = [_scene(data, *side, plan.size) for data, side in zip(files, sides, strict=True)]
        out.append((_of_scenes(plan), [*files, *scenes]))
    return out


def _scene(data: bytes, width: int, height: int, size: int) -> bytes:
    """A whole picture, without the banner below `height`, at the size of a view, as PNG."""
    from PIL import Image

    whole = np.array((0, 0, width, height), np.int32)
    small = crop_resize(decode(data), whole, size, size).permute(1, 2, 0).contiguous().numpy()
    Image.fromarray(small).save(file := io.BytesIO(), "png")
    return file.getvalue()


def _of_scenes(plan: Plan) -> Plan:
    """The plan with backgrounds taken from `_with_scenes`; the views stay what they are."""
    whole = np.array((0, 0, plan.size, plan.size), np.int32)
    return replace(
        plan,
        images=np.concatenate((plan.images, plan.images)),
        background_slot=plan.background_slot + len(plan.images),
        scene=np.broadcast_to(whole, plan.scene.shape),
    )


def _arm(name: str, job: Job, make: Callable[[Plan, Any], object], plans: Sequence[Plan], inputs: Sequence[Any]) -> Arm:
    """An arm with a part for every batch; on CUDA one for all, where batches overlap."""

    def work(batches: Sequence[tuple[Plan, Any]]) -> None:
        for plan, images in batches:
            make(plan, images)
        if torch.cuda.is_initialized():  # calls to CUDA return early: a part is over when the views are there
            torch.cuda.synchronize()

    batches = list(zip(plans, inputs, strict=True))
    parts = [batches] if job.device.type == "cuda" else [[batch] for batch in batches]
    return Arm(name, [partial(work, part) for part in parts], job.samples)


def _apply_ours(backend: Any, plan: Plan, images: Any) -> None:
    for v in range(plan.views):
        backend.apply(plan, images, v)


def _render_arms(job: Job, chosen: Pairs, wanted: Sequence[Peer], stack: ExitStack) -> Iterator[Arm]:
    plans = job.plans["torchvision"]
    decoded = _decoder(job, stack)
    yield _arm("decode only", job, lambda _, files: decoded(files), plans, job.files)
    for name, colour in chosen:
        render = build(job, name, colour, stack).render
        yield _arm(title(name, colour), job, render, job.plans[colour], job.files)
    for peer in wanted:
        render = partial(peer.way(job.device.type).render, job.policy("torchvision"))
        yield _arm(peer.name, job, render, plans, job.files)


def _decoder(job: Job, stack: ExitStack) -> Callable[[Sequence[bytes]], object]:
    """The decoder of our backends: torchvision's on a CPU; DALI's on CUDA, where they wait for it."""
    if job.device.type == "cpu" or why_no_dali() is not None:
        return lambda files: [*map(decode, files)]
    from augment.backends.dali import Decoder

    decoder = Decoder(job.device, job.threads, max(map(len, job.files)))
    stack.callback(decoder.close)
    return lambda files: decoder.keep(decoder.decode(files))


@cache
def _render_of(peer_name: str) -> Callable[..., Any]:
    """Built in the worker that calls it."""
    return PEERS[peer_name].way().render


def _read_and_render(images: ImageSet, policy: Policy, peer_name: str, plan: Plan) -> Any:
    """A whole batch of a peer's views, from files on disk."""
    return _render_of(peer_name)(policy, plan, [images.read(int(i)) for i in plan.images])


def view_loader(job: Job, name: str, colour: str, stack: ExitStack, *, cached: bool = False) -> ViewLoader:
    """Our loader over the job's images, closed with `stack`."""
    backend = build(job, name, colour, stack, cached=cached)
    schedule, making = job.schedule[colour], Making(device=job.device, workers=job.threads, say=lambda _: None)
    loader = ViewLoader(schedule, job.images, BatchMaker(job.images, schedule, backend, making))
    stack.callback(loader.close)
    return loader


def _loaders(job: Job, chosen: Pairs, wanted: Sequence[Peer], stack: ExitStack) -> Iterator[tuple[str, Any]]:
    """Name and loader of every arm."""
    for name, colour in chosen:
        yield title(name, colour), view_loader(job, name, colour, stack)
    for peer in wanted:
        make: Any = partial(_read_and_render, job.images, job.policy("torchvision"), peer.name)
        plans: Any = job.plans["torchvision"]  # a batch each: the workers share them
        loader = DataLoader(plans, batch_size=None, collate_fn=make, num_workers=job.threads, persistent_workers=True)
        yield f"{peer.name} + DataLoader", loader


def endless(loader: Any) -> Iterator[Any]:
    """The batches of one epoch after the other."""
    while True:
        yield from loader


def _epochs(loader: Any, use: Callable[[Any], object], count: int = 1) -> None:
    """All batches of `count` epochs; loaders go on in the background with the next epoch, as in training."""
    for _ in range(count):
        for batch in loader:
            use(getattr(batch, "views", batch))


def _loader_arms(job: Job, chosen: Pairs, wanted: Sequence[Peer], stack: ExitStack) -> Iterator[Arm]:
    for name, loader in _loaders(job, chosen, wanted, stack):
        yield Arm(name, partial(_epochs, loader, len, _EPOCHS), _EPOCHS * job.samples, after=settle)


def _train_arms(job: Job, chosen: Pairs, wanted: Sequence[Peer], stack: ExitStack) -> Iterator[Arm]:
    from torchvision.models import resnet18

    device = job.device
    net = resnet18().to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def step(views: Sequence[torch.Tensor]) -> None:
        for view in views:
            net(view.to(device)).square().mean().backward()
        net.zero_grad(set_to_none=True)

    backend = build(job, "kornia", "linear", stack)
    frozen = backend.render(job.plans["linear"][0], job.files[0])
    yield Arm("frozen batch", lambda: [step(frozen) for _ in job.files], job.samples)
    for name, loader in _loaders(job, chosen, wanted, stack):
        yield Arm(name, partial(_epochs, loader, step), job.samples, after=settle)


ARMS = {"apply": _apply_arms, "decode+apply": _render_arms, "loader": _loader_arms, "train": _train_arms}


def title(name: str, colour: str) -> str:
    """The name of one of our arms."""
    return f"ours: {name} ({colour})"
