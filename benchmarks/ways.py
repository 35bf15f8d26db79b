"""A library's way of making the views of a plan, and what the ways have in common."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from augment.views.plan import Plan
from augment.views.policy import Policy

Decode = Callable[[bytes], Any]
Views = Callable[[Plan, Policy, Sequence[Any]], tuple[Any, ...]]


@dataclass(frozen=True)
class Way:
    """A library's way of doing the job. Views are torch tensors [B, 3, S, S], float32, normalised; one tensor a view.

    `decode` and `views` are the two halves of `render`, None where the library cannot do them apart.
    """

    render: Views  # (plan, policy, JPEG bytes of plan.images)
    decode: Decode | None = None
    views: Views | None = None  # (plan, policy, the images that `decode` made of plan.images)


def in_halves(decode: Decode, views: Views) -> Way:
    """A way that decodes every image of the batch once, then makes the views."""

    def render(plan: Plan, policy: Policy, files: Sequence[bytes]) -> tuple[Any, ...]:
        return views(plan, policy, [decode(data) for data in files])

    return Way(render, decode, views)


def by_sample(
    decode: Decode,
    compose: Callable[[Plan, Sequence[Any], int, int], Any],
    jitter: Callable[[Any, int, float], Any],
    gray: Callable[[Any], Any],
    blur: Callable[[Any, float], Any],
    normalise: Callable[[Any, Policy], Any],
) -> Way:
    """A way that makes one view of one sample at a time.

    compose: (plan, images, sample, view) → the picture, flipped. jitter: takes an operation and its factor. blur: takes
    sigma in pixels. normalise: makes a float32 tensor [3, S, S].
    """
    import torch

    def view(plan: Plan, policy: Policy, images: Sequence[Any], i: int, v: int) -> Any:
        picture = compose(plan, images, i, v)
        if plan.jittered[i, v]:
            for op in plan.order[i, v].tolist():
                picture = jitter(picture, op, float(plan.jitter[i, v, op]))
        if plan.gray[i, v]:
            picture = gray(picture)
        if (sigma := float(plan.sigma[i, v])) > 0:
            picture = blur(picture, sigma)
        return normalise(picture, policy)

    def views(plan: Plan, policy: Policy, images: Sequence[Any]) -> tuple[Any, ...]:
        samples = range(len(plan))
        return tuple(torch.stack([view(plan, policy, images, i, v) for i in samples]) for v in range(plan.views))

    return in_halves(decode, views)


def covers(rect: Sequence[int], size: int) -> bool:
    """Whether a patch hides the whole background, which then need not be resized."""
    return tuple(rect) == (0, 0, size, size)
