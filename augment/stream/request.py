"""What a stream of views is asked for with: its pictures (`Source`), `Making` of views, this rank's `Share`.

Light: programs take their flags from here before anything heavy is imported.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from augment.backends import NAMES as BACKENDS
from precompute.base.device import check_device
from precompute.base.errors import BadValue
from precompute.base.options import option, whole

if TYPE_CHECKING:
    from pathlib import Path

    from precompute.base.boxfile import BoxCache

CACHES = ("off", "ram", "gpu")  # where decoded pictures are kept from epoch to epoch
CHECKS = ("size", "hash")  # what a file is held against: see `augment.stream.imageset.ImageSet.read`
ON_BAD = ("replace", "fail")  # what is done about a file that went bad


@dataclass(frozen=True)
class Source:
    """Which pictures views are made of, and which may be their backgrounds."""

    boxes: "Path | str | BoxCache" = option(None, "box file made by precompute.boxes")
    root: "Path | str | None" = option(None, "image folder of the box file's paths; default: the one it was made with")
    split: str | None = option("train", "split to take the sources from; 'all' for every image")
    backgrounds: "tuple[tuple[Path | str | BoxCache, Path | str], ...]" = option(
        (), "further box files whose images may be backgrounds, each with its folder"
    )
    own_backgrounds: bool = option(True, "backgrounds from the split too; --no-own-backgrounds: only others")
    maps: "Path | str | None" = option(
        None, "folder of saliency maps, PATH-OF-THE-PICTURE.png, grey; used by the policy copy-paste only"
    )


@dataclass(frozen=True)
class Making:
    """How pictures become views: nothing of this changes a view, but `dtype` and `cache_side`."""

    backend: str = option("auto", "what makes the views", choices=BACKENDS, flags=("pipeline", "backend"))
    device: str | Any = option("auto", "auto, cpu, cuda or cuda:N")  # or a torch.device
    dtype: Any = None  # torch.float32 (also None), bfloat16 or float16
    workers: int | None = option(None, "threads for reading and for the backend; default: the machine's cores")
    prefetch: int = 2  # batches made ahead
    cache: str = option("off", "keep decoded pictures from epoch to epoch: in memory or on the GPU", choices=CACHES)
    cache_bytes: int | None = None  # None: half of what is free
    cache_side: int | None = option(None, "most pixels of a kept picture's longer side, so that more fit")
    check: str = option(
        "size", "what shows that a file is the one that boxes were made of: its size, or all of it", choices=CHECKS
    )
    on_bad: str = option("replace", "a file that went bad: another image in its place, or an error", choices=ON_BAD)
    say: Callable[[str], None] | None = None  # takes the lines that say what was chosen and what went wrong

    def __post_init__(self) -> None:
        valid = (("backend", BACKENDS), ("cache", CACHES), ("check", CHECKS), ("on_bad", ON_BAD))
        for name, values in valid:
            if getattr(self, name) not in values:
                raise BadValue(name, getattr(self, name), values)
        check_device(self.device)
        for name, least in (("workers", 1), ("prefetch", 0), ("cache_bytes", 0), ("cache_side", 1)):
            value = getattr(self, name)
            if value is not None and whole(name, value) < least:
                raise BadValue(name, value, f"at least {least}")
        for name in ("cache_bytes", "cache_side"):
            if self.cache == "off" and getattr(self, name) is not None:
                raise BadValue(name, getattr(self, name), "left out without a cache", "Name one: ram, or gpu")


@dataclass(frozen=True)
class Share:
    """Which part of every batch is made here: rank `rank` of `world`."""

    rank: int = 0
    world: int = 1
    drop_last: bool = True  # leave out the images that do not fill a last batch
