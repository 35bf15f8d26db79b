"""What the benchmarks' programs share: where the photographs come from, how a result is told, printed and kept."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from precompute.base.options import Parser, add_options, as_json, option, read_options
from precompute.base.program import check_out

if TYPE_CHECKING:
    from augment.stream.imageset import ImageSet

S = TypeVar("S", bound="DataSettings")


@dataclass(frozen=True)
class DataSettings:
    """The settings of every benchmark on photographs; `positive` names those that must be at least 1."""

    boxes: str | None = option(None, "box file made by precompute.boxes (default: cache/DATASET.h5)")
    root: str | None = option(
        None, "image folder that the box file's paths are relative to (default: what it was made of)"
    )
    dataset: str = option("demo", "data set whose boxes are in cache/, where --boxes is not given")
    out: str | None = option(None, "also write the result to this file")
    json: bool = option(False, "print the result as one JSON document at the end")

    out_is_a_file = True
    positive = ("batch", "batches", "repeats", "rounds", "samples", "threads")

    def __post_init__(self) -> None:
        for name in self.positive:
            if getattr(self, name, 1) < 1:
                raise ValueError(f"--{name} {getattr(self, name)}: must be at least 1")
        check_size(getattr(self, "size", None))
        for item in getattr(self, "backends", ()):
            backend_of(item)

    @property
    def box_file(self) -> str:
        """The box file that is meant."""
        return self.boxes or f"cache/{self.dataset}.h5"

    @property
    def folder(self) -> Path:
        """The folder of its images. UserError where the box file is missing."""
        from precompute.base.boxfile import BoxCache

        return BoxCache.open(self.box_file).folder(self.root)

    def images(self) -> "ImageSet":
        """UserError where the file or the folder is missing."""
        from augment.stream.imageset import ImageSet

        return ImageSet.open(self.box_file, self.root)

    def told(self) -> dict[str, Any]:
        """As a result tells them: names of files and folders, not where they lie on this machine."""
        from precompute.base.boxfile import BoxCache

        told = as_json(self) | {"dataset": BoxCache.open(self.box_file).dataset}
        for name in ("out", "json", "rounds"):
            told.pop(name, None)
        return told | {"boxes": Path(self.box_file).name, "root": self.folder.resolve().name}

    def say(self, text: str) -> None:
        """A line for people: on stdout, unless JSON goes there."""
        print(text, file=sys.stderr if self.json else sys.stdout, flush=True)

    def progress(self, text: str) -> None:
        """A line that is only of use to somebody who waits for it."""
        if sys.stderr.isatty():
            self.say(text)


def known_backends() -> list[str]:
    """Names of the backends that --backends takes."""
    from augment import backends

    return [name for name in backends.NAMES if name != "auto"]


def backend_of(item: str) -> tuple[str, str]:
    """Name and colour ("": not given) of a "backend" or "backend:colour". ValueError names those there are."""
    from augment.views.policy import COLOURS

    name, _, colour = item.partition(":")
    if name not in known_backends() or (colour and colour not in COLOURS):
        known = ", ".join(known_backends())
        raise ValueError(f"--backends {item}: known are {known}, each with :{' or :'.join(COLOURS)} behind it")
    return name, colour


def check_size(size: int | None) -> None:
    """ValueError for a side that no view can have."""
    if size is not None and not 8 <= size <= 4096:
        raise ValueError(f"--size {size}: must be within 8 and 4096")


def parse(kind: type[S], name: str, words: str | None, argv: list[str] | None) -> S:
    """The settings from a command line."""
    parser = Parser(name, words)
    add_options(parser, kind)
    settings = read_options(kind, parser.parse_args(argv))
    if kind.out_is_a_file:
        check_out(settings.out)
    return settings


def deliver(document: dict[str, Any], settings: DataSettings, table: Callable[[dict[str, Any]], str]) -> None:
    """Checks a result, prints it, and writes it where that was asked for."""
    from benchmarks import results

    results.validate(document)
    settings.say(table(document))
    if settings.out:
        results.save(document, settings.out)
        settings.say(f"written: {settings.out}")
    if settings.json:
        print(json.dumps(document, allow_nan=False))


def row(name: str, inside: str, samples: int, cpu_ms: list[float], wall_ms: list[float]) -> dict[str, Any]:
    """An arm as results have it."""
    from benchmarks.harness import spread

    return {
        "name": name,
        "inside": inside,
        "samples": samples,
        "cpu_ms": spread(cpu_ms),
        "wall_ms": spread(wall_ms),
    }
