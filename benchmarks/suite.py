"""Every committed result by one command: the recipe of benchmarks/results, a program after the other.

python -m benchmarks.suite --boxes cache/cub.h5 --root data/CUB_200_2011 --out results        # this machine's CPU
python -m benchmarks.suite --boxes cache/cub.h5 --root data/CUB_200_2011 --out results --device cuda --minutes 9
python -m benchmarks.suite --boxes cache/cub.h5 --root data/CUB_200_2011 --only throughput-cpu-decode-apply

A result that is there already is kept (--again: measured anew), so an interrupted suite goes on where it was. What
follows an @ in the name of a committed result is where else its recipe was run: on other photographs, on another
machine. On CUDA the checks come first: the backends' parity there, and the decoder against queued kernels. They need
1,024 images.
"""

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.program import DataSettings, parse
from precompute.cli import UsageError, main, option

_LOADERS = ["--backends", "fused", "eager:linear", "dali", "--peers", "pillow", "opencv", "albumentations"]
_TRAIN = ["--backends", "fused:linear", "--peers", "opencv", "pillow", "--batch", "16", "--batches", "2"]
_RRC = ["--policy", "rrc", "--backends", "fused", "eager", "--peers", "lightly", "opencv", "torchvision"]
_ZOOM = ["--backends", "fused", "eager:linear", "dali", "--peers", "opencv", "pillow"]  # what trainer.run does
# Name of the result: program and its flags; the data's flags and --out are added.
RECIPES: dict[str, dict[str, tuple[str, list[str]]]] = {
    "cpu": {
        "throughput-cpu-decode-apply": ("throughput", ["--scope", "decode+apply"]),
        "throughput-cpu-apply": ("throughput", ["--scope", "apply"]),
        "throughput-cpu-loader": ("throughput", ["--scope", "loader", *_LOADERS]),
        "throughput-cpu-rrc": ("throughput", _RRC),
        "throughput-cpu-zoom": ("throughput", ["--scene", "zoom", *_ZOOM]),
        "throughput-cpu-train": ("throughput", ["--scope", "train", *_TRAIN, "--size", "128", "--repeats", "5"]),
        "stream-cpu": ("stream", []),
        "roofline-cpu": ("roofline", []),
        "step-cpu": ("step", []),
        "sweep-cpu-batch": ("sweep", ["--over", "batch"]),
        "sweep-cpu-size": ("sweep", ["--over", "size"]),
        "sweep-cpu-image": ("sweep", ["--over", "image", "--repeats", "3"]),
        "sweep-cpu-images": ("sweep", ["--over", "images"]),
        "sweep-cpu-threads": ("sweep", ["--over", "threads", "--samples", "128"]),
        "search-cpu": ("search", []),
        "boxes-scale": ("boxes_scale", []),
    },
    "cuda": {
        "stream-cuda": ("stream", ["--device", "cuda", "--batch", "256", "--batches", "300", "--threads", "16"]),
        "throughput-cuda-apply": ("throughput", ["--device", "cuda", "--scope", "apply", "--batch", "256"]),
        "throughput-cuda-decode-apply": ("throughput", ["--device", "cuda", "--batch", "256"]),
        "roofline-cuda": ("roofline", ["--device", "cuda", "--backends", "fused", "--batch", "256"]),
        "step-cuda-resnet50": ("step", ["--device", "cuda"]),
        "step-cuda-resnet50-compiled": ("step", ["--device", "cuda", "--compile"]),
        "step-cuda-resnet18": ("step", ["--device", "cuda", "--arch", "resnet18"]),
        "stream-cuda-long": ("stream", ["--device", "cuda", "--batch", "256", "--batches", "1200", "--threads", "16"]),
    },
}


@dataclass(frozen=True)
class Settings(DataSettings):
    device: str = option("cpu", "which machine's part: cpu or cuda", choices=tuple(RECIPES))
    only: tuple[str, ...] = option((), "names of results; default: all of the device's")
    minutes: float | None = option(None, "begin nothing more after this time; what is left is named")
    again: bool = option(False, "measure what is there already, too")

    def __post_init__(self) -> None:
        super().__post_init__()
        if unknown := set(self.only) - set(RECIPES[self.device]):
            known = ", ".join(RECIPES[self.device])
            raise ValueError(f"--only {' '.join(sorted(unknown))}: on {self.device} there are {known}")
        if self.minutes is not None and self.minutes <= 0:
            raise ValueError(f"--minutes {self.minutes:g}: must be above 0")


def program(argv: list[str] | None = None) -> int:
    """Runs what is missing; exit status 0 all there, 1 something failed or was left, 2 usage."""
    settings = parse(Settings, "benchmarks.suite", __doc__, argv)
    if settings.json:
        raise UsageError("--json: each result is a JSON file in --out already")
    folder = Path(settings.out or "results")
    began, ended = time.monotonic(), {"failed": [], "left for want of time": []}
    todo: list[tuple[str, list[str]]] = [] if settings.device == "cpu" or settings.only else _checks(settings)
    for name in settings.only or RECIPES[settings.device]:
        path = folder / f"{name}.json"
        if path.exists() and not settings.again:
            settings.say(f"{name}: there already")
        else:
            todo.append((name, [*_command(settings, name), "--out", str(path)]))
    for name, command in todo:
        if settings.minutes is not None and time.monotonic() - began > 60 * settings.minutes:
            ended["left for want of time"].append(name)
            continue
        settings.say(f"\n== {name}: python {' '.join(command)}")
        if subprocess.run([sys.executable, *command], env=os.environ | {"PYTHONUNBUFFERED": "1"}).returncode:
            ended["failed"].append(name)
    for what, names in ended.items():
        if names:
            settings.say(f"{what}: {', '.join(names)}")
    return int(any(ended.values()))


def _data(settings: Settings, module: str = "") -> list[str]:
    """The flags that name the photographs, as the program takes them."""
    if module == "boxes_scale":  # makes its own
        return []
    if module == "search":  # times the making of boxes
        from precompute.cache import BoxCache

        return ["--dataset", BoxCache.open(settings.box_file).dataset, "--root", str(settings.folder)]
    return ["--boxes", settings.box_file, "--root", str(settings.folder)]


def _command(settings: Settings, name: str) -> list[str]:
    module, flags = RECIPES[settings.device][name]
    return ["-m", f"benchmarks.{module}", *_data(settings, module), *flags]


def _checks(settings: Settings) -> list[tuple[str, list[str]]]:
    """What must hold on a GPU before its times mean anything."""
    tests: list[tuple[str, list[str]]] = []
    if (Path(__file__).resolve().parent.parent / "tests").is_dir():
        tests.append(("tests marked gpu", ["-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider"]))
    parity: Any = ["-m", "augment.parity", *_data(settings), "--device", "cuda"]
    return [*tests, ("parity on CUDA", parity)]


if __name__ == "__main__":
    main(program)
