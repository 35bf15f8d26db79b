"""How DALI's decoder works on CUDA: chosen by a first measurement on the set's own files, which is kept.

The file lies beside the box file (`cub.h5` → `cub.decoder.json`); without it the next run measures again. Which
settings are best depends on the GPU, its driver and the files (their size, their chroma): constants would be guesses.

Load, preallocation and threads change no pixel, and are kept for each kind of GPU. Upsampling does: "plain" repeats
chroma where "fancy" (libjpeg's) interpolates. So it is settled once for the box file, whatever the GPU, and plain only
where it gives `PLAIN_GAIN` times as many pictures.
"""

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from precompute.base.files import replacing

SCHEMA = 1
LOADS = (0.8, 0.9, 1.0)  # tried besides the default
GAIN = 1.03  # times as many pictures: what is less may be chance
PLAIN_GAIN = 1.25  # the same for pixels that are farther from the CPU's


@dataclass(frozen=True)
class Decoding:
    """Settings of one pipeline's decoder; the defaults are DALI's, but for the threads."""

    load: float = 0.65  # share of a batch that the hardware decoder gets, where there is one
    width: int = 0  # pixels of a picture that memory is set aside for at the start; 0: none
    height: int = 0
    threads: int = 8  # at most: two pipelines take turns, and readers want cores too
    fancy: bool = True  # how chroma is upsampled
    # Of each picture only what its views read is decoded, where no cache keeps it. Off until a GPU shows that it is
    # faster: `benchmarks.first_contact`, stage decoder-regions. On: "region": true among the settings in the file.
    region: bool = False

    def __str__(self) -> str:
        room = f"room for {self.width}x{self.height}" if self.width else "no room set aside"
        part = ", only what views read" if self.region else ""
        return f"hardware load {self.load:g}, {room}, {self.threads} threads, {_word(self.fancy)} upsampling{part}"


USUAL = Decoding()
Measure = Callable[[Decoding], float]  # pictures a second


def choose(measure: Measure, largest: tuple[int, int], workers: int, plain: bool) -> tuple[Decoding, dict[str, float]]:
    """The best settings, one after the other, and all measured rates by the settings' words.

    `largest`: width and height to set memory aside for; `plain`: whether plain upsampling may be taken.
    """
    rates: dict[str, float] = {}

    def better(best: Decoding, *others: Decoding, gain: float = GAIN) -> Decoding:
        for setting in (best, *others):
            if str(setting) not in rates:
                rates[str(setting)] = round(measure(setting), 1)
        first = max(others, key=lambda setting: rates[str(setting)])
        return first if rates[str(first)] > gain * rates[str(best)] else best

    best = Decoding(threads=max(1, min(Decoding.threads, workers // 2)))
    best = better(best, *(replace(best, load=load) for load in LOADS))
    best = better(best, replace(best, width=largest[0], height=largest[1]))
    if best.threads > 1:
        best = better(best, replace(best, threads=best.threads // 2))
    if plain:
        best = better(best, replace(best, fancy=False), gain=PLAIN_GAIN)
    return best, rates


def settled(
    path: Path | None, gpu: str, alone: bool, choosing: Callable[[bool], tuple[Decoding, dict[str, float]]],
    say: Callable[[str], None],
) -> Decoding:  # fmt: skip
    """The settings that the file `path` keeps for this kind of GPU; else those that `choosing(plain)` finds, kept then.

    Nothing is measured without a path, and where other processes decode beside this one (not `alone`): then defaults.
    A file that cannot be read or written costs a line, not the run.
    """
    kept = _read(path, say)
    fancy = kept["upsampling"] != "plain"
    if (found := kept["gpus"].get(gpu)) is not None:
        return replace(Decoding(**found["settings"]), fancy=fancy)
    usual = Decoding(fancy=fancy)
    if path is None or not alone:
        why = "several ranks decode" if path is not None else "the box file's folder is not known"
        say(f"decoder: {usual}; not measured, since {why}")
        return usual
    try:
        best, rates = choosing("upsampling" not in kept["settled"])
    except Exception as error:  # DALI's; decoding itself will say what is wrong, if it fails too
        say(f"decoder: {usual}; the measurement failed: {type(error).__name__}: {error}")
        return usual
    if "upsampling" in kept["settled"]:
        best = replace(best, fancy=fancy)
    say(f"decoder: {best}: {max(rates.values()):.0f} pictures a second, the best of {len(rates)} settings ({path})")
    settings = {name: value for name, value in asdict(best).items() if name != "fancy"}
    gpus = kept["gpus"] | {gpu: {"settings": settings, "pictures_per_second": rates}}
    _write(path, {"schema": SCHEMA, "upsampling": _word(best.fancy), "gpus": gpus}, say)
    return best


def beside(boxes: Any) -> Path | None:
    """The file of a box file's path; None for an opened box file."""
    return Path(boxes).with_suffix(".decoder.json") if isinstance(boxes, str | os.PathLike) else None


def _word(fancy: bool) -> str:
    return "fancy" if fancy else "plain"


def _read(path: Path | None, say: Callable[[str], None]) -> dict[str, Any]:
    """What is kept; `settled` has the names of what the file holds."""
    nothing = {"upsampling": "fancy", "gpus": {}, "settled": set()}
    if path is None or not path.exists():
        return nothing
    try:
        kept = json.loads(path.read_text())
        if kept["schema"] != SCHEMA:
            raise ValueError(f"its schema is {kept['schema']!r}, not {SCHEMA}")
        if kept["upsampling"] not in ("fancy", "plain"):
            raise ValueError(f"upsampling is {kept['upsampling']!r}, neither fancy nor plain")
        for found in kept["gpus"].values():
            Decoding(**found["settings"])
        return kept | {"settled": set(kept)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        say(f"decoder: {path} is left aside: {type(error).__name__}: {error}")
        return nothing


def _write(path: Path, kept: dict[str, Any], say: Callable[[str], None]) -> None:
    try:
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(kept, indent=1, allow_nan=False) + "\n")
    except OSError as error:
        say(f"decoder: {path} cannot be written, so the next run measures again: {error.strerror or error}")
