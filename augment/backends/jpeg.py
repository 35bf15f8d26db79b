"""Decodes of a JPEG what crops read of it, by the libjpeg-turbo that is on the machine; see `jpeg.cpp`.

torchvision and Pillow need libjpeg and their wheels bring it, so it is nearly always there. Pillow's comes first: it is
the newest, and takes 2 % less time than torchvision's. That is next: it decodes the other files (`torch_ops.decode`),
and each library must make its pixels. Then the system's, which may be years old.
"""

import ctypes
import ctypes.util
import functools
import importlib.util
import io
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from augment.backends import native
from augment.backends.decoded import Picture
from augment.backends.layout import CROP, lay_out
from augment.backends.torch_ops import decode
from augment.views.plan import Plan

FUNCTIONS = (  # the struct Functions of libjpeg.hpp
    "std_error", "CreateDecompress", "destroy_decompress", "mem_src", "read_header", "start_decompress",
    "crop_scanline", "skip_scanlines", "read_scanlines", "finish_decompress", "abort_decompress",
)  # fmt: skip


# CPU ms to decode and resize a megapixel of real photographs at 1, 1/2, 1/4, 1/8 of their sides, and ms of two views.
_COST = {1: 5.5, 2: 2.8, 4: 2.0, 8: 1.7}
_VIEWS = 0.7
LEAST = 1.75  # at no more cost than 1.5, views are a fifth nearer to those of the whole decode


class _Library(ctypes.Structure):
    """The struct JpegLibrary of jpeg.cpp."""

    _fields_ = (*((name, ctypes.c_void_p) for name in FUNCTIONS), ("version", ctypes.c_int32), ("size", ctypes.c_int32))


class _Batch(ctypes.Structure):
    """The struct JpegBatch of jpeg.cpp."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("data", "sizes", "first", "crops", "status", "shrink")),
        ("count", ctypes.c_int32),
        ("next", ctypes.c_int32),
    )


class NotUsable(Exception):
    """A library that does not fit; the text is the reason."""


class JpegCrops:
    """Decodes and cuts pictures by one library."""

    def __init__(self, compiled: ctypes.CDLL, path: str) -> None:
        """`compiled`: of `native.load`. Raises NotUsable."""
        self.scaled = False  # whether pictures are decoded as small as their crops allow: see `shrinks`
        self._compiled, self._keep, self._library = compiled, _loaded(path), _Library()
        for name in FUNCTIONS:
            try:
                function = getattr(self._keep, f"jpeg_{name}")
            except AttributeError:
                raise NotUsable(f"{Path(path).name} has no jpeg_{name}: it is not libjpeg-turbo") from None
            setattr(self._library, name, ctypes.cast(function, ctypes.c_void_p))
        self.name = Path(path).name
        if compiled.jpeg_open(ctypes.byref(self._library)):
            raise NotUsable(f"{self.name} has an interface that is not known here ({self._library.version})")

    def cut(
        self, files: Sequence[bytes], first: np.ndarray, crops: np.ndarray, run: Callable[[Callable[[], None]], None]
    ) -> np.ndarray:
        """Decodes files, cuts `crops` (`layout.CROP`, contiguous) to their places: first[i] : first[i + 1] are i's.

        `run(work)` calls `work` in as many threads as are to share the files. Returns the numbers of the files that are
        left to another decoder: no plain upright JPEG, damaged, or smaller than a crop of theirs.
        """
        # By way of NumPy, since they may be bytes or memoryviews.
        pointers = np.fromiter((np.frombuffer(file, np.uint8).ctypes.data for file in files), np.uint64, len(files))
        sizes, status = np.fromiter(map(len, files), np.int64, len(files)), np.zeros(len(files), np.int32)
        first = np.ascontiguousarray(first, np.int64)
        shrink = shrinks(crops, first) if self.scaled else np.ones(len(files), np.int32)
        at = (x.ctypes.data for x in (sizes, first, crops, status, shrink))
        batch = _Batch(pointers.ctypes.data, *at, len(files), 0)
        run(functools.partial(self._compiled.jpeg_crops, ctypes.addressof(self._library), ctypes.addressof(batch)))
        return np.flatnonzero(status)

    def parts(
        self, files: Sequence[bytes], first: np.ndarray, crops: np.ndarray, run: Callable[[Callable[[], None]], None]
    ) -> dict[int, Picture]:
        """As `cut`, but of each file the part that its crops read: the pictures by the file's number."""
        chosen = np.flatnonzero(np.diff(first))
        if not len(chosen):
            return {}
        low, high = np.minimum.reduceat, np.maximum.reduceat
        rois, starts = crops["roi"], first[chosen]
        union = np.concatenate((low(rois[:, :2], starts), high(rois[:, 2:], starts)), axis=1)
        jobs = np.zeros(len(chosen), CROP)
        jobs["roi"], jobs["width"], jobs["height"] = union, *(union[:, 2:] - union[:, :2]).T
        pixels = [torch.empty((h, w, 3), dtype=torch.uint8) for w, h in zip(jobs["width"], jobs["height"], strict=True)]
        jobs["out"] = [part.data_ptr() for part in pixels]
        left = set(self.cut([files[i] for i in chosen.tolist()], np.arange(len(chosen) + 1), jobs, run).tolist())
        made = enumerate(zip(chosen.tolist(), pixels, union[:, :2].tolist(), strict=True))
        return {i: Picture(part, (x, y)) for k, (i, part, (x, y)) in made if k not in left}


