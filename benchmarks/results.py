"""The form of a result file: its check, its comparisons, how it is written and read."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import spread
from precompute.base.errors import UserError
from precompute.base.files import replacing

SCHEMA = 1
UNITS = {"cpu_ms": "CPU ms", "wall_ms": "ms on the clock"}  # of the process tree's CPU time, or of the clock (CUDA)
CEILINGS = ("decode only", "frozen batch")  # arms that are no peers: the job cannot be faster than they are
PATHS = ("boxes", "root", "old", "out", "data", "weights", "basnet_weights", "markdown")  # settings that are paths
FOLDER = Path(__file__).resolve().parent / "results"
_TOP = ("benchmark", "settings", "machine", "versions", "commit", "arms")
_ARM = ("name", "inside", "samples", *UNITS)


def validate(document: Any) -> None:
    """Raises ValueError naming what a result lacks, or that a number in it is not finite."""
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise ValueError(f"no object with schema {SCHEMA}, which this version reads")
    arms = document.get("arms") or [{}]
    missing = [name for name in _TOP if name not in document]
    missing += [f"arms: {name}" for name in _ARM if any(name not in arm for arm in arms)]
    if missing or unit_of(document) not in UNITS:
        raise ValueError(f"lacks {', '.join(missing) or 'a unit'}")
    for values in (*(arm[unit] for arm in arms for unit in UNITS), *document.get("ratios", {}).values()):
        if values != spread(values["values"]):
            raise ValueError("a median or quartile is not that of its values")
    text = json.dumps(document, ensure_ascii=False, allow_nan=False)  # ValueError: NaN and infinity are no JSON
    if found := re.search(r"[<>`$]|\\[nrtbfu]", text):  # they end up in Markdown, in tables and in plots
        raise ValueError(f"{text[max(0, found.start() - 20) : found.end() + 20]!r}: must be one line without < > ` $")


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

    Processes differ (where memory lies, what the machine does at the time): only spreads over several of them say what
    another run may bring. ValueError where the runs are not of the same arms.
    """
    first = documents[0]
    names = [arm["name"] for arm in first["arms"]]
    if any([arm["name"] for arm in d["arms"]] != names or d["settings"] != first["settings"] for d in documents):
        raise ValueError("results of different settings or arms cannot be merged")

    def together(*spreads: dict[str, Any]) -> dict[str, Any]:
        return spread([value for of_run in spreads for value in of_run["values"]])

    same_arms = zip(*(d["arms"] for d in documents), strict=True)
    arms = [same[0] | {unit: together(*(arm[unit] for arm in same)) for unit in UNITS} for same in same_arms]
    ratios = {name: together(*(d["ratios"][name] for d in documents)) for name in first["ratios"]}
    peak = max(d["peak_memory_mib"] for d in documents)
    return first | {"arms": arms, "ratios": ratios, "peak_memory_mib": peak, "rounds": len(documents)}


def agreement(a: dict[str, Any], b: dict[str, Any]) -> dict[str, tuple[bool, bool]]:
    """For every ratio of both results: whether the two spreads, lowest to highest, overlap; whether they are close.

    Close: each median lies within the other spread. Of two runs with five processes of two repeats, chance alone puts a
    median outside in 3 to 8 of 100 ratios, but keeps the spreads apart in less than one of 5,000.
    """

    def compared(x: dict[str, Any], y: dict[str, Any]) -> tuple[bool, bool]:
        low, high = max(min(x["values"]), min(y["values"])), min(max(x["values"]), max(y["values"]))  # of both
        return low <= high, low <= x["median"] <= high and low <= y["median"] <= high

    return {name: compared(x, b["ratios"][name]) for name, x in a["ratios"].items() if name in b["ratios"]}


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
    except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not a benchmark result: {error}") from error
    return document
