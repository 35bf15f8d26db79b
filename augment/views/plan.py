"""All randomness of the views, drawn outside the pixel code ("draw, then apply").

A `Plan` is a frozen record of arrays that fully describes a batch of views in absolute pixels; a backend is a pure
function of (plan, image files). Each view has its own stream of numbers, keyed by (seed, epoch, sample, view), so it
does not depend on batch, worker, rank, thread or history.
"""

import itertools
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np

from augment.views import geometry
from augment.views.philox import ORDER, PARTNER, VIEW, below, uniform, words
from augment.views.policy import Policy

if TYPE_CHECKING:
    from precompute.base.boxfile import BoxCache

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
_ORDERS = np.array(list(itertools.permutations(range(4))), np.uint8)  # [24, 4]

# The words of one view's stream, in this order. New ones go to the end, so that old plans stay what they are.
_CROP = slice(0, 22)
_FLIP, _JITTER_P, _GRAY, _BLUR, _SIGMA, _ORDER, _AREA = range(22, 29)
_PLACE = slice(29, 31)
_FACTORS = slice(31, 35)
_SCENE = 35
_WORDS = 36
_ZOOM = slice(36, 58)  # these and what follows are drawn only where the policy asks for them
_TURN, _OWN = 58, 59
_MOST_WORDS = 60
_SHARED = {  # the words that `Policy.shared` copies from the first view
    "none": np.r_[:0],
    "crop": np.r_[_CROP],
    "background": np.r_[_AREA, _PLACE, _SCENE, _ZOOM, _OWN],
    "flip": np.r_[_FLIP],
    "colour": np.r_[_JITTER_P, _GRAY, _ORDER, _FACTORS],
    "blur": np.r_[_BLUR, _SIGMA],
    "rotate": np.r_[_TURN],
}


@dataclass(frozen=True, eq=False)
class Pool:
    """Sizes and boxes of the images, for drawing: row i is image i."""

    widths: np.ndarray  # int32 [N] pixels, oriented
    heights: np.ndarray  # int32 [N] pixels, without the banner
    boxes: np.ndarray  # float32 [N, 4]
    has_box: np.ndarray  # bool [N]: False where no box is known, and `boxes` has the whole image

    @staticmethod
    def of(cache: "BoxCache") -> "Pool":
        """The pool of a box file."""
        whole = cache.source_names.index("whole") if "whole" in cache.source_names else -1
        return Pool(cache.widths, cache.heights, cache.boxes, cache.sources != whole)


