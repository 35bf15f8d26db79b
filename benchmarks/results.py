"""The form of a result file: its check, its comparisons, how it is written and read."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from precompute.base.errors import UserError
from precompute.base.files import replacing

SCHEMA = 1
UNITS = {"cpu_ms": "CPU ms", "wall_ms": "ms on the clock"}  # of the process tree's CPU time, or of the clock (CUDA)
CEILINGS = ("decode only", "frozen batch")  # arms that are no peers: the job cannot be faster than they are
PATHS = ("boxes", "root", "out", "data", "weights", "basnet_weights", "markdown")  # settings that are paths
FOLDER = Path(__file__).resolve().parent / "results"
_TOP = {
    "schema": int, "benchmark": str, "settings": dict, "machine": dict, "versions": dict, "commit": str, "arms": list,
}  # fmt: skip
_ARM = {"name": str, "inside": str, "samples": int, "cpu_ms": dict, "wall_ms": dict}


def validate(document: Any) -> None:
    """Raises ValueError naming what a result lacks, or that a number in it is not finite."""
    _has(document, _TOP, "document")
    if document["schema"] != SCHEMA:
        raise ValueError(f"schema {document['schema']}: this version reads {SCHEMA}")
    if unit_of(document) not in UNITS:
        raise ValueError(f"unit {document['unit']!r}: must be {' or '.join(UNITS)}")
    if not document["arms"]:
        raise ValueError("document: no arms")
    for arm in document["arms"]:
        _has(arm, _ARM, f"arm {arm.get('name', '?')}")
        for unit in UNITS:
            _is_spread(arm[unit], f"arm {arm['name']}: {unit}")
    for name, values in document.get("ratios", {}).items():
        _is_spread(values, f"ratio {name}")
    json.dumps(document, allow_nan=False)  # ValueError: NaN and infinity are no JSON


def _has(value: Any, fields: dict[str, type], where: str) -> None:
    for name, kind in fields.items():
        if not isinstance(value, dict) or not isinstance(value.get(name), kind):
            raise ValueError(f"{where}: must be an object whose {name} is of type {kind.__name__}")


def _is_spread(value: dict[str, Any], where: str) -> None:
    _has(value, {"values": list}, where)
    middle: list[Any] = [value.get(name) for name in ("q25", "median", "q75")]
    if not value["values"] or not all(isinstance(m, int | float) for m in middle) or middle != sorted(middle):
        raise ValueError(f"{where}: needs values, a median, and quartiles around it")


def unit_of(document: dict[str, Any]) -> str:
    """The unit of the result's comparisons, a key of UNITS."""
    return document.get("unit", "cpu_ms")


def rows(document: dict[str, Any]) -> list[tuple[str, float, float, float, float]]:
    """(name, ms a sample in the result's unit: median, lowest, highest, multiple of our cheapest), cheapest first."""
    unit = unit_of(document)
    arms = sorted(document["arms"], key=lambda arm: arm[unit]["median"])
    base = next((arm for arm in arms if arm["name"].startswith("ours")), arms[0])[unit]["median"]
    return [
        (arm["name"], (ms := arm[unit])["median"], min(ms["values"]), max(ms["values"]), ms["median"] / base)
        for arm in arms
    ]


def losses(document: dict[str, Any]) -> list[str]:
    """Every comparison that we lose: peers that cost less than one of ours, and the share of our cost that they need.

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
        arm | {unit: together([d["arms"][k][unit] for d in documents]) for unit in UNITS}
        for k, arm in enumerate(first["arms"])
    ]
    ratios = {name: together([d["ratios"][name] for d in documents]) for name in first["ratios"]}
    peak = max(d["peak_memory_mib"] for d in documents)
    return first | {"arms": arms, "ratios": ratios, "peak_memory_mib": peak, "rounds": len(documents)}


def agreement(a: dict[str, Any], b: dict[str, Any]) -> dict[str, tuple[bool, bool]]:
    """For every ratio of both results: whether the two spreads, lowest to highest, overlap; whether they are close.

    They are close where each one's median lies within the other's spread. That cannot be asked of so many ratios: of
    two runs with five processes of two repeats, chance alone puts one's median outside of the other's spread in 3 to 8
    of 100 ratios (normal values, none to half of the variance between processes), but keeps the spreads apart in less
    than one of 5,000.
    """

    def within(value: float, spread: dict[str, Any]) -> bool:
        return min(spread["values"]) <= value <= max(spread["values"])

    both = {name: (a["ratios"][name], b["ratios"][name]) for name in a["ratios"] if name in b["ratios"]}
    return {
        name: (
            within(min(one["values"]), other) or within(min(other["values"]), one),
            within(one["median"], other) and within(other["median"], one),
        )
        for name, (one, other) in both.items()
    }


def save(document: dict[str, Any], path: Path | str) -> None:
    """Checks and writes a result as strict JSON, whole or not at all; of paths in the settings only the names."""
    settings = {k: Path(v).name if k in PATHS and isinstance(v, str) else v for k, v in document["settings"].items()}
    document = document | {"settings": settings}
    validate(document)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n")


def load(path: Path | str) -> dict[str, Any]:
    """A checked result. UserError names a file that holds none."""
    try:
        document = json.loads(Path(path).read_text())
        validate(document)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a benchmark result: {error}") from error
    return document
