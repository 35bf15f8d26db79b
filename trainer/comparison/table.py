"""What finished runs say about their arms: means, spreads, paired differences, and a table of them."""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from precompute.base.errors import UsageError
from trainer import record
from trainer.comparison.arms import arm_of, folder_of
from trainer.comparison.evaluations import left_out_by_some, left_out_note, read_evaluations
from trainer.methods.registry import METHODS
from trainer.record import metrics

# What is compared: name, and where it stands in a run's evaluation.json.
MEASURES = {
    "kNN accuracy": ("knn", "accuracy"),
    "same-class retrieval AUC": ("knn", "class_auc"),
    "matched cells, held-out views": ("matching", "matched", "share"),
    "matched cells, untrained net": ("matching", "untrained", "share"),
    "matched cells, wrong cells": ("matching", "wrong cells", "share"),
    "matched cells, random cell": ("matching", "random cell", "share"),
    "matched cells, random cell of the object": ("matching", "random cell of the object", "share"),
    "matched cells, same place": ("matching", "same place", "share"),
    "matched cells, same place in rectangle": ("matching", "same place in rectangle", "share"),
    "own keys beat another image's": ("localisation", "own_keys", "share"),
    "probe AUC, whole images": ("localisation", "images", "probe", "auc"),
    "probe AUC, off-centre crops": ("localisation", "images", "crops", "probe", "auc"),
    "probe pointing, off-centre crops": ("localisation", "images", "crops", "probe", "pointing"),
    "probe MaxBoxAcc 0.5, whole images": ("localisation", "images", "probe", "max_box_accuracy", "0.5"),
    "C map AUC, held-out views": ("localisation", "views: C map", "auc"),
    "direct head AUC, held-out views": ("localisation", "views: direct head", "auc"),
    "C map AUC, another image's keys": ("localisation", "views: C map, another image's keys", "auc"),
    "relative C map AUC, held-out views": ("localisation", "views: relative C map", "auc"),
    "relative C map AUC, another image's keys": ("localisation", "views: relative C map, another image's keys", "auc"),
    "C map AUC, another image's mask": ("localisation", "views: C map, another image's mask", "auc"),
    "linear direct head AUC, held-out views": ("localisation", "views: linear direct head, no keys", "auc"),
    "shuffled probe AUC, off-centre crops": ("localisation", "images", "crops", "shuffled probe", "auc"),
    "centre prior AUC, whole images": ("localisation", "images", "centre prior", "auc"),
    "centre prior AUC, off-centre crops": ("localisation", "images", "crops", "centre prior", "auc"),
    "centre prior AUC, held-out views": ("localisation", "views: centre prior", "auc"),
    "box area share, whole images": ("localisation", "images", "area_share"),
    "box area share, off-centre crops": ("localisation", "images", "crops", "area_share"),
    "box area share, held-out views": ("localisation", "mask_share"),
}
# Table 1 of the paper: fine-tuned top-1 on CUB, ResNet-50, 800 epochs, second stage only; one run each, no seeds.
PAPER = {"byol:rrc": 64.85, "cvsa:saliencyswap": 66.88}


def summarise(arms: Sequence[str], seeds: Sequence[int], against: str, out: Path, flags: list[str]) -> dict[str, Any]:
    """Mean, standard deviation and values of every measure and arm, and paired differences to the arm `against`."""
    folders = {arm: [folder_of(arm, seed, out) for seed in seeds] for arm in arms}
    evaluations = read_evaluations(folder for of_arm in folders.values() for folder in of_arm)
    values: dict[str, dict[str, list[float]]] = {}
    for arm in arms:
        documents = [evaluations[folder] for folder in folders[arm]]
        for name, path in MEASURES.items():
            figures = [figure for document in documents if (figure := _at(document, path)) is not None]
            if len(figures) == len(documents):
                values.setdefault(name, {})[arm] = figures
    measures = {
        name: {
            arm: {
                "values": figures,
                "mean": fmean(figures),
                "sd": stdev(figures) if len(figures) > 1 else None,
                "paired": paired(figures, by_arm[against]) if against in by_arm else None,
            }
            for arm, figures in by_arm.items()
        }
        for name, by_arm in values.items()
    }
    return {
        "arms": list(arms),
        "seeds": len(seeds),
        "first_seed": seeds[0],
        "against": against,
        "flags": flags,
        "measures": measures,
        "left_out": left_out_by_some(evaluations),
        "rolled_keys": _rolled(values, "C map"),
        "relative_rolled_keys": _rolled(values, "relative C map"),
        "missing_controls": missing_controls(arms, flags),
        "paper_cub_finetuned_top1": {arm: PAPER[arm] for arm in arms if arm in PAPER},
        "about": _about(list(evaluations)),
    }