@dataclass(frozen=True, eq=False)
class Plan:
    """B sources with V views each. Indices are rows of the pool; ROIs are in that image's pixels, end-exclusive.

    A view is: the background's `scene` resized to size × size, the source's `patch` resized into `rects` on top
    (nothing where that is empty; where it covers the view, the background is not needed), flip, colour jitter, gray,
    blur, normalisation.
    """

    size: int  # side of a view, pixels
    images: np.ndarray  # int64 [M]: the different images that are needed, sources first
    sources: np.ndarray  # int64 [B]
    backgrounds: np.ndarray  # int64 [B, V]
    source_slot: np.ndarray  # int64 [B]: sources = images[source_slot]
    background_slot: np.ndarray  # int64 [B, V]
    patch: np.ndarray  # int32 [B, V, 4]: ROI in the source
    scene: np.ndarray  # int32 [B, V, 4]: ROI in the background
    rects: np.ndarray  # int32 [B, V, 4]: in view pixels, before the flip; zeros where nothing is pasted
    objects: np.ndarray  # int32 [B, V, 4]: where the source's object is: the same, or its box where nothing is pasted
    flip: np.ndarray  # bool [B, V]
    jitter: np.ndarray  # float32 [B, V, 4]: brightness, contrast, saturation factors and hue shift (in turns)
    jittered: np.ndarray  # bool [B, V]; where False the factors are 1, 1, 1, 0
    order: np.ndarray  # uint8 [B, V, 4]: the jitter's operations, first to last
    gray: np.ndarray  # bool [B, V]
    turns: np.ndarray  # uint8 [B, V]: quarter turns of the finished view, counter-clockwise
    sigma: np.ndarray  # float32 [B, V]: of the blur, in view pixels; 0 for none
    capped: np.ndarray  # bool [B, V]: the policy's box_cap bit
    alpha: np.ndarray | None = None  # uint8 [B, V, size, size], before the flip: see `augment.stream.alpha`

    def __len__(self) -> int:
        return len(self.sources)

    @property
    def views(self) -> int:
        return self.backgrounds.shape[1]

    def part(self, start: int, end: int) -> "Plan":
        """The plan of the sources from `start` to before `end`, as if drawn by itself; shares no memory with this."""
        own = {f.name: value[start:end].copy() for f in fields(self) if (value := getattr(self, f.name)) is not None
               and f.name not in ("size", "images", "source_slot", "background_slot")}  # fmt: skip
        images, source_slot, background_slot = _slots(own["sources"], own["backgrounds"])
        return replace(self, images=images, source_slot=source_slot, background_slot=background_slot, **own)

    @property
    def finished_rects(self) -> np.ndarray:
        """int32 [B, V, 4]: where the source's object is in the finished view."""
        return geometry.turn_rects(geometry.flip_rects(self.objects, self.flip, self.size), self.turns, self.size)

    @property
    def to_source(self) -> np.ndarray:
        """float64 [B, V, 2, 3]: from points of the finished view to the source's pixels (`geometry.view_to_source`).

        Of views in their own scene that map holds everywhere, of the others in `finished_rects`.
        """
        own = geometry.is_empty(self.rects)[..., None]
        whole = (0, 0, self.size, self.size)
        roi, rects = np.where(own, self.scene, self.patch), np.where(own, whole, self.rects)
        return geometry.view_to_source(roi, rects, self.flip, self.turns, self.size)

    @property
    def covered(self) -> bool:
        """True where every patch covers its view, so that no background is needed (rrc)."""
        return bool((self.rects == (0, 0, self.size, self.size)).all())


def epoch_order(n: int, seed: int, epoch: int, stream: int = 0) -> np.ndarray:
    """int64 [n]: a random permutation, a pure function of its arguments (a sort by random 64-bit keys)."""
    bits = words(seed, epoch, np.arange(n), np.full(n, stream), 2, ORDER).astype(np.uint64)
    return np.argsort(bits[:, 0] << np.uint64(32) | bits[:, 1], kind="stable").astype(np.int64)


