"""A library's way of making the views of a plan, and what the ways have in common."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from augment.views.plan import Plan
from augment.views.policy import Policy

Decode = Callable[[bytes], Any]
Views = Callable[[Policy, Plan, Sequence[Any]], tuple[Any, ...]]  # images, or files, as in plan.images


@dataclass(frozen=True)
class Way:
    """A library's way of doing the job. Views are torch tensors [B, 3, S, S], float32, normalised; one tensor a view.

    `views` takes the images that `decode` makes; without `decode` it takes the files' JPEG bytes.
    """

    decode: Decode | None
    views: Views

    def render(self, policy: Policy, plan: Plan, files: Sequence[bytes]) -> tuple[Any, ...]:
        """The whole job: every image of the batch is decoded once, then the views are made."""
        return self.views(policy, plan, [*map(self.decode, files)] if self.decode else files)


def by_sample(
    decode: Decode,
    resized: Callable[..., Any],
    paste: Callable[..., object],
    flip: Callable[[Any], Any],
    jitter: Callable[[Any, int, float], Any],
    gray: Callable[[Any], Any],
    blur: Callable[[Any, float], Any],
    normalise: Callable[[Any, Policy], Any],
) -> Way:
    """A way that makes one view of one sample at a time.

    resized, paste: see `composed`. jitter: takes an operation and its factor. blur: takes sigma in pixels. normalise:
    makes a float32 tensor [3, S, S].
    """
    import torch

    def view(policy: Policy, plan: Plan, images: Sequence[Any], i: int, v: int) -> Any:
        picture = composed(plan, images, i, v, resized, paste)
        if plan.flip[i, v]:
            picture = flip(picture)
        if plan.jittered[i, v]:
            for op in plan.order[i, v].tolist():
                picture = jitter(picture, op, float(plan.jitter[i, v, op]))
        if plan.gray[i, v]:
            picture = gray(picture)
        if (sigma := float(plan.sigma[i, v])) > 0:
            picture = blur(picture, sigma)
        return normalise(picture, policy)

    def views(policy: Policy, plan: Plan, images: Sequence[Any]) -> tuple[Any, ...]:
        samples = range(len(plan))
        return tuple(torch.stack([view(policy, plan, images, i, v) for i in samples]) for v in range(plan.views))

    return Way(decode, views)


def composed(
    plan: Plan, images: Sequence[Any], i: int, v: int, resized: Callable[..., Any], paste: Callable[..., object]
) -> Any:
    """The picture of sample i, view v: the patch on its background, not flipped.

    resized: takes an image, x0, y0, x1, y1 of the region in it, and the new width and height. paste: puts a patch on
    a canvas; takes both, and the patch's x0, y0, x1, y1 there.
    """
    x0, y0, x1, y1 = rect = plan.rects[i, v].tolist()
    source = images[plan.source_slot[i]], *plan.patch[i, v].tolist()
    if rect == [0, 0, plan.size, plan.size]:  # the patch hides the whole background
        return resized(*source, plan.size, plan.size)
    background = images[plan.background_slot[i, v]], *plan.scene[i, v].tolist()
    canvas = resized(*background, plan.size, plan.size)
    if x1 > x0 and y1 > y0:
        paste(canvas, resized(*source, x1 - x0, y1 - y0), x0, y0, x1, y1)
    return canvas


def paste_on_tensor(canvas: Any, patch: Any, x0: int, y0: int, x1: int, y1: int) -> None:
    """`paste` for tensors [3, S, S]."""
    canvas[:, y0:y1, x0:x1] = patch
