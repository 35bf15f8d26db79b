"""`open_views`: from a box file and its images to a loader, in one call."""

import os
from collections.abc import Callable

import torch

from augment import backends
from augment.backends.decoding import USUAL, Decoding, beside, settled
from augment.backends.fused import FusedBackend
from augment.backends.jpeg import advice
from augment.request import Making, Share, Source
from augment.service import kept
from augment.service.client import HelpedMaker
from augment.stream.alpha import MapFolder
from augment.stream.imageset import ImageSet
from augment.stream.loader import ViewLoader
from augment.stream.maker import BatchMaker
from augment.stream.pictures import schedule_of
from augment.stream.producer import Maker
from augment.views.policy import Policy
from augment.views.schedule import Schedule
from precompute.base.boxfile import BoxCache
from precompute.base.errors import BadValue


def open_views(
    source: Source | BoxCache | str | os.PathLike[str],
    root: str | os.PathLike[str] | None = None,
    *,
    policy: Policy | None = None,
    batch_size: int = 256,
    seed: int = 0,
    making: Making = Making(),
    share: Share = Share(),
) -> ViewLoader:
    """Opens a stream of views with their geometry; see `augment.ViewLoader` and `augment.Batch`.

    source: a `Source`, or a box file with `root`, the folder of its images; then the split is "train".
    batch_size: source images per step over all ranks; this rank gets batch_size / share.world of them.

    Raises UserError (missing files or folders, a batch that cannot be made), or its subclass BadValue, which names the
    argument or the record's field, its valid values and the remedy.
    """
    source, making = Source.of(source, root), making.settled()
    policy = Policy() if policy is None else policy
    if not isinstance(policy, Policy):
        raise BadValue("policy", policy, "an augment.Policy, such as Policy(name='rrc')")
    source.check_maps(policy)
    device = torch.device(making.device)
    served = making.service != "off"
    name, reason = backends.choose(making.backend, device, policy.colour, making.cache != "off", served)
    images, schedule = schedule_of(source, policy, batch_size, seed, share, making.say)
    rows = schedule.rows
    cache = kept.decoded_cache(images, schedule, making, name, source)
    decoding = _decoding(source, images, schedule, making) if device.type == "cuda" and not served else USUAL
    backend = backends.build(name, policy, making, schedule.largest, cache, images.pool, decoding)
    making.say(f"{name} backend on {device} ({reason}); {policy}; {len(rows)} images, "
               f"{len(schedule)} batches of {batch_size}")  # fmt: skip
    if name == "fused" and device.type == "cpu" and making.decode == "exact" and cache is None:
        _advise(images, schedule, making.say)
    maps = None if source.maps is None else MapFolder(source.maps, images, rows)
    here = BatchMaker(images, schedule, backend, making, maps)
    maker: Maker = here
    if served:
        maker = _helped(here, source, share)
    elif making.ring:
        maker = _in_ring(here, source)
    return ViewLoader(schedule, images, maker, making.prefetch)


def _helped(here: BatchMaker, source: Source, share: Share) -> Maker:
    """`here` with helpers on Ray. Raises BadValue where they cannot help, UserError where Ray cannot be used."""
    from augment.service.cluster import open_fleet
    from augment.service.stream import Stream

    making, name = here.making, here.backend.name
    try:
        if not isinstance(here.backend, FusedBackend):
            raise BadValue("backend", name, "fused (or eager on a CPU) with a service, whose helpers send their crops")
        if making.address is None and share.world > 1:
            remedy = "Start one: ray start --head; python -m augment.serve --address auto ..."
            raise BadValue("address", None, f"that of a Ray cluster for {share.world} ranks to share", remedy)
        stream = Stream.of(source, here.images, here.schedule, making, name)
        return HelpedMaker(here, open_fleet(making.address, stream.to_json(), source, making.workers or 1, making.say))
    except BaseException:
        here.close()
        raise


def _in_ring(here: BatchMaker, source: Source) -> Maker:
    """`here` as a member of its ring. Raises BadValue on another device, UserError where memory is missing."""
    from augment.service.shared import RingMaker
    from augment.service.stream import Stream

    making = here.making
    try:
        if torch.device(making.device).type != "cpu":
            raise BadValue("ring", making.ring, f"left out for views on {making.device}: they are shared on a CPU")
        stream = Stream.of(source, here.images, here.schedule, making, f"{here.backend.name} {making.cache_side}")
        name = f"{making.ring} {stream.to_json()}"
        return RingMaker(here, name, making.ring_members, making.ring_patience, kept.memory_of(making))
    except BaseException:
        here.close()
        raise


def _decoding(source: Source, images: ImageSet, schedule: Schedule, making: Making) -> Decoding:
    """How DALI's decoder works here, from a measurement that is kept; nothing is chosen without DALI."""
    if backends.why_no_dali() is not None:
        return USUAL
    from augment.stream.decoding_measure import find

    def choosing(plain: bool) -> tuple[Decoding, dict[str, float]]:
        return find(images, schedule.rows, schedule.largest, device, making.workers or 1, plain=plain)

    device = torch.device(making.device)
    gpu = torch.cuda.get_device_name(device)
    return settled(beside(source.boxes), gpu, schedule.world_size == 1, choosing, making.say)


def _advise(images: ImageSet, schedule: Schedule, say: Callable[[str], None]) -> None:
    """Says whether decoding less would pay, by the pictures of the first batch."""
    plan, pool = schedule.plan(images.pool, 0, 0), images.pool
    megapixels = pool.widths[plan.images].astype(float) * pool.heights[plan.images] / 1e6
    if (line := advice(plan, schedule.policy.scene == "whole", megapixels)) is not None:
        say(line)
