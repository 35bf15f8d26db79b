"""Peers that work on whole batches: Kornia (eager and compiled), lightly's own transform."""

import io
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from augment.backends import torch_ops
from augment.views.plan import BRIGHTNESS, CONTRAST, HUE, SATURATION, Plan
from augment.views.policy import Policy, blur_radius
from benchmarks.ways import Way, WayBySample, paste_on_tensor
from precompute.base.private import let_torch_keep_code_private


def _operations(jitter: Tensor) -> dict[int, Callable[[Tensor], Tensor]]:
    import kornia.enhance as enhance

    return {
        BRIGHTNESS: lambda x: enhance.adjust_brightness_accumulative(x, jitter[:, BRIGHTNESS]),
        CONTRAST: lambda x: enhance.adjust_contrast_with_mean_subtraction(x, jitter[:, CONTRAST]),
        SATURATION: lambda x: enhance.adjust_saturation_with_gray_subtraction(x, jitter[:, SATURATION]),
        HUE: lambda x: enhance.adjust_hue(x, jitter[:, HUE] * (2 * torch.pi)),
    }


def _kornia_chosen(x: Tensor, order: tuple[int, ...], drawn: Sequence[Tensor], window: int, norm: Tensor) -> Tensor:
    import kornia

    flip, jittered, jitter, gray, sigma = drawn
    x[flip] = kornia.geometry.transform.hflip(x[flip])
    part = x[jittered]
    operations = _operations(jitter[jittered])
    for op in order:
        part = operations[op](part)
    x[jittered] = part
    x[gray] = kornia.color.rgb_to_grayscale(x[gray]).expand(-1, 3, -1, -1)
    rows = sigma > 0
    x[rows] = kornia.filters.gaussian_blur2d(x[rows], (window, window), sigma[rows, None].expand(-1, 2))
    return kornia.enhance.normalize(x, norm[0], norm[1])


def _kornia_everywhere(x: Tensor, order: tuple[int, ...], drawn: Sequence[Tensor], window: int, norm: Tensor) -> Tensor:
    import kornia

    flip, jittered, jitter, gray, sigma = drawn

    def where(chosen: Tensor, new: Tensor, old: Tensor) -> Tensor:
        return torch.where(chosen[:, None, None, None], new, old)

    x = where(flip, x.flip(-1), x)
    y, operations = x, _operations(jitter)
    for op in order:
        y = operations[op](y)
    x = where(jittered, y, x)
    x = where(gray, kornia.color.rgb_to_grayscale(x).expand(-1, 3, -1, -1), x)
    blurred = kornia.filters.gaussian_blur2d(x, (window, window), sigma.clamp(min=0.1)[:, None].expand(-1, 2))
    x = where(sigma > 0, blurred, x)
    return (x - norm[0][:, None, None]) / norm[1][:, None, None]


class Kornia(WayBySample):
    """Kornia's functions on a batch, each on the samples that have it in the plan, as its augmentation classes do."""

    decode = staticmethod(torch_ops.decode)
    paste = staticmethod(paste_on_tensor)
    pixels: Callable[..., Tensor] = staticmethod(_kornia_chosen)

    def resized(self, image: Tensor, x0: int, y0: int, x1: int, y1: int, width: int, height: int) -> Tensor:
        return F.interpolate(image[None, :, y0:y1, x0:x1], (height, width), mode="bilinear", antialias=True)[0]

    def views(self, policy: Policy, plan: Plan, images: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """See `Way.views`."""
        return tuple(self._batch(policy, plan, images, v) for v in range(plan.views))

    def _batch(self, policy: Policy, plan: Plan, images: Sequence[Tensor], v: int) -> Tensor:
        pictures = [self.composed(plan, images, i, v) for i in range(len(plan))]
        canvas = torch.stack(pictures).to(self.device)
        per_sample = (plan.flip, plan.jittered, plan.jitter, plan.gray, plan.sigma)
        drawn = [torch.from_numpy(x[:, v].copy()).to(self.device) for x in per_sample]
        norm = torch.tensor((policy.mean, policy.std), device=self.device)
        # Kornia's ColorJitter has one order of operations for a batch; the first sample's is taken.
        order, window = tuple(plan.order[0, v].tolist()), 2 * blur_radius(policy.blur_sigma[1]) + 1
        return self.pixels(canvas.float() / 255, order, drawn, window, norm)


class KorniaCompiled(Kornia):
    """The same as one function without a branch, in torch.compile."""

    def __init__(self, device: str = "cpu") -> None:
        super().__init__(device)
        import torch._inductor.config as inductor

        let_torch_keep_code_private()
        inductor.compile_threads = 1  # a pool of compilers would still work while the arms are timed
        self.pixels = torch.compile(_kornia_everywhere, dynamic=False)


class Lightly(Way):
    """lightly's MoCoV2Transform with our policy's numbers, on Pillow images. It draws its own random numbers."""

    def decode(self, data: bytes) -> Any:
        """A Pillow image."""
        return Image.open(io.BytesIO(data)).convert("RGB")

    def views(self, policy: Policy, plan: Plan, images: Sequence[Any]) -> tuple[Tensor, ...]:
        """See `Way.views`."""
        from lightly.transforms import MoCoV2Transform

        transform = MoCoV2Transform(
            input_size=policy.size,
            cj_prob=policy.jitter_p,
            **dict(zip(("cj_bright", "cj_contrast", "cj_sat", "cj_hue"), policy.jitter, strict=True)),
            min_scale=policy.crop_scale or 0.2,
            random_gray_scale=policy.gray_p,
            gaussian_blur=policy.blur_p,
            sigmas=(policy.blur_sigma[0], policy.blur_sigma[1]),
            hf_prob=policy.flip,
            normalize={"mean": list(policy.mean), "std": list(policy.std)},
        )
        pairs = [transform(images[slot]) for slot in plan.source_slot]
        return tuple(torch.stack(view) for view in zip(*pairs, strict=True))
