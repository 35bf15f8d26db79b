"""Every committed result by one command: the recipes of suite.toml, one program after the other.

python -m benchmarks.suite --boxes cache/cub.h5 --root data/CUB_200_2011 --out results        # this machine's CPU
python -m benchmarks.suite --boxes cache/cub.h5 --root data/CUB_200_2011 --out results --device cuda --minutes 9
python -m benchmarks.suite --boxes cache/cub.h5 --root data/CUB_200_2011 --only throughput-cpu-decode-apply

A result that is there already is kept (--again: measured anew), so an interrupted suite goes on where it was. On CUDA,
which needs 1,024 images, the checks come first (the backends' parity, the decoder against queued kernels), then the
trainer's step.
"""

import shlex
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path

from benchmarks.program import Photographs, check_device, parse
from benchmarks.stages import run_limited
from precompute.base.errors import BadValue
from precompute.base.options import group, option
from precompute.base.program import main

# Device: name of the result: the program and its flags.
RECIPES = {
    device: {name: shlex.split(command) for name, command in recipes.items()}
    for device, recipes in tomllib.loads(Path(__file__).with_suffix(".toml").read_text()).items()
}

OLDER = {"versions": "--old", "host": "--against"}  # a program's flag for an older checkout


@dataclass(frozen=True)
class SuiteSettings:
    """The program's settings and their only defaults."""

    photographs: Photographs = group(Photographs, "photographs")
    out: str = option("results", "folder of the results")
    device: str = option("cpu", "which machine's recipes", choices=tuple(RECIPES))
    only: tuple[str, ...] = option((), "names of results; default: all of the device's")
    minutes: float | None = option(
        None, "end after this time: the program that runs then is cut off; it and the programs left are named", above=0
    )
    old: str | None = option(None, "folder of an older checkout, for the programs that compare with one")
    again: bool = option(False, "also measure the results that are there already")

    def __post_init__(self) -> None:
        if unknown := set(self.only) - set(RECIPES[self.device]):
            raise BadValue("only", sorted(unknown), list(RECIPES[self.device]))
        if Path(self.out).is_file():
            raise BadValue("out", self.out, "a folder, but this is a file")


def program(argv: list[str] | None = None) -> int:
    """Runs what is missing; exit status 0 all there, 1 something failed or was left, 2 usage."""
    settings = parse(SuiteSettings, "benchmarks.suite", __doc__, argv)
    check_device(settings.device)
    began = time.monotonic()
    ended: dict[str, list[str]] = {"failed": [], "cut off": [], "left for want of time": []}
    todo = [] if settings.device == "cpu" or settings.only else _checks(settings)
    for name in settings.only or RECIPES[settings.device]:
        path = Path(settings.out) / f"{name}.json"
        if path.exists() and not settings.again:
            print(f"{name}: there already", flush=True)
        elif settings.old is None and RECIPES[settings.device][name][0] == "versions":
            print(f"{name}: left out, it compares with an older checkout (--old)", flush=True)
        else:
            todo.append((name, [*_command(settings, name), "--out", str(path)]))
    environment = {"PYTHONUNBUFFERED": "1"}
    if settings.device == "cuda":  # the tests of the decoder take the photographs that the rest is measured on
        root = settings.photographs.check().folder(settings.photographs.root)
        environment |= {"GPU_TESTS_BOXES": settings.photographs.box_file, "GPU_TESTS_ROOT": str(root)}
    for name, command in todo:
        rest = None if settings.minutes is None else 60 * settings.minutes - (time.monotonic() - began)
        if rest is not None and rest <= 0:
            ended["left for want of time"].append(name)
            continue
        print(f"\n== {name}: python {shlex.join(command)}", flush=True)
        status = run_limited(command, rest, environment)
        if status is None:
            ended["cut off"].append(name)
        elif status:
            ended["failed"].append(name)
    for outcome, names in ended.items():
        if names:
            print(f"{outcome}: {', '.join(names)}")
    return int(any(ended.values()))


def _data(photographs: Photographs, module: str = "") -> list[str]:
    """The flags that name the photographs, as the program takes them."""
    if module == "search":  # makes boxes itself
        cache = photographs.cache()
        return ["--dataset", cache.dataset, "--root", str(cache.folder(photographs.root))]
    return photographs.flags()


def _command(settings: SuiteSettings, name: str) -> list[str]:
    module, *flags = RECIPES[settings.device][name]
    flag = OLDER.get(module)
    older = [flag, settings.old] if flag and settings.old else []
    return ["-m", f"benchmarks.{module}", *_data(settings.photographs, module), *older, *flags]


def _checks(settings: SuiteSettings) -> list[tuple[str, list[str]]]:
    """Name and command of what must hold on a GPU before its times mean anything."""
    tests = Path(__file__).resolve().parent.parent / "tests"
    if not tests.is_dir():  # installed without them
        return []
    parity = [str(tests / "augment" / "parity.py"), *_data(settings.photographs), "--device", "cuda"]
    return [("tests marked gpu", ["-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider"]), ("parity", parity)]


if __name__ == "__main__":
    main(program)
