"""Trains several arms with several seeds on the same budget and holds them against each other.

    python -m trainer.compare --arms byol:rrc byol:saliencyswap cvsa:saliencyswap --seeds 3 --out runs/compare \\
        -- --boxes cache/cub.h5 --root data/CUB_200_2011 --arch resnet10w16 --size 64 --epochs 20

What stands after -- goes to trainer.run as it is. An arm is METHOD:POLICY, or cvsa:saliencyswap:CONTROL with one of
shuffled-masks, rolled-keys, direct-head. Finished runs are kept, stopped ones go on.
"""

import argparse
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from augment.policy import NAMES
from precompute.cli import UsageError, add_options, main, option, read_options
from precompute.files import replacing
from trainer.config import CONTROLS, METHODS
from trainer.settings import let_idle_threads_sleep

# What is compared: name, and where it stands in a run's evaluation.json.
MEASURES = {
    "kNN accuracy": ("knn", "accuracy"),
    "probe AUC, whole images": ("localisation", "images", "probe", "auc"),
    "probe AUC, off-centre crops": ("localisation", "images", "crops", "probe", "auc"),
    "probe pointing, off-centre crops": ("localisation", "images", "crops", "probe", "pointing"),
    "probe MaxBoxAcc 0.5, whole images": ("localisation", "images", "probe", "max_box_accuracy", "0.5"),
    "C map AUC, held-out views": ("localisation", "views: C map", "auc"),
    "direct head AUC, held-out views": ("localisation", "views: direct head", "auc"),
    "C map AUC, another image's keys": ("localisation", "views: C map, another image's keys", "auc"),
    "centre prior AUC, whole images": ("localisation", "images", "centre prior", "auc"),
    "centre prior AUC, off-centre crops": ("localisation", "images", "crops", "centre prior", "auc"),
    "centre prior AUC, held-out views": ("localisation", "views: centre prior", "auc"),
    "box area share, off-centre crops": ("localisation", "images", "crops", "area_share"),
}
# Table 1 of the paper: fine-tuned top-1 on CUB, ResNet-50, 800 epochs, second stage only; one run each, no seeds.
PAPER = {"byol:rrc": 64.85, "cvsa:saliencyswap": 66.88, "mocov2:rrc": None}


@dataclass(frozen=True)
class CompareConfig:
    """Settings of `trainer.compare`."""

    arms: tuple[str, ...] = option(
        ("byol:rrc", "byol:saliencyswap", "cvsa:saliencyswap"), "METHOD:POLICY[:CONTROL] ..."
    )
    seeds: int = option(3, "seeds of each arm: 0, 1, ...")
    against: str | None = option(None, "arm that the others are held against, seed by seed; default: the first")
    out: str = option("runs/compare", "folder of all runs and of the result")

    def __post_init__(self) -> None:
        for arm in self.arms:
            method, _, rest = arm.partition(":")
            policy, _, control = rest.partition(":")
            if method not in METHODS or policy not in NAMES or (control and control not in CONTROLS):
                raise ValueError(
                    f"--arms {arm}: METHOD:POLICY[:CONTROL] with {', '.join(METHODS)}; {', '.join(NAMES)}; "
                    f"{', '.join(CONTROLS[1:])}"
                )
        if self.seeds < 1:
            raise ValueError(f"--seeds {self.seeds}: must be at least 1")
        if self.against is not None and self.against not in self.arms:
            raise ValueError(f"--against {self.against}: must be one of the arms {', '.join(self.arms)}")


def program(argv: list[str] | None = None) -> int:
    """Runs what is missing, then reports; exit status 0 done, 1 failed, 2 usage, 130 interrupted."""
    import sys

    let_idle_threads_sleep()
    argv = sys.argv[1:] if argv is None else argv
    cut = argv.index("--") if "--" in argv else len(argv)
    parser = argparse.ArgumentParser(
        prog="python -m trainer.compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document as the last line")
    add_options(parser, CompareConfig)
    parsed = parser.parse_args(argv[:cut])
    config = read_options(CompareConfig, parsed)
    flags = argv[cut + 1 :]
    taken = {"--out", "--seed", "--method", "--policy", "--control", "--resume", "--no-evaluate"} & set(flags)
    if taken:
        raise UsageError(f"{', '.join(sorted(taken))} after --: compare sets that for every run itself")
    for arm in config.arms:
        for seed in range(config.seeds):
            if (status := _run(arm, seed, flags, Path(config.out))) != 0:
                return status
    result = summarise(config, flags)
    print(table(result))
    with replacing(Path(config.out) / "compare.json") as temporary:
        temporary.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n")
    _plot(result, Path(config.out) / "compare.png")
    if parsed.json:
        print(json.dumps(result, allow_nan=False))
    return 0


def folder_of(arm: str, seed: int, out: Path) -> Path:
    """Where one run lies."""
    return out / f"{arm.replace(':', '-')}-seed{seed}"


