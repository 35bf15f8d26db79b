"""Peers that make one view of one sample at a time: torchvision, Pillow, OpenCV, albumentations."""

import importlib
import io
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps
from torchvision.transforms.v2 import functional

from augment.backends import torch_ops
from augment.backends.jpeg import shrinks
from augment.backends.layout import lay_out
from augment.views.plan import BRIGHTNESS, CONTRAST, HUE, SATURATION, Plan
from augment.views.policy import Policy, blur_radius
from benchmarks.ways import WayBySample, paste_on_tensor

F: Any = functional  # its stubs know tensors only
OPERATIONS = {BRIGHTNESS: "brightness", CONTRAST: "contrast", SATURATION: "saturation", HUE: "hue"}


class Torchvision(WayBySample):
    """torchvision's v2 functions on uint8 tensors."""

    decode = staticmethod(torch_ops.decode)
    paste = staticmethod(paste_on_tensor)
    flip = staticmethod(F.hflip)

    def resized(self, image: Any, x0: int, y0: int, x1: int, y1: int, width: int, height: int) -> Any:
        return F.resized_crop(image, y0, x0, y1 - y0, x1 - x0, [height, width], antialias=True)

    def jitter(self, picture: Any, op: int, factor: float) -> Any:
        return getattr(F, f"adjust_{OPERATIONS[op]}")(picture, factor)

    def gray(self, picture: Any) -> Any:
        return F.rgb_to_grayscale(picture, 3)

    def blur(self, picture: Any, sigma: float) -> Any:
        return F.gaussian_blur(picture, [2 * blur_radius(sigma) + 1] * 2, [sigma, sigma])

    def normalise(self, picture: Any, policy: Policy) -> Any:
        return F.normalize(F.to_dtype(picture, torch.float32, scale=True), list(policy.mean), list(policy.std))


class Pillow(Torchvision):
    """MoCo v2's own way: Pillow images, torchvision's functions on them, Pillow's blur."""

    def decode(self, data: bytes) -> Any:
        image: Any = Image.open(io.BytesIO(data))
        return ImageOps.exif_transpose(image).convert("RGB")

    def resized(self, image: Any, x0: int, y0: int, x1: int, y1: int, width: int, height: int) -> Any:
        part = image if (x0, y0, x1, y1) == (0, 0, *image.size) else image.crop((x0, y0, x1, y1))
        return part.resize((width, height), Image.Resampling.BILINEAR)

    def paste(self, canvas: Any, patch: Any, x0: int, y0: int, x1: int, y1: int) -> None:
        canvas.paste(patch, (x0, y0))

    def blur(self, picture: Any, sigma: float) -> Any:
        return picture.filter(ImageFilter.GaussianBlur(radius=sigma))

    def normalise(self, picture: Any, policy: Policy) -> Any:
        return super().normalise(F.pil_to_tensor(picture), policy)


class OpenCV(WayBySample):
    """OpenCV on uint8 with look-up tables wherever an operation is one."""

    ramp = np.arange(256, dtype=np.float32)

    def __init__(self, device: str = "cpu") -> None:
        super().__init__(device)
        import cv2

        cv2.setNumThreads(1)  # samples are the unit of parallelism, as in a DataLoader's workers
        self.cv2: Any = cv2  # its stubs know neither NumPy's arrays nor None

    def decode(self, data: bytes) -> Any:
        encoded = np.frombuffer(data, np.uint8)
        return self.cv2.cvtColor(self.cv2.imdecode(encoded, self.cv2.IMREAD_COLOR), self.cv2.COLOR_BGR2RGB)

    def resized(self, image: Any, x0: int, y0: int, x1: int, y1: int, width: int, height: int) -> Any:
        return self.cv2.resize(image[y0:y1, x0:x1], (width, height), interpolation=self.cv2.INTER_LINEAR)

    def paste(self, canvas: Any, patch: Any, x0: int, y0: int, x1: int, y1: int) -> None:
        canvas[y0:y1, x0:x1] = patch

    def flip(self, picture: Any) -> Any:
        return self.cv2.flip(picture, 1)

    def jitter(self, picture: Any, op: int, factor: float) -> Any:
        cv2 = self.cv2
        if op == SATURATION:
            return cv2.addWeighted(picture, factor, self.gray(picture), 1 - factor, 0)
        if op == HUE:
            hsv = cv2.cvtColor(picture, cv2.COLOR_RGB2HSV_FULL)
            hsv[..., 0] += np.uint8(round(factor * 256) % 256)
            return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)
        table = self.ramp * factor
        if op == CONTRAST:
            table += (1 - factor) * round(cv2.mean(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY))[0])
        return cv2.LUT(picture, table.clip(0, 255).astype(np.uint8))

    def gray(self, picture: Any) -> Any:
        return self.cv2.cvtColor(self.cv2.cvtColor(picture, self.cv2.COLOR_RGB2GRAY), self.cv2.COLOR_GRAY2RGB)

    def blur(self, picture: Any, sigma: float) -> Any:
        window = 2 * blur_radius(sigma) + 1
        return self.cv2.GaussianBlur(picture, (window, window), sigma)

    def normalise(self, picture: Any, policy: Policy) -> Any:
        tables = np.stack([(self.ramp / 255 - m) / s for m, s in zip(policy.mean, policy.std, strict=True)], axis=-1)
        return torch.from_numpy(self.cv2.LUT(picture, tables[None].astype(np.float32))).permute(2, 0, 1)


