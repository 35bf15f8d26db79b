"""Trains several arms with several seeds on the same budget and compares them.

    python -m trainer.compare --arms byol:rrc cvsa:saliencyswap matching:saliencyswap --seeds 3 --out runs/compare \\
        -- --boxes cache/cub.h5 --root data/CUB_200_2011 --arch resnet10w16 --size 64 --epochs 20

What stands after -- are flags of trainer.run, for all runs. An arm is METHOD:POLICY, or METHOD:POLICY:CONTROL with
shuffled-masks or rolled-keys, direct-head (of cvsa) or wrong-cells (of matching). Flags of its own may follow it in the
same argument, and win over those after --:

    python -m trainer.compare --arms cvsa:saliencyswap 'cvsa:saliencyswap --own 0.25' --show 'kNN accuracy' -- ...

Finished runs are kept, stopped ones go on.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from precompute.base.errors import BadValue
from precompute.base.files import replacing, sweep
from precompute.base.options import Parser, add_options, option, read_options
from precompute.base.program import main
from trainer import record
from trainer.comparison.arms import Arm, arm_of, folder_of, refuse_taken, split_arm
from trainer.comparison.table import MEASURES, summarise, table
from trainer.config.choices import let_idle_threads_sleep
from trainer.config.command_line import continued
from trainer.config.run import RunConfig
from trainer.record.folder import evaluation_in


@dataclass(frozen=True)
class CompareConfig:
    """Settings of `trainer.compare`."""

    arms: tuple[str, ...] = option(
        ("byol:rrc", "byol:saliencyswap", "cvsa:saliencyswap", "matching:saliencyswap"),
        "METHOD:POLICY[:CONTROL] or 'THAT --FLAG VALUE' ...",
    )
    seeds: int = option(3, "how many seeds of each arm", least=1)
    first_seed: int = option(0, "the first of them; the others follow it", least=0)
    against: str | None = option(None, "arm that the others are compared with, seed by seed; default: the first")
    out: str = option("runs/compare", "folder of all runs and of the result")
    jobs: int = option(
        1, "runs at the same time; on a CPU each picture is decoded once for all of them (flags may name another "
        "cache), and those of equal views make each batch once",
        least=1,
    )  # fmt: skip
    show: tuple[str, ...] = option((), "measures of the printed table; default: all (the files hold all of them)")

    @property
    def all_seeds(self) -> range:
        """The seeds of every arm."""
        return range(self.first_seed, self.first_seed + self.seeds)

    def __post_init__(self) -> None:
        for arm in self.arms:
            split_arm(arm)
        folders = [folder_of(arm, 0, Path()) for arm in self.arms]
        if twice := [arm for arm, folder in zip(self.arms, folders, strict=True) if folders.count(folder) > 1]:
            raise BadValue("arms", twice, "different arms, each in a folder of its own: these would lie in one folder")
        if unknown := [name for name in self.show if name not in MEASURES]:
            raise BadValue("show", unknown, list(map(repr, MEASURES)))
        if self.against is not None and self.against not in self.arms:
            raise BadValue("against", self.against, f"one of the arms {', '.join(self.arms)}")


def program(argv: list[str] | None = None) -> int:
    """Runs what is missing, then reports; exit status 0 done, 1 failed, 2 usage, 130 interrupted."""
    let_idle_threads_sleep()
    argv = sys.argv[1:] if argv is None else argv
    cut = argv.index("--") if "--" in argv else len(argv)
    parser = Parser("trainer.compare", __doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON document as the last line")
    add_options(parser, CompareConfig)
    parsed = parser.parse_args(argv[:cut])
    config, flags = read_options(CompareConfig, parsed), argv[cut + 1 :]
    out = Path(config.out)
    refuse_taken(flags, "after --")
    arms = [arm_of(name, flags, out) for name in config.arms]
    from trainer.comparison.checks import check_arms
    from trainer.comparison.plot import plot

    check_arms(arms, config.all_seeds)  # mistakes show before the first arm has trained for hours
    if (status := _run_all(arms, config)) != 0:
        print("the comparison is not done: give the same trainer.compare command again to go on with it")
        return status
    result = summarise(config.arms, config.all_seeds, config.against or config.arms[0], out, flags)
    print(table(result, config.show))
    for name in ("compare.json", "compare.png"):
        sweep(out / name)
    with replacing(out / "compare.json") as temporary:
        temporary.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n")
    plot(result, out / "compare.png")
    if parsed.json:
        print(json.dumps(result, allow_nan=False))
    return 0


def _run_all(arms: Sequence[Arm], config: CompareConfig) -> int:
    """All runs, one after the other or side by side; the status of the first that fails."""
    if config.jobs == 1:
        runs = ((arm, seed) for arm in arms for seed in config.all_seeds)
        return next((status for arm, seed in runs if (status := run_one(arm, seed)) != 0), 0)
    from trainer.comparison.jobs import side_by_side, waves

    missing = [(arm, seed) for seed in config.all_seeds for arm in arms if not _done(arm, seed)]
    for wave in waves(missing, config.jobs):
        if (status := side_by_side(run_one, wave)) != 0:
            return status
    return 0


def _done(arm: Arm, seed: int) -> bool:
    folder = folder_of(arm.name, seed, arm.out)
    written = all((folder / name).exists() for name in (record.METRICS, record.CARD))  # the card is the last of a run
    return written and evaluation_in(folder) is not None


def run_one(arm: Arm, seed: int, ring: tuple[str, int] = ("", 2)) -> int:
    """One run, from the start, from its checkpoint, or not at all if it is done; `ring`: see `Making`."""
    from trainer import train
    from trainer.record import checkpoint

    folder = folder_of(arm.name, seed, arm.out)
    if _done(arm, seed):
        print(f"== {arm.name} seed {seed}: done before")
        return 0
    print(f"== {arm.name} seed {seed}", flush=True)
    if checkpoint.any_in(folder):
        resumed = checkpoint.to_resume(folder)
        return train.train(_in_ring(continued(resumed, arm.values_of(seed)), ring), resumed)
    config = arm.config(seed)
    return train.train(_in_ring(config, ring), notes=config.idle_notes(arm.given))


def _in_ring(config: RunConfig, ring: tuple[str, int]) -> RunConfig:
    name, members = ring
    return replace(config, making=replace(config.making, ring=name, ring_members=members)) if name else config


if __name__ == "__main__":
    main(program)
