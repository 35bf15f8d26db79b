"""The same job by other libraries, each as its experts would write it.

The job: JPEG bytes of a batch's images → two normalised SaliencySwap views of each source (crop, resize, paste, flip,
jitter in the drawn order, gray, blur, normalise). Every peer gets the same plan as our backends, so its result can be
compared before it is timed, and every peer decodes each image once a batch, which is kinder than what a plain Dataset
does (it would decode source and both backgrounds: three images a sample).

Peers mean torchvision's colours (HSV hue, clamping, contrast about the mean luma), except for plain DALI, whose
operators have others. Two leave out antialiasing, as their users do; `tolerance` says how far a peer's views may be
from ours (mean levels of 255) to count as the same job.
"""

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from augment.views.plan import BRIGHTNESS, CONTRAST, HUE, SATURATION, Plan
from augment.views.policy import Policy, blur_radius
from benchmarks.ways import Way, by_sample, covers
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
    from torchvision.transforms.v2 import functional

    F: Any = functional  # its stubs know tensors only
    bilinear = Image.Resampling.BILINEAR

    def decode(data: bytes) -> Any:
        image: Any = Image.open(io.BytesIO(data))
        return ImageOps.exif_transpose(image).convert("RGB")

    def cropped(image: Any, roi: np.ndarray) -> Any:
        box = tuple(roi.tolist())
        return image if box == (0, 0, *image.size) else image.crop(box)

    def compose(plan: Plan, images: Sequence[Any], i: int, v: int) -> Any:
        rect, size = plan.rects[i, v].tolist(), plan.size
        background, source = images[plan.background_slot[i, v]], images[plan.source_slot[i]]
        if covers(rect, size):
            canvas = Image.new("RGB", (size, size))
        else:
            canvas = cropped(background, plan.scene[i, v]).resize((size, size), bilinear)
        if rect[2] > rect[0] and rect[3] > rect[1]:
            patch = cropped(source, plan.patch[i, v])
            canvas.paste(patch.resize((rect[2] - rect[0], rect[3] - rect[1]), bilinear), rect[:2])
        return F.hflip(canvas) if plan.flip[i, v] else canvas

    return by_sample(
        decode,
        compose,
        _jitter_of(F),
        gray=lambda picture: F.rgb_to_grayscale(picture, 3),
        blur=lambda picture, sigma: picture.filter(ImageFilter.GaussianBlur(radius=sigma)),
        normalise=lambda picture, policy: F.normalize(
            F.to_dtype(F.pil_to_tensor(picture), scale=True), list(policy.mean), list(policy.std)
        ),
    )


def _jitter_of(module: Any, ending: str = "") -> Callable[[Any, int, Any], Any]:
    """ColorJitter's operations by a module's functions of torchvision's names, on whatever pictures they take."""
    names = {BRIGHTNESS: "brightness", CONTRAST: "contrast", SATURATION: "saturation", HUE: "hue"}
    functions = {op: getattr(module, f"adjust_{name}{ending}") for op, name in names.items()}
    return lambda picture, op, factor: functions[op](picture, factor)


def _torchvision(device: str) -> Way:
    """torchvision's v2 functions on uint8 tensors."""
    import torch
    import torchvision.transforms.v2.functional as F

    from augment.backends.torch_ops import decode

    def resized(image: Any, roi: np.ndarray, height: int, width: int) -> Any:
        x0, y0, x1, y1 = roi.tolist()
        return F.resized_crop(image, y0, x0, y1 - y0, x1 - x0, [height, width], antialias=True)

    def compose(plan: Plan, images: Sequence[Any], i: int, v: int) -> Any:
        x0, y0, x1, y1 = plan.rects[i, v].tolist()
        if covers((x0, y0, x1, y1), plan.size):
            canvas = torch.empty((3, plan.size, plan.size), dtype=torch.uint8)
        else:
            canvas = resized(images[plan.background_slot[i, v]], plan.scene[i, v], plan.size, plan.size)
        if x1 > x0 and y1 > y0:
            canvas[:, y0:y1, x0:x1] = resized(images[plan.source_slot[i]], plan.patch[i, v], y1 - y0, x1 - x0)
        return F.horizontal_flip(canvas) if plan.flip[i, v] else canvas

    return by_sample(
        decode,
        compose,
        _jitter_of(F),
        gray=lambda picture: F.rgb_to_grayscale(picture, 3),
        blur=lambda picture, sigma: F.gaussian_blur(picture, [2 * blur_radius(sigma) + 1] * 2, [sigma, sigma]),
        normalise=lambda picture, policy: F.normalize(
            F.to_dtype(picture, torch.float32, scale=True), list(policy.mean), list(policy.std)
        ),
    )