def _rolled(values: dict[str, dict[str, list[float]]], what: str) -> dict[str, dict[str, float | None]]:
    """By arm, how another image's keys change the AUC of its maps."""
    own, rolled = (values.get(f"{what} AUC, {which}", {}) for which in ("held-out views", "another image's keys"))
    return {arm: paired(rolled[arm], own[arm]) for arm in own if arm in rolled}


def _about(folders: list[Path]) -> dict[str, list[Any]]:
    """Every commit, version and number of threads that the runs were made with."""
    files = [path for folder in folders if (path := folder / record.METRICS).exists()]
    headers = [metrics.header(path)["about"] for path in files]
    return {key: sorted({h.get(key) for h in headers}, key=str) for key in ("commit", "torch", "python", "threads")}


def missing_controls(arms: Sequence[str], flags: Sequence[str] = ()) -> list[str]:
    """The control arms that are not among `arms`, of every arm that aligns and has no flags of its own.

    Those that would change nothing beside the `flags` of all arms are not missed.
    """
    plain = [arm for arm in arms if re.fullmatch(r"[^: ]+:[^: ]+", arm) and METHODS[arm.split(":")[0]].aligns]
    wanted = [f"{arm}:{control}" for arm in plain for control in METHODS[arm.split(":")[0]].controls]
    return [arm for arm in wanted if arm not in arms and _possible(arm, flags)]


def _possible(arm: str, flags: Sequence[str]) -> bool:
    try:
        arm_of(arm, [*flags], Path()).config(0)
    except UsageError:
        return False
    return True


def paired(values: list[float], base: list[float]) -> dict[str, float | None]:
    """Mean difference seed by seed with its 95 % interval (Student's t); no interval from fewer than two seeds."""
    differences = [a - b for a, b in zip(values, base, strict=True)]
    mean, n = fmean(differences), len(differences)
    if n < 2:
        return {"mean": mean, "low": None, "high": None}
    from scipy.stats import t

    half = float(t.ppf(0.975, n - 1)) * stdev(differences) / math.sqrt(n)
    return {"mean": mean, "low": mean - half, "high": mean + half}


def table(result: dict[str, Any], show: tuple[str, ...] = ()) -> str:
    """The result for a person: all measures, or those to `show` and nothing else."""
    width = max(36, *map(len, result["arms"]))
    lines = [
        f"{result['seeds']} seeds{_from(result)}; mean ± sd; in brackets the paired difference to {result['against']}, "
        "95 % interval"
        if result["seeds"] > 1
        else f"one seed{_from(result)}, so no spread and no interval; in brackets the difference to {result['against']}"
    ]
    for name, arms in result["measures"].items():
        if show and name not in show:
            continue
        if len(arms) > 1 and len({tuple(f["values"]) for f in arms.values()}) == 1:  # of the pictures, not of the arms
            lines.append(f"{name}, all arms: {_spread(next(iter(arms.values())))}")
            continue
        lines.append(name)
        for arm, figures in arms.items():
            line = f"  {arm:{width}s} {_spread(figures)}"
            if arm != result["against"] and figures["paired"] is not None:
                line += f"  ({_difference(figures['paired'])})"
            lines.append(line)
    if by_some := result.get("left_out"):  # older results do not tell
        lines.append(left_out_note(by_some))
    if show:
        return "\n".join(lines)
    for key, what in (("rolled_keys", "C"), ("relative_rolled_keys", "relative C")):
        for arm, change in result.get(key, {}).items():
            some = "some" if change["high"] is not None and change["high"] < 0 else "no"
            change = f"another image's keys change {what}'s AUC by {_difference(change)}"
            lines.append(f"{arm}: {change}: {some} correspondence of views shown")
    if result["missing_controls"]:
        lines.append(f"control arms that are not among --arms: {', '.join(result['missing_controls'])}")
    if result["paper_cub_finetuned_top1"]:
        figures = ", ".join(f"{arm} {value}" for arm, value in result["paper_cub_finetuned_top1"].items())
        lines.append(f"the paper, fine-tuned top-1 on CUB, ResNet-50, 800 epochs, one run each: {figures}")
    return "\n".join(lines)


def _from(result: dict[str, Any]) -> str:
    """Which seeds they are, where they do not begin with 0."""
    first, count = result.get("first_seed", 0), result["seeds"]
    return "" if not first else f" ({first})" if count == 1 else f" ({first} to {first + count - 1})"


def _at(document: dict[str, Any], path: tuple[str, ...]) -> float | None:
    """The figure at `path` in nested dictionaries; None where there is no number."""
    found: Any = document
    for key in path:
        found = found.get(key) if isinstance(found, dict) else None
    return found if isinstance(found, int | float) else None


def _spread(figures: dict[str, Any]) -> str:
    return f"{figures['mean']:.3f}" + ("" if figures["sd"] is None else f" ± {figures['sd']:.3f}")


def _difference(paired: dict[str, Any]) -> str:
    interval = "" if paired["low"] is None else f", {paired['low']:+.3f} to {paired['high']:+.3f}"
    return f"{paired['mean']:+.3f}{interval}"