class OpenCVReduced(OpenCV):
    """The same with IMREAD_REDUCED_COLOR_2, _4, _8 where every crop of a picture allows it, by our rule for it."""

    def render(self, policy: Policy, plan: Plan, files: Sequence[bytes]) -> tuple[torch.Tensor, ...]:
        """See `Way.render`."""
        layout = lay_out(plan, shared=policy.scene == "whole")
        shrink = shrinks(layout.crops, np.searchsorted(layout.slot, np.arange(len(plan.images) + 1)))
        return self.views(policy, plan, list(map(self.reduced, files, shrink.tolist())))

    def reduced(self, data: bytes, shrink: int) -> tuple[Any, int]:
        """The picture, and how many pixels of the whole one a pixel of it stands for, across and down."""
        flag = getattr(self.cv2, f"IMREAD_REDUCED_COLOR_{shrink}") if shrink > 1 else self.cv2.IMREAD_COLOR
        return self.cv2.cvtColor(self.cv2.imdecode(np.frombuffer(data, np.uint8), flag), self.cv2.COLOR_BGR2RGB), shrink

    def resized(self, image: Any, x0: int, y0: int, x1: int, y1: int, width: int, height: int) -> Any:
        pixels, shrink = image if isinstance(image, tuple) else (image, 1)
        corners = (x0 // shrink, y0 // shrink, -(-x1 // shrink), -(-y1 // shrink))
        return super().resized(pixels, *corners, width, height)


class Albumentations(OpenCV):
    """albumentations' own functions (those that its ColorJitter, GaussianBlur and Normalize call)."""

    def __init__(self, device: str = "cpu") -> None:
        super().__init__(device)
        os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else its import asks the network for a newer version
        from albucore import normalize

        self.normalize: Any = normalize
        functions = "albumentations.augmentations.{}.functional"
        self.blurs, self.pixels = (importlib.import_module(functions.format(part)) for part in ("blur", "pixel"))

    def jitter(self, picture: Any, op: int, factor: float) -> Any:
        adjust = getattr(self.pixels, f"adjust_{OPERATIONS[op]}_torchvision")
        return adjust(picture, np.float32(factor))  # a Python float does not take the fast path

    def gray(self, picture: Any) -> Any:
        return self.pixels.grayscale_to_multichannel(self.pixels.to_gray_weighted_average(picture), 3)

    def blur(self, picture: Any, sigma: float) -> Any:
        kernel = self.blurs.create_gaussian_kernel_1d(sigma, 2 * blur_radius(sigma) + 1)
        return self.pixels.separable_convolve(picture, kernel=kernel)

    def normalise(self, picture: Any, policy: Policy) -> Any:
        mean, std = (np.array(x, np.float32) * 255 for x in (policy.mean, policy.std))
        return torch.from_numpy(self.normalize(picture, mean, 1 / std)).permute(2, 0, 1)


class AlbumentationsX(Albumentations):
    """Its successor, by another licence and the same import name: one function does all of the colour jitter."""

    def jittered(self, picture: Any, order: Sequence[int], factors: Sequence[float]) -> Any:
        names = [OPERATIONS[op] for op in order]
        for i in range(len(names) - 1):  # where they follow each other, one look-up does both
            if {names[i], names[i + 1]} == {"brightness", "contrast"}:
                names[i : i + 2] = [f"{names[i]}_{names[i + 1]}"]
                break
        arguments = {OPERATIONS[op]: factor for op, factor in enumerate(factors)}
        return self.pixels.apply_color_jitter(picture, **arguments, order=names)
