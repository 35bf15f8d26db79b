"""What the benchmarks' programs share: groups of options, and how a result begins, is printed and written."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from augment.backends import NAMES
from augment.request import Making, Source
from augment.views.policy import COLOURS, Policy
from benchmarks import harness, results
from benchmarks.peers import find
from precompute.base.device import find_device
from precompute.base.errors import BadValue, UserError
from precompute.base.options import Parser, add_options, as_json, option, option_of, read_options
from precompute.base.program import check_out

if TYPE_CHECKING:
    from augment.stream.imageset import ImageSet
    from precompute.base.boxfile import BoxCache

T = TypeVar("T")
BACKENDS = tuple(name for name in NAMES if name != "auto")


@dataclass(frozen=True)
class Photographs:
    """The photographs that are measured on."""

    boxes: str | None = option_of(Source, "boxes", help="box file made by precompute.boxes; default: cache/DATASET.h5")
    root: str | None = option_of(Source, "root")
    dataset: str | None = option(None, "data set whose boxes are in cache/, where --boxes is not given; default: demo")

    @property
    def box_file(self) -> str:
        """Path of the box file."""
        return self.boxes or f"cache/{self.dataset or 'demo'}.h5"

    def cache(self) -> "BoxCache":
        """The opened box file. UserError where it is missing."""
        from precompute.base.boxfile import BoxCache

        return BoxCache.open(self.box_file)

    def images(self) -> "ImageSet":
        """UserError where the file or the folder is missing."""
        from augment.stream.imageset import ImageSet

        return ImageSet.open(self.box_file, self.root)

    def check(self, needed: int = 0) -> "BoxCache":
        """`cache()`, before other processes begin, without torch. UserError where the folder or images are missing."""
        cache = self.cache()
        if not (folder := cache.folder(self.root)).exists():
            raise UserError(f"{folder}: no such folder; name by --root the one that the box file's paths begin in")
        enough(len(cache), needed)
        return cache

    def flags(self) -> list[str]:
        """How another program is told of them."""
        return ["--boxes", self.box_file, *([] if self.root is None else ["--root", self.root])]

    def names(self) -> dict[str, str]:
        """Names of the files and of the data set for a result, without their folders on this machine."""
        cache = self.cache()
        root = cache.folder(self.root).resolve().name
        return {"boxes": Path(self.box_file).name, "root": root, "dataset": cache.dataset}


@dataclass(frozen=True)
class Output:
    """Where the result goes."""

    out: str | None = option(None, "write the result to this .json file")
    json: bool = option(False, "print the result as one JSON document at the end")

    def say(self, text: str) -> None:
        """Prints a line for people: on stdout, or on stderr where JSON goes to stdout."""
        print(text, file=sys.stderr if self.json else sys.stdout, flush=True)

    def progress(self, text: str) -> None:
        """Prints a line only where a person waits at a terminal."""
        if sys.stderr.isatty():
            self.say(text)

    def deliver(self, documents: Sequence[dict[str, Any]], table: Callable[[dict[str, Any]], str]) -> None:
        """Checks, prints and writes a program's results; several go to a file each, named after their scope."""
        for document in documents:
            results.validate(document)
            self.say(table(document))
            if self.out:
                path = Path(self.out)
                if len(documents) > 1:
                    path = path.with_stem(f"{path.stem}-{document['settings']['scope'].replace('+', '-')}")
                results.save(document, path)
                self.say(f"written: {path}")
        if self.json:
            print(json.dumps(documents[0] if len(documents) == 1 else documents, allow_nan=False))


@dataclass(frozen=True)
class JobSettings:
    """What makes the views, and how many."""

    backends: tuple[str, ...] = option((), "our backends, also as backend:colour; default: all that are installed")
    peers: tuple[str, ...] = option((), "peers; default: all that are installed; none: no peers")
    batch: int = option(32, "source images of a batch", least=1)
    batches: int = option(4, "batches in one timed repeat", least=1)
    size: int = option_of(Policy, "size")
    repeats: int = option(2, "timed repeats of every arm, arms taking turns", least=1)
    decode: str = option_of(Making, "decode", help="how our fused backend decodes: exact, or scaled")
    threads: int = option(
        1, "threads of our backends, and workers of the peers' DataLoader (loader and train)", least=1
    )
    device: str = option("cpu", "where our backends run", choices=("cpu", "cuda"))

    def __post_init__(self) -> None:
        for item in self.backends:
            backend_of(item)
        find(self.peers)

    @property
    def unit(self) -> str:
        """What arms are compared by: the clock on CUDA, else CPU time, since others may use the same cores."""
        return "wall_ms" if self.device == "cuda" else "cpu_ms"


def enough(count: int, needed: int) -> None:
    """UserError where a job needs more images than there are."""
    if count < needed:
        raise UserError(f"{needed} images are needed, the box file has {count}: lower --batch or --batches")


def check_device(device: str) -> None:
    """BadValue for "cuda" where torch sees no GPU, before other processes begin. For "cpu" torch is not imported."""
    if device == "cuda":
        find_device(device)


def backend_of(item: str) -> tuple[str, str]:
    """Name and colour ("": not given) of a "backend" or "backend:colour". BadValue names the known ones."""
    name, _, colour = item.partition(":")
    if name not in BACKENDS or (colour and colour not in COLOURS):
        colours = " or ".join(f":{colour}" for colour in COLOURS)
        raise BadValue("backends", item, f"one of {', '.join(BACKENDS)}, each alone or with {colours}")
    return name, colour


def parse(kind: type[T], name: str, words: str | None, argv: list[str] | None) -> T:
    """The settings of the program `name` from a command line. UsageError where its result could not be written."""
    parser = Parser(name, words)
    add_options(parser, kind)
    settings = read_options(kind, parser.parse_args(argv))
    if output := getattr(settings, "output", None):
        check_out(output.out)
    return settings


def head(benchmark: str, settings: Any, unit: str, **changes: Any) -> dict[str, Any]:
    """How a result begins: settings (with `changes`), unit of the comparisons, machine, versions, commit, memory."""
    names = settings.photographs.names() if hasattr(settings, "photographs") else {}
    shown = {k: v for k, v in as_json(settings).items() if k not in ("out", "json", "rounds")} | names | changes
    return {"schema": results.SCHEMA, "benchmark": benchmark, "settings": shown, "unit": unit, **harness.facts()}
