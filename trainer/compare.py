"""Trains several arms with several seeds on the same budget and holds them against each other.

    python -m trainer.compare --arms byol:rrc byol:saliencyswap cvsa:saliencyswap --seeds 3 --out runs/compare \\
        -- --boxes cache/cub.h5 --root data/CUB_200_2011 --arch resnet10w16 --size 64 --epochs 20

What stands after -- goes to trainer.run as it is. An arm is METHOD:POLICY, or cvsa:saliencyswap:CONTROL with one of
shuffled-masks, rolled-keys, direct-head. Flags of its own may follow it in the same argument, and win over those
after --:

    python -m trainer.compare --arms cvsa:saliencyswap 'cvsa:saliencyswap --own 0.25' --show 'kNN accuracy' -- ...

Finished runs are kept, stopped ones go on.
"""

import json
import math
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from augment.views.policy import NAMES
from precompute.base.errors import UsageError
from precompute.base.files import replacing, sweep
from precompute.base.options import Parser, add_options, option, read_options
from precompute.base.program import main
from trainer.config.choices import let_idle_threads_sleep
from trainer.config.run import CONTROLS, METHODS

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
# What compare sets for every run itself.
TAKEN = {"--out", "--seed", "--method", "--policy", "--control", "--resume", "--no-evaluate"}
# Table 1 of the paper: fine-tuned top-1 on CUB, ResNet-50, 800 epochs, second stage only; one run each, no seeds.
PAPER = {"byol:rrc": 64.85, "cvsa:saliencyswap": 66.88, "mocov2:rrc": None}


@dataclass(frozen=True)
class CompareConfig:
    """Settings of `trainer.compare`."""

    arms: tuple[str, ...] = option(
        ("byol:rrc", "byol:saliencyswap", "cvsa:saliencyswap"), "METHOD:POLICY[:CONTROL] or 'THAT --FLAG VALUE' ..."
    )
    seeds: int = option(3, "seeds of each arm: 0, 1, ...")
    against: str | None = option(None, "arm that the others are held against, seed by seed; default: the first")
    out: str = option("runs/compare", "folder of all runs and of the result")
    show: tuple[str, ...] = option((), "measures of the printed table; default: all (the files hold all of them)")

    def __post_init__(self) -> None:
        for arm in self.arms:
            name, flags = split_arm(arm)
            method, _, rest = name.partition(":")
            policy, _, control = rest.partition(":")
            _refuse_taken(flags, f"--arms {arm!r}")
            if method not in METHODS or policy not in NAMES or (control and control not in CONTROLS):
                raise ValueError(
                    f"--arms {arm}: METHOD:POLICY[:CONTROL] with {', '.join(METHODS)}; {', '.join(NAMES)}; "
                    f"{', '.join(CONTROLS[1:])}"
                )
        folders = [folder_of(arm, 0, Path()) for arm in self.arms]
        if twice := [arm for arm, folder in zip(self.arms, folders, strict=True) if folders.count(folder) > 1]:
            raise ValueError(f"--arms {', '.join(map(repr, twice))}: these are one arm, or would lie in one folder")
        if self.seeds < 1:
            raise ValueError(f"--seeds {self.seeds}: must be at least 1")
        if unknown := [name for name in self.show if name not in MEASURES]:
            raise ValueError(f"--show {', '.join(map(repr, unknown))}: there are {', '.join(map(repr, MEASURES))}")
        if self.against is not None and self.against not in self.arms:
            raise ValueError(f"--against {self.against}: must be one of the arms {', '.join(self.arms)}")


