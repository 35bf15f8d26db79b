"""A library's way of making the views of a plan, and what the ways have in common."""

from collections.abc import Sequence
from typing import Any

import torch

from augment.views.plan import Plan
from augment.views.policy import Policy


class Way:
    """A library's way of doing the job. Views are tensors [B, 3, S, S], float32, normalised; one tensor a view."""

    decode: Any = None  # JPEG bytes → image, as `views` takes it; None: `views` takes the files' bytes

    def __init__(self, device: str = "cpu") -> None:
        self.device = device  # "cpu" or "cuda"; ways that have only the CPU take no notice

    def views(self, policy: Policy, plan: Plan, images: Sequence[Any]) -> tuple[torch.Tensor, ...]:
        """The views of a plan's samples, of images as in `plan.images`."""
        raise NotImplementedError

    def render(self, policy: Policy, plan: Plan, files: Sequence[bytes]) -> tuple[torch.Tensor, ...]:
        """The whole job: every image of the batch is decoded once, then the views are made."""
        return self.views(policy, plan, [*map(self.decode, files)] if self.decode else files)


class WayBySample(Way):
    """A way that makes one view of one sample at a time, by these methods of a subclass.

    resized: takes an image, x0, y0, x1, y1 of the region in it, and the new width and height. paste: puts a patch on
    a canvas; takes both, and the patch's x0, y0, x1, y1 there. flip, gray: take a picture. jitter: also takes an
    operation and its factor. blur: also takes sigma in pixels. normalise: also takes the policy; makes a float32 tensor
    [3, S, S].
    """

    resized: Any
    paste: Any
    flip: Any
    jitter: Any
    gray: Any
    blur: Any
    normalise: Any

    def views(self, policy: Policy, plan: Plan, images: Sequence[Any]) -> tuple[torch.Tensor, ...]:
        """See `Way.views`."""
        samples = range(len(plan))
        return tuple(torch.stack([self._view(policy, plan, images, i, v) for i in samples]) for v in range(plan.views))

    def _view(self, policy: Policy, plan: Plan, images: Sequence[Any], i: int, v: int) -> torch.Tensor:
        picture = self.composed(plan, images, i, v)
        if plan.flip[i, v]:
            picture = self.flip(picture)
        if plan.jittered[i, v]:
            picture = self.jittered(picture, plan.order[i, v].tolist(), plan.jitter[i, v].tolist())
        if plan.gray[i, v]:
            picture = self.gray(picture)
        if (sigma := float(plan.sigma[i, v])) > 0:
            picture = self.blur(picture, sigma)
        return self.normalise(picture, policy)

    def jittered(self, picture: Any, order: Sequence[int], factors: Sequence[float]) -> Any:
        """A picture after all operations in this order, each by its factor; for libraries that do several at once."""
        for op in order:
            picture = self.jitter(picture, op, factors[op])
        return picture

    def composed(self, plan: Plan, images: Sequence[Any], i: int, v: int) -> Any:
        """The picture of sample i, view v: the patch on its background, not flipped."""
        x0, y0, x1, y1 = rect = plan.rects[i, v].tolist()
        source = images[plan.source_slot[i]], *plan.patch[i, v].tolist()
        if rect == [0, 0, plan.size, plan.size]:  # the patch hides the whole background
            return self.resized(*source, plan.size, plan.size)
        background = images[plan.background_slot[i, v]], *plan.scene[i, v].tolist()
        canvas = self.resized(*background, plan.size, plan.size)
        if x1 > x0 and y1 > y0:
            self.paste(canvas, self.resized(*source, x1 - x0, y1 - y0), x0, y0, x1, y1)
        return canvas


def paste_on_tensor(canvas: Any, patch: Any, x0: int, y0: int, x1: int, y1: int) -> None:
    """`paste` for tensors [3, S, S]."""
    canvas[:, y0:y1, x0:x1] = patch
