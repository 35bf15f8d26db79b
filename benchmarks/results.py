"""The form of a result file, its check, and how it is written."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from precompute.base.errors import UserError
from precompute.base.files import replacing

SCHEMA = 1
CEILINGS = ("decode only", "frozen batch")  # arms that are no peers: what the job cannot be faster than
FOLDER = Path(__file__).resolve().parent / "results"
_TOP = {
    "schema": int,
    "benchmark": str,
    "settings": dict,
    "machine": dict,
    "versions": dict,
    "commit": str,
    "arms": list,
}
_ARM = {"name": str, "inside": str, "samples": int, "cpu_ms": dict, "wall_ms": dict}


def validate(document: Any) -> None:
    """Raises ValueError naming what a result lacks, or what is no finite number in it."""
    _has(document, _TOP, "document")
    if document["schema"] != SCHEMA:
        raise ValueError(f"schema {document['schema']}: this version reads {SCHEMA}")
    if unit_of(document) not in ("cpu_ms", "wall_ms"):
        raise ValueError(f"unit {document['unit']!r}: must be cpu_ms or wall_ms")
    if not document["arms"]:
        raise ValueError("document: no arms")
    for arm in document["arms"]:
        _has(arm, _ARM, f"arm {arm.get('name', '?')}")
        for unit in ("cpu_ms", "wall_ms"):
            _is_spread(arm[unit], f"arm {arm['name']}: {unit}")
    for name, values in document.get("ratios", {}).items():
        _is_spread(values, f"ratio {name}")
    _all_finite(document, "document")


def unit_of(document: dict[str, Any]) -> str:
    """What the result's comparisons are in: "cpu_ms" (of the process tree) or "wall_ms" (on CUDA)."""
    return document.get("unit", "cpu_ms")


def unit_words(document: dict[str, Any]) -> str:
    """The unit of the result's comparisons, for people."""
    return {"cpu_ms": "CPU ms", "wall_ms": "ms on the clock"}[unit_of(document)]


def rows(document: dict[str, Any]) -> list[tuple[str, float, float, float, float]]:
    """(name, ms a sample in the result's unit: median, lowest, highest, multiple of our cheapest), cheapest first."""
    unit = unit_of(document)
    arms = sorted(document["arms"], key=lambda arm: arm[unit]["median"])
    ours = [arm[unit]["median"] for arm in arms if arm["name"].startswith("ours")]
    base = ours[0] if ours else arms[0][unit]["median"]
    return [
        (arm["name"], (ms := arm[unit])["median"], min(ms["values"]), max(ms["values"]), ms["median"] / base)
        for arm in arms
    ]


def losses(document: dict[str, Any]) -> list[str]:
    """Every comparison that we lose: peers that need less CPU time than one of ours, and the share of it they need.

    Ceilings (decoding alone, a frozen batch) are no peers.
    """
    lost: dict[str, list[str]] = {}
    for name, ratio in sorted(document.get("ratios", {}).items(), key=lambda item: item[1]["median"]):
        peer, ours = name.split(" / ", 1)
        if peer not in CEILINGS and ratio["median"] < 1:
            unsure = "" if max(ratio["values"]) < 1 else ", within the spread"
            lost.setdefault(ours.removeprefix("ours: "), []).append(f"{peer} ({ratio['median']:.2f}{unsure})")
    return [f"{ours} to {', '.join(peers)}" for ours, peers in lost.items()]


def merged(documents: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One result of several runs of the same command: all their values, spreads over all of them.

    Processes differ (where memory lies, what the machine does at the time), so spreads over several of them say what
    another run may bring; those within one process do not. ValueError where the runs are not of the same arms.
    """
    from benchmarks.harness import spread

    first = documents[0]
    names = [arm["name"] for arm in first["arms"]]
    if any([arm["name"] for arm in d["arms"]] != names or d["settings"] != first["settings"] for d in documents):
        raise ValueError("results of different settings or arms cannot be merged")

    def together(spreads: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return spread([value for one in spreads for value in one["values"]])

    arms = [
        arm | {unit: together([d["arms"][k][unit] for d in documents]) for unit in ("cpu_ms", "wall_ms")}
        for k, arm in enumerate(first["arms"])
    ]
    ratios = {name: together([d["ratios"][name] for d in documents]) for name in first["ratios"]}
    peak = max(d["peak_memory_mib"] for d in documents)
    return first | {"arms": arms, "ratios": ratios, "peak_memory_mib": peak, "rounds": len(documents)}


def agreement(a: dict[str, Any], b: dict[str, Any]) -> dict[str, bool]:
    """For every ratio of both results: whether the spreads that they print, lowest to highest, overlap.

    More cannot be asked of so many ratios: of two runs with five processes of two repeats, chance alone puts one's
    median outside of the other's spread in 3 to 8 of 100 ratios (normal values, none to half of the variance between
    processes), but keeps the spreads apart in less than one of 5,000.
    """

    def apart(one: dict[str, Any], other: dict[str, Any]) -> bool:
        return max(one["values"]) < min(other["values"])

    both = {n: (a["ratios"][n], b["ratios"][n]) for n in a["ratios"] if n in b["ratios"]}
    return {n: not apart(one, other) and not apart(other, one) for n, (one, other) in both.items()}


def closeness(a: dict[str, Any], b: dict[str, Any]) -> dict[str, bool]:
    """For every ratio of both results: whether each one's median lies within the other's spread."""

    def within(one: dict[str, Any], other: dict[str, Any]) -> bool:
        return min(other["values"]) <= one["median"] <= max(other["values"])

    both = {n: (a["ratios"][n], b["ratios"][n]) for n in a["ratios"] if n in b["ratios"]}
    return {n: within(one, other) and within(other, one) for n, (one, other) in both.items()}


PLACES = ("boxes", "root", "out", "data", "weights", "basnet_weights", "markdown")  # settings that are paths


def save(document: dict[str, Any], path: Path | str) -> None:
    """Checks and writes a result as strict JSON, whole or not at all: names of files, not where they lie here."""
    told = {k: Path(v).name if k in PLACES and isinstance(v, str) else v for k, v in document["settings"].items()}
    document = document | {"settings": told}
    validate(document)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n")


def load(path: Path | str) -> dict[str, Any]:
    """A checked result. UserError names the file that is none."""
    try:
        document = json.loads(Path(path).read_text())
        validate(document)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a benchmark result: {error}") from error
    return document


def _has(value: Any, fields: dict[str, type], what: str) -> None:
    if not isinstance(value, dict):
        raise ValueError(f"{what}: must be an object")
    for name, kind in fields.items():
        if not isinstance(value.get(name), kind):
            raise ValueError(f"{what}: {name} must be of type {kind.__name__}")


def _is_spread(value: dict[str, Any], what: str) -> None:
    _has(value, {"values": list}, what)
    for name in ("median", "q25", "q75"):
        if not isinstance(value.get(name), int | float):
            raise ValueError(f"{what}: {name} must be a number")
    if not value["values"] or not value["q25"] <= value["median"] <= value["q75"]:
        raise ValueError(f"{what}: needs values, and quartiles around the median")


def _all_finite(value: Any, what: str) -> None:
    if isinstance(value, dict):
        for name, inner in value.items():
            _all_finite(inner, f"{what}.{name}")
    elif isinstance(value, list):
        for inner in value:
            _all_finite(inner, what)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{what}: {value} is not a finite number")
