"""The same job by other libraries, each as its experts would write it.

The job: JPEG bytes of a batch's images → two normalised SaliencySwap views of each source (crop, resize, paste, flip,
jitter in the drawn order, gray, blur, normalise). Every peer gets our backends' plan, so its result is compared before
it is timed, and decodes each image once a batch; a plain Dataset would decode three a sample (with both backgrounds).

Peers mean torchvision's colours (HSV hue, clamping, contrast about the mean luma), except for plain DALI, whose
operators have others. Two leave out antialiasing, as their users do.
"""

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from augment.views.plan import BRIGHTNESS, CONTRAST, HUE, SATURATION
from augment.views.policy import Policy, blur_radius
from benchmarks.ways import Way, by_sample, paste_on_tensor
from precompute.base.errors import BadValue


@dataclass(frozen=True)
class Peer:
    """A library, and how its result is checked."""

    name: str
    needs: tuple[str, ...]  # modules that must be installed
    tolerance: float  # levels of 255: mean difference from our views; where it `draws`, of the views' statistics
    load: Callable[[str], Way]  # takes the device: "cpu" or "cuda"
    policies: tuple[str, ...] = ("saliencyswap", "rrc", "instloc")
    scenes: tuple[str, ...] = ("whole", "crop", "zoom")
    draws: bool = False  # draws its own random numbers, so that pixels cannot be compared, only their statistics
    devices: tuple[str, ...] = ("cpu",)  # where it can run; on a GPU machine those on the CPU stand beside the others

    def missing(self) -> str | None:
        """What to install, or None."""
        absent = [m for m in self.needs if not _found(m)]
        return f"{', '.join(absent)} not installed (pip install 'saliencyswap[peers]')" if absent else None

    def way(self, device: str = "cpu") -> Way:
        """Imports the library and builds its functions, for `device` if it can run there, else for the CPU."""
        return self.load(device if device in self.devices else "cpu")


def _found(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # its package is missing
        return False


def _pillow(device: str) -> Way:
    """MoCo v2's own way: Pillow images, torchvision's functions on them, Pillow's blur."""
    import io

    from PIL import Image, ImageFilter, ImageOps
    from torchvision.transforms.v2.functional import pil_to_tensor

    def decode(data: bytes) -> Any:
        image: Any = Image.open(io.BytesIO(data))
        return ImageOps.exif_transpose(image).convert("RGB")

    def resized(image: Any, x0: int, y0: int, x1: int, y1: int, width: int, height: int) -> Any:
        part = image if (x0, y0, x1, y1) == (0, 0, *image.size) else image.crop((x0, y0, x1, y1))
        return part.resize((width, height), Image.Resampling.BILINEAR)

    def paste(canvas: Any, patch: Any, x0: int, y0: int, x1: int, y1: int) -> None:
        canvas.paste(patch, (x0, y0))

    def blur(picture: Any, sigma: float) -> Any:
        return picture.filter(ImageFilter.GaussianBlur(radius=sigma))

    return _by_torchvision(decode, resized, paste, blur, pil_to_tensor)


def _torchvision(device: str) -> Way:
    """torchvision's v2 functions on uint8 tensors."""
    import torchvision.transforms.v2.functional as F

    from augment.backends.torch_ops import decode

    def resized(image: Any, x0: int, y0: int, x1: int, y1: int, width: int, height: int) -> Any:
        return F.resized_crop(image, y0, x0, y1 - y0, x1 - x0, [height, width], antialias=True)

    def blur(picture: Any, sigma: float) -> Any:
        return F.gaussian_blur(picture, [2 * blur_radius(sigma) + 1] * 2, [sigma, sigma])

    return _by_torchvision(decode, resized, paste_on_tensor, blur, as_tensor=lambda picture: picture)


def _by_torchvision(decode: Any, resized: Any, paste: Any, blur: Any, as_tensor: Callable[[Any], Any]) -> Way:
    """See `by_sample`; flip, colours and normalisation are by torchvision's functions, for tensors and Pillow's images.

    as_tensor: makes a tensor uint8 [3, S, S] of a picture.
    """
    import torch
    from torchvision.transforms.v2 import functional

    F: Any = functional  # its stubs know tensors only

    def normalise(picture: Any, policy: Policy) -> Any:
        scaled = F.to_dtype(as_tensor(picture), torch.float32, scale=True)
        return F.normalize(scaled, list(policy.mean), list(policy.std))

    def gray(picture: Any) -> Any:
        return F.rgb_to_grayscale(picture, 3)

    return by_sample(decode, resized, paste, F.hflip, _jitter_of(F), gray, blur, normalise)


def _jitter_of(module: Any, ending: str = "") -> Callable[[Any, int, Any], Any]:
    """ColorJitter's operations by a module's functions of torchvision's names, on whatever pictures they take."""
    names = {BRIGHTNESS: "brightness", CONTRAST: "contrast", SATURATION: "saturation", HUE: "hue"}
    functions = {op: getattr(module, f"adjust_{name}{ending}") for op, name in names.items()}
    return lambda picture, op, factor: functions[op](picture, factor)


def _cv2() -> Any:
    """OpenCV in one thread, since samples are the unit of parallelism, as in a DataLoader's workers.

    Its type stubs know neither NumPy's arrays nor None.
    """
    import cv2

    cv2.setNumThreads(1)
    return cv2


def _by_opencv(jitter: Any, gray: Any, blur: Any, normalise: Any) -> Way:
    """See `by_sample`; decoded, resized and flipped by OpenCV."""
    cv2 = _cv2()

    def decode(data: bytes) -> Any:
        return cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)

    def resized(image: Any, x0: int, y0: int, x1: int, y1: int, width: int, height: int) -> Any:
        return cv2.resize(image[y0:y1, x0:x1], (width, height), interpolation=cv2.INTER_LINEAR)

    def paste(canvas: Any, patch: Any, x0: int, y0: int, x1: int, y1: int) -> None:
        canvas[y0:y1, x0:x1] = patch

    return by_sample(decode, resized, paste, lambda picture: cv2.flip(picture, 1), jitter, gray, blur, normalise)