def group_of(position: np.ndarray, n: int, group: int) -> tuple[np.ndarray, np.ndarray]:
    """First position and length of the group that each position of an epoch's order of n images belongs to.

    Groups are consecutive runs of `group`; the last one is what is left, and a last one of a single image joins its
    predecessor, so that every image has a partner. Needs n >= 2.
    """
    last = max(n // group - (n % group < 2), 0) if n % group else n // group - 1  # number of the last group
    number = np.minimum(position // group, last)
    start = number * group
    return start, np.where(number == last, n - start, group)


def partners(order: np.ndarray, positions: np.ndarray, group: int, views: int, seed: int, epoch: int) -> np.ndarray:
    """int64 [B, views]: for the images at `positions` of the epoch's order, another image of the same group per view.

    Uniform over the others, independent between views; never the image itself. It depends on the order and on `group`
    alone, not on batches. Raises ValueError for fewer than two images.
    """
    n = len(order)
    if n < 2:
        raise ValueError(f"{n} image: a background must be another image, so at least two are needed")
    start, length = group_of(positions, n, group)
    bits = words(seed, epoch, order[positions][:, None], np.arange(views), 1, PARTNER)[..., 0]
    step = 1 + below(bits, length[:, None] - 1)
    return order[start[:, None] + (positions - start + step.T).T % length[:, None]]


def pool_partners(
    order: np.ndarray, pool: np.ndarray, positions: np.ndarray, group: int, views: int, seed: int, epoch: int
) -> np.ndarray:
    """int64 [B, views]: backgrounds from another set's order of the epoch, `pool`.

    Every group of the sources' order has a run of `group` images of the pool to itself (cyclically), so that a batch
    decodes at most one background image a source. Uniform over the run; never the source itself where it is in both.
    Needs a pool of at least two images.
    """
    start, _ = group_of(positions, max(len(order), 2), group)
    bits = words(seed, epoch, order[positions][:, None], np.arange(views), 1, PARTNER)[..., 0]
    at = start[:, None] + below(bits, min(group, len(pool)))
    chosen = pool[at % len(pool)]
    return np.where(chosen == order[positions][:, None], pool[(at + 1) % len(pool)], chosen)


def draw(
    policy: Policy,
    pool: Pool,
    sources: np.ndarray,
    backgrounds: np.ndarray,
    *,
    seed: int,
    epoch: int,
    keys: np.ndarray | None = None,
) -> Plan:
    """The plan of a batch: `sources` int64 [B] and `backgrounds` int64 [B, V] are rows of the pool.

    `keys` [B] are the samples whose streams are used; the sources, unless one of them stands in for another image.
    """
    views = backgrounds.shape[1]
    keys = sources if keys is None else keys
    count = _MOST_WORDS if policy.rotate or policy.own else _ZOOM.stop if policy.scene == "zoom" else _WORDS
    bits = words(seed, epoch, keys[:, None], np.arange(views), count, VIEW)
    if not policy.kind.pastes:
        backgrounds = np.repeat(sources[:, None], views, axis=1)
    if policy.shared:
        bits, backgrounds = _share(policy, bits, backgrounds)
    u = uniform(bits)
    own = np.zeros(backgrounds.shape, bool)  # the views that show their source in its own scene
    if policy.own:
        own = (u[..., _OWN] < policy.own) & pool.has_box[sources][:, None]
    backgrounds = np.where(own, sources[:, None], backgrounds)
    patch = _crop(policy, pool, sources, u)
    scene, rects, objects, capped = _compose(policy, pool, backgrounds, patch, own, u)
    jitter, jittered = _jitter(policy, u)
    sigma = policy.blur_sigma[0] + (policy.blur_sigma[1] - policy.blur_sigma[0]) * u[..., _SIGMA]
    images, source_slot, background_slot = _slots(sources, backgrounds)
    return Plan(
        size=policy.size,
        images=images,
        sources=sources,
        backgrounds=backgrounds,
        source_slot=source_slot,
        background_slot=background_slot,
        patch=patch,
        scene=scene,
        rects=rects,
        objects=objects,
        flip=u[..., _FLIP] < policy.flip,
        jitter=jitter,
        jittered=jittered,
        order=_ORDERS[below(bits[..., _ORDER], len(_ORDERS))],
        gray=u[..., _GRAY] < policy.gray_p,
        turns=_turns(policy, u),
        sigma=np.where(u[..., _BLUR] < policy.blur_p, sigma, 0.0).astype(np.float32),
        capped=capped,
    )


def _share(policy: Policy, bits: np.ndarray, backgrounds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Words [B, V, n] and backgrounds [B, V], with what `policy.shared` names copied from the first view to others."""
    bits, backgrounds = bits.copy(), backgrounds.copy()
    for v, name in enumerate(policy.shared, start=1):
        same_words = _SHARED[name][_SHARED[name] < bits.shape[-1]]
        bits[:, v, same_words] = bits[:, 0, same_words]
        if name == "background":
            backgrounds[:, v] = backgrounds[:, 0]
    return bits, backgrounds


def _turns(policy: Policy, u: np.ndarray) -> np.ndarray:
    """uint8 [B, V]: 0 with probability 1 - rotate, else 1, 2 or 3, equally often."""
    if not policy.rotate:
        return np.zeros(u.shape[:2], np.uint8)
    # One number for both: the part below `rotate`, stretched to [0, 1), says which.
    which = np.minimum(np.floor(3 * u[..., _TURN] / policy.rotate), 2)
    return np.where(u[..., _TURN] < policy.rotate, 1 + which, 0).astype(np.uint8)


def _crop(policy: Policy, pool: Pool, sources: np.ndarray, u: np.ndarray) -> np.ndarray:
    """The patch's ROI int32 [B, V, 4]: torchvision's crop rule in the source's box, or in the whole source."""
    width, height = pool.widths[sources], pool.heights[sources]
    boxes = pool.boxes[sources]
    if not policy.kind.boxed:
        boxes = np.broadcast_to(np.array((0.0, 0.0, 1.0, 1.0)), boxes.shape)
    region = np.repeat(geometry.box_to_pixels(boxes, width, height)[:, None], u.shape[1], axis=1)
    assert policy.crop_scale is not None  # set by Policy itself
    return geometry.random_resized_crop(region, (policy.crop_scale, 1.0), policy.aspect, u[..., _CROP])


def _compose(
    policy: Policy, pool: Pool, backgrounds: np.ndarray, patch: np.ndarray, own: np.ndarray, u: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """`scene`, `rects`, `objects` and `capped` of the plan."""
    width, height = pool.widths[backgrounds], pool.heights[backgrounds]
    zero = np.zeros_like(width)
    scene = np.stack((zero, zero, width, height), axis=-1).astype(np.int32)
    if not policy.kind.pastes:
        rects = np.full_like(scene, (0, 0, policy.size, policy.size))
        return scene, rects, rects, np.zeros(width.shape, bool)
    boxes = pool.boxes[backgrounds].astype(np.float64)
    if policy.scene == "crop":
        scene = geometry.square_around(boxes, width, height, u[..., _SCENE])
    elif policy.scene == "zoom":
        scene = geometry.crop_around(boxes, width, height, policy.scene_scale, policy.aspect, u[..., _ZOOM])
    if policy.scene != "whole":
        boxes = geometry.box_in_roi(boxes, scene, width, height)
    in_scene = geometry.box_to_pixels(boxes, policy.size, policy.size)
    boxes, capped = geometry.cap_boxes(boxes, policy.box_cap)
    swapped = geometry.box_to_pixels(boxes, policy.size, policy.size)
    area = policy.paste_scale + (1 - policy.paste_scale) * u[..., _AREA]
    ratio = (patch[..., 2] - patch[..., 0]) / (patch[..., 3] - patch[..., 1])
    pasted = geometry.place(np.minimum(area, policy.box_cap), ratio, policy.size, u[..., _PLACE])
    # A background without a box has no object to hide: it is pasted on in either mode.
    swapping = policy.kind.boxed and policy.mode == "swap"
    swap = pool.has_box[backgrounds] if swapping else np.zeros(width.shape, bool)
    rects = np.where(swap[..., None], swapped, pasted)
    objects = np.where(own[..., None], in_scene, rects)
    rects = np.where(own[..., None], 0, rects).astype(np.int32)
    return scene, rects, objects, np.where(swap, capped, area > policy.box_cap) & ~own


def _jitter(policy: Policy, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """torchvision's ranges: U(1 - s, 1 + s) for the factors, U(-s, s) for the hue."""
    jittered = u[..., _JITTER_P] < policy.jitter_p
    strength = np.array(policy.jitter)
    factors = strength * (2 * u[..., _FACTORS] - 1)
    factors[..., :HUE] += 1
    identity = np.array((1.0, 1.0, 1.0, 0.0))
    return np.where(jittered[..., None], factors, identity).astype(np.float32), jittered


def _slots(sources: np.ndarray, backgrounds: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The different images in order of first use (sources before backgrounds), and where each use finds its image."""
    by_row = np.argsort(sources)
    rows = sources[by_row]
    at = np.minimum(np.searchsorted(rows, backgrounds), len(rows) - 1)
    if (rows[at] == backgrounds).all() and (rows[1:] != rows[:-1]).all():  # as a rule: whole groups, each source once
        return sources.astype(np.int64), np.arange(len(sources)), by_row[at]
    used = [*sources.tolist(), *backgrounds.reshape(-1).tolist()]
    place = {image: i for i, image in enumerate(dict.fromkeys(used))}
    slot = np.array([place[image] for image in used], np.int64)
    images = np.array(list(place), np.int64)
    return images, slot[: len(sources)], slot[len(sources) :].reshape(backgrounds.shape)