def _run(arm: str, seed: int, flags: list[str], out: Path) -> int:
    """One run, from the start, from its checkpoint, or not at all if it is done."""
    from trainer import checkpoint, run

    folder = folder_of(arm, seed, out)
    if (folder / "evaluation.json").exists():
        print(f"== {arm} seed {seed}: done before")
        return 0
    print(f"== {arm} seed {seed}", flush=True)
    method, policy, *control = arm.split(":")
    command = [*flags, "--method", method, "--policy", policy, "--seed", str(seed), "--out", str(folder)]
    if control:
        command += ["--control", control[0]]
    if (folder / checkpoint.NAME).exists():
        command.append("--resume")
    return run.program(command)


def summarise(config: CompareConfig, flags: list[str]) -> dict[str, Any]:
    """Mean, standard deviation and values of every measure and arm, and paired differences to one arm."""
    found: dict[str, dict[str, list[float]]] = {}
    for arm in config.arms:
        runs = [folder_of(arm, seed, Path(config.out)) / "evaluation.json" for seed in range(config.seeds)]
        documents = [json.loads(path.read_text()) for path in runs]
        for name, path in MEASURES.items():
            values = [v for d in documents if (v := _at(d, path)) is not None]
            if len(values) == len(documents):
                found.setdefault(name, {})[arm] = values
    base = config.against or config.arms[0]
    measures = {
        name: {
            arm: {
                "values": v,
                "mean": _mean(v),
                "sd": _sd(v),
                "paired": paired(v, arms[base]) if base in arms else None,
            }
            for arm, v in arms.items()
        }
        for name, arms in found.items()
    }
    paper = {arm: PAPER[arm] for arm in config.arms if PAPER.get(arm) is not None}
    return {
        "arms": list(config.arms), "seeds": config.seeds, "against": base, "flags": flags, "measures": measures,
        "paper_cub_finetuned_top1": paper,
    }  # fmt: skip


def paired(values: list[float], base: list[float]) -> dict[str, float | None]:
    """Mean difference seed by seed with its 95 % interval (Student's t); no interval from fewer than two seeds."""
    differences = [a - b for a, b in zip(values, base, strict=True)]
    half = None
    if len(differences) > 1:
        from scipy.stats import t

        half = float(t.ppf(0.975, len(differences) - 1)) * _sd(differences) / math.sqrt(len(differences))
    mean = _mean(differences)
    return {"mean": mean, "low": None if half is None else mean - half, "high": None if half is None else mean + half}


def table(result: dict[str, Any]) -> str:
    """The result for a person."""
    lines = [
        f"{result['seeds']} seeds; mean ± sd; in brackets the paired difference to {result['against']}, 95 % interval"
    ]
    for name, arms in result["measures"].items():
        lines.append(name)
        for arm, f in arms.items():
            line = f"  {arm:36s} {f['mean']:.3f} ± {f['sd']:.3f}"
            d = f["paired"]
            if arm != result["against"] and d is not None:
                interval = "" if d["low"] is None else f", {d['low']:+.3f} to {d['high']:+.3f}"
                line += f"  ({d['mean']:+.3f}{interval})"
            lines.append(line)
    if result["paper_cub_finetuned_top1"]:
        figures = ", ".join(f"{arm} {value}" for arm, value in result["paper_cub_finetuned_top1"].items())
        lines.append(f"the paper, fine-tuned top-1 on CUB, ResNet-50, 800 epochs, one run each: {figures}")
    return "\n".join(lines)


def _plot(result: dict[str, Any], path: Path) -> None:
    """compare.png: every seed a point, every arm a colour, one panel per measure."""
    try:
        import matplotlib
    except ImportError:
        print("plot: left out, matplotlib is not installed (pip install 'saliencyswap[plots]')")
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    shown = {n: a for n, a in result["measures"].items() if "centre" not in n and "share" not in n}
    if not shown:
        return
    figure, axes = plt.subplots(len(shown), 1, figsize=(8, 0.5 + 1.5 * len(shown)), layout="constrained", squeeze=False)
    for axis, (name, arms) in zip(axes[:, 0], shown.items(), strict=True):
        for place, (arm, f) in enumerate(arms.items()):
            axis.scatter(f["values"], [place] * len(f["values"]), alpha=0.6)
            axis.plot([f["mean"]], [place], "k|", markersize=14)
            axis.annotate(arm, (f["mean"], place), textcoords="offset points", xytext=(0, 7), fontsize=7, ha="center")
        axis.set_yticks([])
        axis.set_ylim(-0.6, len(arms) - 0.1)
        axis.set_title(name, fontsize=9, loc="left")
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png", metadata={"Software": None})
    plt.close(figure)
    print(f"plot: {path}")


def _at(document: Any, path: tuple[str, ...]) -> float | None:
    for key in path:
        if not isinstance(document, dict) or key not in document:
            return None
        document = document[key]
    return document


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _sd(values: list[float]) -> float:
    if len(values) < 2:
        return 0.0
    mean = _mean(values)
    return math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))


if __name__ == "__main__":
    main(program)