def _cv2() -> Any:
    """OpenCV in one thread, since samples are the unit of parallelism, as in a DataLoader's workers.

    Its type stubs know neither NumPy's arrays nor None.
    """
    import cv2

    cv2.setNumThreads(1)
    return cv2


def _opencv_compose(plan: Plan, images: Sequence[Any], i: int, v: int) -> Any:
    import cv2

    def resized(image: Any, roi: np.ndarray, size: tuple[int, int]) -> Any:
        x0, y0, x1, y1 = roi.tolist()
        return cv2.resize(image[y0:y1, x0:x1], size, interpolation=cv2.INTER_LINEAR)

    x0, y0, x1, y1 = plan.rects[i, v].tolist()
    if covers((x0, y0, x1, y1), plan.size):
        canvas = resized(images[plan.source_slot[i]], plan.patch[i, v], (plan.size, plan.size))
    else:
        canvas = resized(images[plan.background_slot[i, v]], plan.scene[i, v], (plan.size, plan.size))
        if x1 > x0 and y1 > y0:
            canvas[y0:y1, x0:x1] = resized(images[plan.source_slot[i]], plan.patch[i, v], (x1 - x0, y1 - y0))
    return cv2.flip(canvas, 1) if plan.flip[i, v] else canvas


def _opencv_decode(data: bytes) -> Any:
    import cv2

    image: Any = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


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

    return by_sample(_opencv_decode, _opencv_compose, jitter, gray, blur, normalise)


def _albumentations(device: str) -> Way:
    """albumentations' own functions (those that its ColorJitter, GaussianBlur and Normalize call)."""
    import os

    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else its import asks the network for a newer version
    import torch
    from albucore import normalize
    from albumentations.augmentations.blur import functional as blurring
    from albumentations.augmentations.pixel import functional as pixel

    # Its annotations say float; inside, only NumPy's float32 takes the fast path.
    fblur: Any = blurring
    fpixel: Any = pixel
    jitter = _jitter_of(fpixel, "_torchvision")
    _cv2()

    def blur(picture: Any, sigma: float) -> Any:
        kernel = fblur.create_gaussian_kernel_1d(sigma, 2 * blur_radius(sigma) + 1)
        return fpixel.separable_convolve(picture, kernel=kernel)

    def normalise(picture: Any, policy: Policy) -> Any:
        mean, std = (np.array(x, np.float32) * 255 for x in (policy.mean, policy.std))
        return torch.from_numpy(normalize(picture, mean, 1 / std)).permute(2, 0, 1)

    return by_sample(
        _opencv_decode,
        _opencv_compose,
        jitter=lambda picture, op, factor: jitter(picture, op, np.float32(factor)),
        gray=lambda picture: fpixel.grayscale_to_multichannel(fpixel.to_gray_weighted_average(picture), 3),
        blur=blur,
        normalise=normalise,
    )


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
    """The peers of these names; ("none",): no peers. BadValue names the known ones."""
    if tuple(names) == ("none",):
        return []
    for name in names:
        if name not in PEERS:
            raise BadValue("peers", name, [*PEERS, "none"])
    return [PEERS[name] for name in names]
