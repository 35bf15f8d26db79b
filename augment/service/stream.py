"""What a helper must know of a trainer's stream of batches, and what both must have in common to make equal crops."""

import functools
import hashlib
import json
import platform
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from augment.backends.native import processor
from augment.request import Making, Share, Source
from augment.stream.imageset import ImageSet
from augment.views.policy import Policy
from augment.views.schedule import Schedule
from precompute.base.errors import UserError

ROOT = Path(__file__).resolve().parent.parent.parent
SOURCES = ("augment/**/*.py", "augment/**/*.[ch]pp", "precompute/base/*.py")  # what views depend on


@dataclass(frozen=True)
class Maker:
    """What a batch depends on besides its place and stream; crops are equal to the bit where all of it is."""

    code: str  # a digest of this project's sources
    libraries: str  # versions
    processor: str  # the kind of CPU: other kinds differ by a level in some pixels
    kernel: str  # "fused" or "eager": see `augment.backends`


@dataclass(frozen=True)
class Stream:
    """The batches of one rank of a training: with a place (epoch, step), all that a batch is a function of."""

    maker: Maker
    pictures: str  # digest of the images in use and their boxes
    split: str | None
    own_backgrounds: bool
    policy: dict[str, Any]
    batch_size: int
    seed: int
    rank: int
    world: int
    drop_last: bool
    check: str

    @staticmethod
    def of(source: Source, images: ImageSet, schedule: Schedule, making: Making, kernel: str) -> "Stream":
        """The stream of an opened loader."""
        s = schedule
        return Stream(
            this_maker(kernel), pictures_of(images, s), source.split, source.own_backgrounds, s.policy.to_json(),
            s.batch_size, s.seed, s.rank, s.world_size, s.drop_last, making.check,
        )  # fmt: skip

    def to_json(self) -> str:
        """The text that travels. Equal streams have equal texts."""
        return json.dumps(asdict(self), sort_keys=True)

    @staticmethod
    def from_json(text: str) -> "Stream":
        """The reverse of `to_json`. UserError for the text of another version."""
        theirs = "unknown"
        try:
            values = json.loads(text)
            theirs = values["maker"]["code"]
            return Stream(**{**values, "maker": Maker(**values["maker"])})
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(
                f"the trainer's request is of another version of this project: the helper's is {_code(SOURCES)}, the "
                f"trainer's {theirs} ({error})"
            ) from error

    def settings(self, source: Source) -> tuple[Source, Policy, int, int, Share]:
        """What `schedule_of` takes to open this stream on the pictures of `source`."""
        source = replace(source, split=self.split, own_backgrounds=self.own_backgrounds)
        share = Share(self.rank, self.world, self.drop_last)
        return source, Policy.from_json(self.policy), self.batch_size, self.seed, share


def pictures_of(images: ImageSet, schedule: Schedule) -> str:
    """A digest of the images of a schedule and their boxes."""
    used = (schedule.rows,) if schedule.backgrounds is None else (schedule.rows, schedule.backgrounds)
    return images.digest(np.concatenate(used))


def this_maker(kernel: str, sources: tuple[str, ...] = SOURCES) -> Maker:
    """What this process makes batches with; `kernel`: the backend's name, `sources`: the code that counts."""
    name = next((line for line in processor().splitlines() if "model name" in line), platform.machine())
    about = f"{name.split(':')[-1].strip()} ({_digest(processor().encode())})"
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision", "numpy"))
    return Maker(_code(sources), libraries, about, kernel)


def difference(helper: Maker, trainer: Maker) -> str:
    """Why the two cannot work together, with the values of both; empty where they can."""
    words = {"code": "version of this project", "libraries": "libraries", "processor": "CPU", "kernel": "backend"}
    mine, theirs = asdict(helper), asdict(trainer)
    wrong = (
        f"the helper's {words[name]} is {mine[name]}, the trainer's {theirs[name]}"
        for name in words
        if mine[name] != theirs[name]
    )
    return "; ".join(wrong)


@functools.cache
def _code(sources: tuple[str, ...]) -> str:
    files = sorted(path for pattern in sources for path in ROOT.glob(pattern))
    return _digest(b"".join(path.read_bytes() for path in files))


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:12]