def program(argv: list[str] | None = None) -> int:
    """Runs what is missing, then reports; exit status 0 done, 1 failed, 2 usage, 130 interrupted."""
    import sys

    let_idle_threads_sleep()
    argv = sys.argv[1:] if argv is None else argv
    cut = argv.index("--") if "--" in argv else len(argv)
    parser = Parser("trainer.compare", __doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON document as the last line")
    add_options(parser, CompareConfig)
    parsed = parser.parse_args(argv[:cut])
    config = read_options(CompareConfig, parsed)
    flags = argv[cut + 1 :]
    try:
        _refuse_taken(flags, "after --")
    except ValueError as error:
        raise UsageError(str(error)) from error
    from trainer.comparison.checks import check_arm
    from trainer.comparison.plot import plot

    out = Path(config.out)
    for arm in config.arms:  # mistakes show before the first arm has trained for hours
        check_arm([(command_of(arm, seed, flags, out), folder_of(arm, seed, out)) for seed in range(config.seeds)])
    for arm in config.arms:
        for seed in range(config.seeds):
            if (status := _run(arm, seed, flags, out)) != 0:
                print("the comparison is not done: give the same trainer.compare command again to go on with it")
                return status
    result = summarise(config, flags)
    print(table(result, config.show))
    sweep(out / "compare.json")
    with replacing(out / "compare.json") as temporary:
        temporary.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n")
    plot(result, out / "compare.png")
    if parsed.json:
        print(json.dumps(result, allow_nan=False))
    return 0


def _refuse_taken(flags: list[str], where: str) -> None:
    if taken := TAKEN & {flag.split("=")[0] for flag in flags}:
        raise ValueError(f"{', '.join(sorted(taken))} {where}: compare sets that for every run itself")


def split_arm(arm: str) -> tuple[str, list[str]]:
    """METHOD:POLICY[:CONTROL] and the flags that follow it."""
    try:
        name, *flags = shlex.split(arm) or [""]
    except ValueError as error:
        raise ValueError(f"--arms {arm}: {error}") from error
    return name, flags


def folder_of(arm: str, seed: int, out: Path) -> Path:
    """Where one run lies."""
    return out / f"{re.sub(r'[^A-Za-z0-9_.]+', '-', arm).strip('-')}-seed{seed}"


def command_of(arm: str, seed: int, flags: list[str], out: Path) -> list[str]:
    """The flags of one run for trainer.run."""
    name, own = split_arm(arm)
    method, policy, *control = name.split(":")
    # --evaluate also for runs that were trained without: what is compared comes from the evaluation.
    command = [*flags, *own, "--method", method, "--policy", policy, "--seed", str(seed), "--evaluate"]
    return [*command, "--out", str(folder_of(arm, seed, out)), *(["--control", control[0]] if control else [])]


def _run(arm: str, seed: int, flags: list[str], out: Path) -> int:
    """One run, from the start, from its checkpoint, or not at all if it is done."""
    from trainer import run
    from trainer.record import checkpoint, model_card
    from trainer.record.folder import EVALUATION

    folder = folder_of(arm, seed, out)
    if (folder / EVALUATION).exists() and (folder / model_card.NAME).exists():  # the card is written last
        print(f"== {arm} seed {seed}: done before")
        return 0
    print(f"== {arm} seed {seed}", flush=True)
    resume = ["--resume"] if checkpoint.any_in(folder) else []
    return run.program([*command_of(arm, seed, flags, out), *resume])


def summarise(config: CompareConfig, flags: list[str]) -> dict[str, Any]:
    """Mean, standard deviation and values of every measure and arm, and paired differences to one arm."""
    from trainer.record.folder import EVALUATION

    found: dict[str, dict[str, list[float]]] = {}
    for arm in config.arms:
        runs = [folder_of(arm, seed, Path(config.out)) / EVALUATION for seed in range(config.seeds)]
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
    right, rolled = (found.get(name, {}) for name in ("C map AUC, held-out views", "C map AUC, another image's keys"))
    return {
        "arms": list(config.arms), "seeds": config.seeds, "against": base, "flags": flags, "measures": measures,
        "rolled_keys": {arm: paired(rolled[arm], right[arm]) for arm in right if arm in rolled},
        "missing_controls": missing_controls(config.arms), "paper_cub_finetuned_top1": paper, "about": _about(config),
    }  # fmt: skip


def _about(config: CompareConfig) -> dict[str, list[Any]]:
    """What the runs were made with: every commit, version and number of threads among them."""
    from trainer.record import metrics

    folders = [folder_of(arm, seed, Path(config.out)) for arm in config.arms for seed in range(config.seeds)]
    journals = [path for folder in folders if (path := folder / metrics.NAME).exists()]
    headers = [metrics.header(path)["about"] for path in journals]
    return {key: sorted({h.get(key) for h in headers}, key=str) for key in ("commit", "torch", "python", "threads")}


def missing_controls(arms: tuple[str, ...]) -> list[str]:
    """The control arms of every cvsa arm (without flags of its own) that are not among `arms`."""
    of = [arm for arm in arms if re.fullmatch(r"cvsa:[^: ]+", arm)]
    return [f"{arm}:{control}" for arm in of for control in CONTROLS[1:] if f"{arm}:{control}" not in arms]


def paired(values: list[float], base: list[float]) -> dict[str, float | None]:
    """Mean difference seed by seed with its 95 % interval (Student's t); no interval from fewer than two seeds."""
    differences = [a - b for a, b in zip(values, base, strict=True)]
    half = None
    if len(differences) > 1:
        from scipy.stats import t

        half = float(t.ppf(0.975, len(differences) - 1)) * (_sd(differences) or 0.0) / math.sqrt(len(differences))
    mean = _mean(differences)
    return {"mean": mean, "low": None if half is None else mean - half, "high": None if half is None else mean + half}


def table(result: dict[str, Any], show: tuple[str, ...] = ()) -> str:
    """The result for a person: all measures, or those to `show` and nothing else."""
    width = max(36, *map(len, result["arms"]))
    lines = [
        f"{result['seeds']} seeds; mean ± sd; in brackets the paired difference to {result['against']}, 95 % interval"
        if result["seeds"] > 1
        else f"one seed, so no spread and no interval; in brackets the difference to {result['against']}"
    ]
    for name, arms in result["measures"].items():
        if show and name not in show:
            continue
        if len(arms) > 1 and len({tuple(f["values"]) for f in arms.values()}) == 1:  # of the pictures, not of the arms
            same = next(iter(arms.values()))
            lines.append(f"{name}, all arms: {_spread(same)}")
            continue
        lines.append(name)
        for arm, f in arms.items():
            line = f"  {arm:{width}s} {_spread(f)}"
            d = f["paired"]
            if arm != result["against"] and d is not None:
                interval = "" if d["low"] is None else f", {d['low']:+.3f} to {d['high']:+.3f}"
                line += f"  ({d['mean']:+.3f}{interval})"
            lines.append(line)
    if show:
        return "\n".join(lines)
    for arm, d in result["rolled_keys"].items():
        interval = "" if d["low"] is None else f", {d['low']:+.3f} to {d['high']:+.3f}"
        shown = "some" if d["high"] is not None and d["high"] < 0 else "no"
        change = f"another image's keys change C's AUC by {d['mean']:+.3f}{interval}"
        lines.append(f"{arm}: {change}: {shown} correspondence of views shown")
    if result["missing_controls"]:
        lines.append(f"control arms that are not among --arms: {', '.join(result['missing_controls'])}")
    if result["paper_cub_finetuned_top1"]:
        figures = ", ".join(f"{arm} {value}" for arm, value in result["paper_cub_finetuned_top1"].items())
        lines.append(f"the paper, fine-tuned top-1 on CUB, ResNet-50, 800 epochs, one run each: {figures}")
    return "\n".join(lines)


def _at(document: Any, path: tuple[str, ...]) -> float | None:
    for key in path:
        if not isinstance(document, dict) or key not in document:
            return None
        document = document[key]
    return document


def _spread(found: dict[str, Any]) -> str:
    return f"{found['mean']:.3f}" + ("" if found["sd"] is None else f" ± {found['sd']:.3f}")


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _sd(values: list[float]) -> float | None:
    """None of one value, which says nothing about spread."""
    if len(values) < 2:
        return None
    mean = _mean(values)
    return math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))


if __name__ == "__main__":
    main(program)
