"""Records of arguments: the pictures (`Source`), how views are made of them (`Making`), a rank's part (`Share`).

Light: programs take their flags from here before anything heavy is imported.
"""

import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from typing import Any

from augment.views.policy import Policy
from precompute.base import program
from precompute.base.device import check_device, find_device
from precompute.base.errors import BadValue
from precompute.base.options import option, whole
from precompute.base.program import cores

BACKENDS = ("auto", "dali", "fused", "eager", "kornia")  # see `augment.backends`
CACHES = ("off", "ram", "gpu", "disk", "shared")  # where decoded pictures are kept from epoch to epoch
FILE_CACHES = ("disk", "shared")  # in a file that processes share: see `augment.backends.decoded_file`
DECODES = ("exact", "scaled")  # see `Making.decode`
SERVICES = ("off", "ray")  # who makes batches besides this process: see `augment.service`
CHECKS = ("size", "hash")  # what a file is compared with: see `augment.stream.imageset.ImageSet.read`
ON_BAD = ("replace", "fail")  # what happens to a file that went bad
DTYPES = ("torch.float32", "torch.bfloat16", "torch.float16")


def to_stderr(line: str) -> None:
    """Prints a line of the loader's on stderr."""
    program.to_stderr(f"augment: {line}")


@dataclass(frozen=True)
class Source:
    """The pictures that views are made of, and those that may be their backgrounds.

    `boxes` may also be an opened `BoxCache`. The images of `backgrounds`, all splits of them, are added to those of the
    split, or replace them (own_backgrounds=False); images that are also in the split are skipped. Their rows follow
    those of `boxes`.
    """

    boxes: str | Any = option(None, "box file made by precompute.boxes")
    root: str | Any = option(
        None, "image folder (or archive) of the box file's paths; default: the one it was made with"
    )
    split: str | None = option("train", "split to take the sources from; 'all' (in Python also None) for every image")
    backgrounds: tuple[str | Any, ...] = option(
        (), "further box files whose images may be backgrounds, each followed by its folder: FILE DIR FILE DIR ..."
    )
    own_backgrounds: bool = option(True, "backgrounds from the split too; --no-own-backgrounds: only others")
    maps: str | Any = option(None, "folder of saliency maps for the policy copy-paste, PATH-OF-THE-PICTURE.png, grey")

    def __post_init__(self) -> None:
        for name in ("root", "maps"):
            if not isinstance(getattr(self, name), str | os.PathLike | None):
                raise BadValue(name, getattr(self, name), "the path of a folder")
        if not isinstance(self.split, str | None):
            raise BadValue("split", self.split, "a split's name; None, or 'all', for every image")
        if not self.own_backgrounds and not self.background_sets:
            raise BadValue("own_backgrounds", False, "on without further backgrounds", "Else none are left: name some")

    @property
    def background_sets(self) -> tuple[tuple[Any, Any], ...]:
        """`backgrounds`, pairs or flat, as pairs (box file, folder). Raises BadValue for anything else."""
        given = self.backgrounds
        try:
            flat = tuple(given) if isinstance(given, Iterable) and not isinstance(given, str) else (given,)
            if flat and all(isinstance(x, str | os.PathLike) for x in flat):
                return tuple(zip(flat[::2], flat[1::2], strict=True))
            return tuple((boxes, root) for boxes, root in flat)
        except (TypeError, ValueError):
            raise BadValue("backgrounds", given, "pairs of a box file and its folder") from None

    @property
    def part(self) -> str | None:
        """The split as `BoxCache.indices` takes it: None for every image."""
        return None if self.split == "all" else self.split

    def check_maps(self, policy: Policy) -> None:
        """Raises BadValue where the policy needs maps and there are none, or the reverse."""
        if policy.kind.maps and self.maps is None:
            raise BadValue("maps", None, f"a folder of saliency maps for the policy {policy.name}")
        if self.maps is not None and not policy.kind.maps:
            raise BadValue("maps", str(self.maps), f"left out for {policy.name}, which uses no maps")

    @staticmethod
    def of(source: Any, root: Any = None, split: str = "train") -> "Source":
        """`source` itself, or the one of a box file (path or BoxCache) with its folder."""
        if not isinstance(source, Source):
            return Source(source, root, split)
        if root is not None:
            raise BadValue("root", str(root), "left out where a Source is given, which has a root")
        return source