def shrinks(crops: np.ndarray, first: np.ndarray) -> np.ndarray:
    """int32 [n]: the 8th, 4th or half of its sides at which each picture may be decoded, else 1, as 8, 4, 2, 1.

    The smallest that leaves every one of its `crops` (`layout.CROP`, first[i] to first[i + 1] are picture i's)
    `LEAST` decoded pixels for a pixel of the result, across and down.
    """
    rois, chosen = crops["roi"], np.flatnonzero(np.diff(first))
    out = np.ones(len(first) - 1, np.int32)
    if len(chosen):
        sides = (rois[:, 2:] - rois[:, :2]) / np.stack((crops["width"], crops["height"]), axis=1)
        room = np.minimum.reduceat(sides.min(axis=1), first[chosen]) / LEAST
        out[chosen] = np.select([room >= 8, room >= 4, room >= 2], [8, 4, 2], 1)
    return out


def advice(plan: Plan, shared: bool, megapixels: np.ndarray) -> str | None:
    """A line that says what `decode="scaled"` would save, by the pictures of one plan; None where it would be little.

    `shared`: see `lay_out`. `megapixels` [n]: of the plan's images.
    """
    layout = lay_out(plan, shared)
    shrink = shrinks(layout.crops, np.searchsorted(layout.slot, np.arange(len(plan.images) + 1)))
    exact, scaled = (_VIEWS * len(plan) + np.sum(megapixels * np.array([_COST[s] for s in how.tolist()]))
                     for how in (np.ones_like(shrink), shrink))  # fmt: skip
    if scaled > 0.8 * exact:
        return None
    return (
        f"decode=scaled would take about {scaled / exact:.0%} of the CPU time: at 1/2 to 1/8 of their sides "
        f"{np.mean(shrink > 1):.0%} of the pictures ({megapixels.mean():.1f} megapixels) are large enough for their "
        "views, which would move by 0.2 levels"
    )


def find(compiled: ctypes.CDLL | None, say: Callable[[str], None]) -> JpegCrops | None:
    """The first library that fits and makes torchvision's pixels; None, which is said, where there is none.

    `compiled`: of `native.load`, where it is loaded already.
    """
    refused = []
    try:
        compiled = compiled or native.load(say)
    except native.NotBuilt as error:
        say(f"whole pictures are decoded, which is slower: {error}")
        return None
    for owner, path in candidates():
        try:
            crops = JpegCrops(compiled, path)
            _check(crops)
        except (OSError, NotUsable) as error:
            refused.append(f"{owner}'s {error}")
        else:
            say(f"of a JPEG only the part that views read is decoded, by libjpeg-turbo ({owner}'s {crops.name})")
            return crops
    why = "; ".join(refused) or "there is no shared libjpeg-turbo"
    say(f"whole pictures are decoded, which is slower: {why} (pip's torchvision and Pillow bring one)")
    return None


def candidates() -> Iterator[tuple[str, str]]:
    """(whose, path) of the libraries that may be there."""
    for owner, package, patterns in (
        ("Pillow", "PIL", ("../pillow.libs/libjpeg*", ".dylibs/libjpeg*")),
        ("torchvision", "torchvision", ("../torchvision.libs/libjpeg*", ".dylibs/libjpeg*")),
    ):
        spec = importlib.util.find_spec(package)
        for folder in (spec.submodule_search_locations or []) if spec else []:
            for pattern in patterns:
                parent = Path(folder) / Path(pattern).parent
                yield from ((owner, str(path)) for path in sorted(parent.glob(Path(pattern).name)))
    environment = Path(sys.prefix) / "lib"  # conda's
    names = ("libjpeg.so.8", "libjpeg.so.62", "libjpeg.8.dylib", "libjpeg.62.dylib")
    yield from (("the environment", str(environment / name)) for name in names if (environment / name).exists())
    found = ctypes.util.find_library("jpeg")
    yield from [("the system", found)] if found else []


@functools.cache
def _loaded(path: str) -> ctypes.CDLL:
    return ctypes.CDLL(path)


def _check(crops: JpegCrops) -> None:
    """Parts of three small pictures, compared with the whole decode. Raises NotUsable where they differ."""
    from PIL import Image

    random = np.random.default_rng(0)
    smooth = random.integers(0, 256, (6, 8, 3), np.uint8)
    picture = Image.fromarray(smooth).resize((86, 70), Image.Resampling.BILINEAR)
    for options in ({"subsampling": "4:2:0"}, {"subsampling": "4:2:2", "progressive": True}, {"subsampling": "4:4:4"}):
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=90, **options)
        whole = decode(file.getvalue()).permute(1, 2, 0).numpy()
        for x0, y0, x1, y1 in ((0, 0, 86, 70), (19, 17, 55, 43), (33, 0, 86, 12), (7, 50, 9, 70)):
            part = np.zeros((y1 - y0, x1 - x0, 3), np.uint8)
            job = np.zeros(1, CROP)
            job["roi"], job["width"], job["height"], job["out"] = (x0, y0, x1, y1), x1 - x0, y1 - y0, part.ctypes.data
            left = crops.cut([file.getvalue()], np.array((0, 1)), job, lambda work: work())
            if len(left) or not np.array_equal(part, whole[y0:y1, x0:x1]):
                raise NotUsable(f"{crops.name} makes other pixels than torchvision")
