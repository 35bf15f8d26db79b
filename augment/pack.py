"""Makes the file of decoded pictures that `--cache disk` reads, before a training does."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from augment.request import Making, Source
from augment.views.policy import Policy
from precompute.base.errors import BadFile, BadValue
from precompute.base.options import Parser, add_options, group, read_options
from precompute.base.program import main, progress

if TYPE_CHECKING:
    from augment.backends.fused import FusedBackend
    from augment.stream.imageset import ImageSet

EXAMPLE = """examples:
  python -m augment.pack --boxes cache/cub.h5 --root data/CUB_200_2011
  python -m augment.pack --boxes cache/cub.h5 --root data/CUB_200_2011 --scene whole --cache-dir /scratch

What is kept of a picture depends on the policy: its box at full resolution and its scene at the size of a view where
scenes are whole, else all of it. Give the flags that trainer.run is to have; the defaults are the same. An interrupted
run goes on where it was. A training with --cache disk needs no file made before: it makes its own in its first epoch.
"""


@dataclass(frozen=True)
class PackConfig:
    """What is kept, and where."""

    source: Source = group(Source, "pictures", hidden=("maps",))
    policy: Policy = group(Policy, "views", hidden=("views", "mean", "std", "shared", "rotate"), scene="zoom", own=0.25)
    making: Making = group(
        Making, "making", hidden=("cache", "decode", "service", "address"), cache="disk", device="cpu"
    )

    def __post_init__(self) -> None:
        if self.source.boxes is None:
            raise BadValue("boxes", None, "the box file", "Name it, and --root DIR where its images have moved")


def program(argv: Sequence[str] | None = None) -> int:
    """Decodes what is not there yet; bad files are named and left out, or end it (--on-bad fail)."""
    parser = Parser("augment.pack", "Decodes all pictures once, into the file that --cache disk reads.", EXAMPLE)
    add_options(parser, PackConfig)
    config = read_options(PackConfig, parser.parse_args(argv))

    import torch

    from augment import backends
    from augment.backends.fused import FusedBackend
    from augment.request import Share
    from augment.service.kept import decoded_cache
    from augment.stream.pictures import schedule_of

    making = replace(config.making, cache="disk").settled()
    name, _ = backends.choose(making.backend, torch.device(making.device), config.policy.colour, True)
    images, schedule = schedule_of(config.source, config.policy, 1, 0, Share(drop_last=False), making.say)
    cache = decoded_cache(images, schedule, making, name, config.source)
    backend = backends.build(name, config.policy, making, 1, cache)
    assert isinstance(backend, FusedBackend)  # others keep nothing, and were refused
    rows = schedule.rows if schedule.backgrounds is None else schedule.backgrounds
    try:
        made, bad = _pack(sorted({*schedule.rows.tolist(), *rows.tolist()}), images, backend, making)
    finally:
        backend.close()
        images.close()
    print(f"{made} pictures decoded" + (f", {bad} bad files left out" if bad else ""))
    return 0


def _pack(
    rows: list[int], images: "ImageSet", backend: "FusedBackend", making: Making, at_once: int = 64
) -> tuple[int, int]:
    """Pictures that were decoded, and bad files that were left out."""
    made = bad = 0
    for start in progress(range(0, len(rows), at_once), what="decoded", unit="part"):
        files = {}
        for row in rows[start : start + at_once]:
            try:
                if not backend.holds(row):
                    files[row] = images.read(row, making.check)
            except BadFile as error:
                bad += _left_out(error, making)
        try:
            made += backend.keep(list(files), list(files.values()))
        except Exception:
            reasons = {row: reason for row, data in files.items() if (reason := images.diagnose(row, data)) is not None}
            if not reasons:
                raise
            bad += sum(_left_out(BadFile(images.path(row), reason), making) for row, reason in reasons.items())
            good = {row: data for row, data in files.items() if row not in reasons and not backend.holds(row)}
            made += backend.keep(list(good), list(good.values()))
    return made, bad


def _left_out(error: BadFile, making: Making) -> int:
    if making.on_bad == "fail":
        raise error
    making.say(f"bad file, left out: {error}")
    return 1


if __name__ == "__main__":
    main(program)