@dataclass(frozen=True)
class Making:
    """How pictures become views. Only `dtype`, `decode` and `cache_side` change views; the rest is speed and care.

    decode: "scaled" decodes a JPEG at 1/2, 1/4 or 1/8 of its sides where every view of it still gets 1.75 decoded
    pixels for one of its own: views move by a quarter of a level on average, and large photographs cost less than half.
    The fused backend on a CPU has it. Files that only torchvision or Pillow decodes stay exact, and so does evaluation.

    cache: decoded pictures are kept in at most `cache_bytes` (None: half of what is free); views stay equal to the
    bit, and backgrounds may come from anywhere (`Policy.group`) at no cost. "ram" and "gpu" are this process's.
    "shared" is a file in memory, which trainings on this machine share: each picture is decoded by the one that needs
    it first, and the last one to end removes it. "disk" is the same file on a disk, which later runs find.
    cache_dir: the folder of that file; None: /dev/shm for "shared", the box file's for "disk". That of "shared" also
    holds the batches of a `ring`.
    cache_side: views are then near, not equal: crops' edges move by up to half a kept pixel. Twice the view's size
    loses little with whole scenes; scenes that are zoomed into lose detail.
    """

    backend: str = option("auto", "what makes the views", choices=BACKENDS, flags=("pipeline", "backend"))
    device: str | Any = option("auto", "auto, cpu, cuda or cuda:N")  # or a torch.device
    dtype: Any = None  # of views: torch.float32 (also None), bfloat16 or float16
    workers: int | None = option(None, "threads for reading and for the backend; 0, the default: one per core")
    prefetch: int = 2  # batches made ahead
    cache: str = option(
        "off", "keep decoded pictures from epoch to epoch: in memory (ram), on the GPU, in memory for all trainings on "
        "this machine (shared), or in a file for later runs too (disk)", choices=CACHES,
    )  # fmt: skip
    cache_bytes: int | None = option(
        None, "most bytes of kept pictures, the others are decoded each time; default: half of what is free"
    )
    cache_dir: str | None = option(
        None, "folder of the file of cache disk (default: the box file's) or shared (default: /dev/shm)",
        flags=("cache_dir", "shared_dir"),
    )  # fmt: skip
    cache_side: int | None = option(None, "most pixels of a kept picture's longer side, so that more fit")
    decode: str = option("exact", "pixels of JPEGs: all, or as few as views need (large photographs)", choices=DECODES)
    service: str = option(
        "off", "ray: helpers on a Ray cluster (python -m augment.serve) decode and cut; views stay the same",
        choices=SERVICES,
    )  # fmt: skip
    address: str | None = option(
        None, "of the Ray cluster to join, HOST:PORT or auto; default: one on this machine, with a helper of its own"
    )
    check: str = option("size", "what shows that a file is the one the boxes are of: size, or contents", choices=CHECKS)
    on_bad: str = option("replace", "a file that went bad: another image in its place, or an error", choices=ON_BAD)
    # Trainings on this machine that give the same name, and the same views, make each batch once. All read its views in
    # one memory: they must not be written to (`clone()` first).
    ring: str = ""
    ring_members: int = 2  # so many of them are waited for at the start
    ring_patience: float = 10.0  # seconds that they wait for a slower one among them; then it is left behind
    say: Callable[[str], None] = to_stderr  # takes the lines that say what was chosen and what went wrong

    def __post_init__(self) -> None:
        for field in fields(self):
            if (valid := field.metadata.get("choices")) and getattr(self, field.name) not in valid:
                raise BadValue(field.name, getattr(self, field.name), valid)
        check_device(self.device)
        if self.dtype is not None and str(self.dtype) not in DTYPES:
            raise BadValue("dtype", self.dtype, DTYPES)
        limits = {"workers": 0, "prefetch": 0, "ring_members": 1, "cache_bytes": 0, "cache_side": 1}
        for name, least in limits.items():
            value = getattr(self, name)
            if (value is not None or name == "prefetch") and whole(name, value) < least:
                raise BadValue(name, value, f"at least {least}")
        if self.ring and self.service != "off":
            raise BadValue("ring", self.ring, f"left out with service {self.service}")
        if not 0 <= self.ring_patience < math.inf:
            raise BadValue("ring_patience", self.ring_patience, "at least 0, and finite")
        if self.service == "off" and self.address is not None:
            raise BadValue("address", self.address, "left out without a service", "Name it: service ray")
        if self.service != "off" and self.cache != "off":
            raise BadValue("cache", self.cache, f"off with service {self.service}: helpers send crops, not pictures")
        for name in ("cache_bytes", "cache_side"):
            if self.cache == "off" and getattr(self, name) is not None:
                raise BadValue(name, getattr(self, name), "left out without a cache", "Name one: ram, or gpu")
        if not isinstance(self.cache_dir, str | os.PathLike | None):
            raise BadValue("cache_dir", self.cache_dir, "the path of a folder")
        if self.cache_dir is not None and self.cache not in FILE_CACHES:
            raise BadValue("cache_dir", str(self.cache_dir), "left out without cache disk or shared")
        if self.decode == "scaled" and self.cache != "off":
            raise BadValue("decode", self.decode, "exact with a cache", "Its pictures are decoded once as it is")

    def settled(self) -> "Making":
        """This on the present machine: with a torch.device, a dtype and a number of workers."""
        import torch

        workers = self.workers or cores()
        return replace(self, device=find_device(self.device), dtype=self.dtype or torch.float32, workers=workers)


@dataclass(frozen=True)
class Share:
    """The part of every batch that this process makes: that of rank `rank` among `world`."""

    rank: int = 0
    world: int = 1
    drop_last: bool = True  # leave out the images that do not fill a last batch

    def __post_init__(self) -> None:
        if whole("world", self.world) < 1:
            raise BadValue("world", self.world, "at least 1")
        if whole("rank", self.rank) >= self.world:
            raise BadValue("rank", self.rank, f"below world={self.world}: ranks are numbered from 0")