def _opencv(device: str) -> Way:
    """OpenCV on uint8 with look-up tables wherever an operation is one."""
    import torch

    cv2 = _cv2()
    ramp = np.arange(256, dtype=np.float32)

    def table(values: np.ndarray) -> np.ndarray:
        return values.clip(0, 255).astype(np.uint8)

    def luma(picture: Any) -> Any:
        return cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)

    def gray(picture: Any) -> Any:
        return cv2.cvtColor(luma(picture), cv2.COLOR_GRAY2RGB)

    def jitter(picture: Any, op: int, factor: float) -> Any:
        if op == BRIGHTNESS:
            return cv2.LUT(picture, table(ramp * factor))
        if op == CONTRAST:
            return cv2.LUT(picture, table(ramp * factor + (1 - factor) * round(cv2.mean(luma(picture))[0])))
        if op == SATURATION:
            return cv2.addWeighted(picture, factor, gray(picture), 1 - factor, 0)
        hsv = cv2.cvtColor(picture, cv2.COLOR_RGB2HSV_FULL)
        hsv[..., 0] += np.uint8(round(factor * 256) % 256)
        return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)

    def blur(picture: Any, sigma: float) -> Any:
        window = 2 * blur_radius(sigma) + 1
        return cv2.GaussianBlur(picture, (window, window), sigma)

    def normalise(picture: Any, policy: Policy) -> Any:
        tables = np.stack([(ramp / 255 - m) / s for m, s in zip(policy.mean, policy.std, strict=True)], axis=-1)
        return torch.from_numpy(cv2.LUT(picture, tables[None].astype(np.float32))).permute(2, 0, 1)

    return _by_opencv(jitter, gray, blur, normalise)


def _albumentations(device: str) -> Way:
    """albumentations' own functions (those that its ColorJitter, GaussianBlur and Normalize call)."""
    import os

    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else its import asks the network for a newer version
    import torch
    from albucore import normalize

    fblur, fpixel = (
        importlib.import_module(f"albumentations.augmentations.{part}.functional") for part in ("blur", "pixel")
    )
    adjust = _jitter_of(fpixel, "_torchvision")

    def jitter(picture: Any, op: int, factor: float) -> Any:
        return adjust(picture, op, np.float32(factor))  # a Python float does not take the fast path

    def gray(picture: Any) -> Any:
        return fpixel.grayscale_to_multichannel(fpixel.to_gray_weighted_average(picture), 3)

    def blur(picture: Any, sigma: float) -> Any:
        kernel = fblur.create_gaussian_kernel_1d(sigma, 2 * blur_radius(sigma) + 1)
        return fpixel.separable_convolve(picture, kernel=kernel)

    def normalise(picture: Any, policy: Policy) -> Any:
        mean, std = (np.array(x, np.float32) * 255 for x in (policy.mean, policy.std))
        return torch.from_numpy(normalize(picture, mean, 1 / std)).permute(2, 0, 1)

    return _by_opencv(jitter, gray, blur, normalise)


def _batches(name: str) -> Callable[[str], Way]:
    """A function of `benchmarks.peers_batch`, which is imported when the peer is built: it brings its library."""
    return lambda device: getattr(importlib.import_module("benchmarks.peers_batch"), name)(device)


_BOTH = ("cpu", "cuda")
# A new peer: a function that makes its `Way` (here, or in peers_batch.py where it works on whole batches), and a line
# in this table.
PEERS = {
    peer.name: peer
    for peer in (
        Peer("pillow", ("PIL", "torchvision"), 2.0, _pillow),
        Peer("torchvision", ("torchvision",), 2.0, _torchvision),
        Peer("opencv", ("cv2",), 8.0, _opencv),
        Peer("albumentations", ("albumentations",), 8.0, _albumentations),
        Peer("kornia", ("kornia",), 5.0, _batches("kornia_eager"), devices=_BOTH),
        Peer("kornia compiled", ("kornia",), 5.0, _batches("kornia_compiled"), devices=_BOTH),
        Peer("plain dali", ("nvidia.dali",), 12.0, _batches("plain_dali"), scenes=("whole",), devices=_BOTH),
        Peer("lightly", ("lightly",), 10.0, _batches("lightly"), policies=("rrc",), draws=True),
    )
}


def find(names: Sequence[str]) -> list[Peer]:
    """The peers of these names; ("none",): no peers; none named: all. BadValue names the known ones."""
    if tuple(names) == ("none",):
        return []
    for name in names:
        if name not in PEERS:
            raise BadValue("peers", name, [*PEERS, "none"])
    return [PEERS[name] for name in names or PEERS]


def find_able(
    names: Sequence[str], say: Callable[[str], None], policy: str = "saliencyswap", scene: str = "whole"
) -> tuple[list[Peer], dict[str, str]]:
    """Of `find(names)` those that can do the job here; the rest by name with the reason, which `say` prints."""
    able, skipped = [], {}
    for peer in find(names):
        why = peer.missing()
        if policy not in peer.policies:
            why = f"it has no {policy}, only {', '.join(peer.policies)}"
        if scene not in peer.scenes:
            why = f"its backgrounds are {', '.join(peer.scenes)}"
        if why:
            skipped[peer.name] = why
            say(f"skipped: {peer.name}: {why}")
        else:
            able.append(peer)
    return able, skipped
