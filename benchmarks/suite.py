"""Every committed result by one command: the recipe of benchmarks/results, a program after the other.

python -m benchmarks.suite --boxes cache/cub.h5 --root data/CUB_200_2011 --out results        # this machine's CPU
python -m benchmarks.suite --boxes cache/cub.h5 --root data/CUB_200_2011 --out results --device cuda --minutes 9
python -m benchmarks.suite --boxes cache/cub.h5 --root data/CUB_200_2011 --only throughput-cpu-decode-apply

A result that is there already is kept (--again: measured anew), so an interrupted suite goes on where it was. What
follows an @ in the name of a committed result is where else its recipe was run: on other photographs, on another
machine. On CUDA the checks come first: the backends' parity there, and the decoder against queued kernels; then the
trainer's step, before what can be done without. They need 1,024 images.
"""

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.program import DataSettings, parse
from precompute.base.errors import UsageError
from precompute.base.options import option
from precompute.base.program import main

_LOADERS = ["--backends", "fused", "eager:linear", "dali", "--peers", "pillow", "opencv", "albumentations"]
_TRAIN = ["--backends", "fused:linear", "--peers", "opencv", "pillow", "--batch", "16", "--batches", "2"]
_RRC = ["--policy", "rrc", "--backends", "fused", "eager", "--peers", "lightly", "opencv", "torchvision"]
_ZOOM = ["--backends", "fused", "eager:linear", "dali", "--peers", "opencv", "pillow"]  # what trainer.run does
_CUDA = ["--device", "cuda", "--batch", "256", "--rounds", "1", "--repeats", "4", "--threads", "16"]
_STEP = ["--device", "cuda", "--steps", "12", "--repeats", "4"]  # a minute each, the compiler apart
_STREAM = ["--device", "cuda", "--batch", "256", "--threads", "16"]
_CACHED = [*_STEP, "--pipeline", "fused", "--cache", "gpu"]
_LARGE = ["--batch-size", "1024", "--steps", "6", "--split", "all"]  # the peer keeps 84 GiB for its backward pass
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
        "step-cuda-resnet50-compiled": ("step", [*_STEP, "--compile"]),
        "stream-cuda": ("stream", [*_STREAM, "--batches", "60", "--peers", "plain dali"]),
        "step-cuda-resnet18-compiled": ("step", [*_STEP, "--arch", "resnet18", "--compile"]),
        "step-cuda-resnet50": ("step", _STEP),
        "step-cuda-resnet18": ("step", [*_STEP, "--arch", "resnet18"]),
        "step-cuda-resnet18-fused-cached": ("step", [*_CACHED, "--arch", "resnet18", "--compile"]),
        "step-cuda-resnet50-1024": ("step", [*_CACHED, *_LARGE, "--compile"]),
        "throughput-cuda-decode-apply": ("throughput", [*_CUDA, "--peers", "plain dali"]),
        "throughput-cuda-apply": ("throughput", [*_CUDA, "--scope", "apply", "--peers", "kornia"]),
        "roofline-cuda": ("roofline", ["--device", "cuda", "--backends", "fused", "--batch", "256"]),
        "stream-cuda-long": ("stream", [*_STREAM, "--batches", "600", "--peers", "none"]),
    },
}


@dataclass(frozen=True)
class Settings(DataSettings):
    out: str | None = option(None, "folder of the results (default: results)")
    device: str = option("cpu", "which machine's part: cpu or cuda", choices=tuple(RECIPES))
    only: tuple[str, ...] = option((), "names of results; default: all of the device's")
    minutes: float | None = option(
        None, "end after this time: what runs then is cut off; it and what is left are named"
    )
    out_is_a_file = False
    again: bool = option(False, "measure what is there already, too")

    def __post_init__(self) -> None:
        super().__post_init__()
        if unknown := set(self.only) - set(RECIPES[self.device]):
            known = ", ".join(RECIPES[self.device])
            raise ValueError(f"--only {' '.join(sorted(unknown))}: on {self.device} there are {known}")
        if self.out is not None and Path(self.out).is_file():
            raise ValueError(f"--out {self.out}: is a file; name a folder")
        if self.minutes is not None and self.minutes <= 0:
            raise ValueError(f"--minutes {self.minutes:g}: must be above 0")


def program(argv: list[str] | None = None) -> int:
    """Runs what is missing; exit status 0 all there, 1 something failed or was left, 2 usage."""
    settings = parse(Settings, "benchmarks.suite", __doc__, argv)
    if settings.json:
        raise UsageError("--json: each result is a JSON file in --out already")
    folder = Path(settings.out or "results")
    began = time.monotonic()
    ended: dict[str, list[str]] = {"failed": [], "cut off": [], "left for want of time": []}
    todo: list[tuple[str, list[str]]] = [] if settings.device == "cpu" or settings.only else _checks(settings)
    for name in settings.only or RECIPES[settings.device]:
        path = folder / f"{name}.json"
        if path.exists() and not settings.again:
            settings.say(f"{name}: there already")
        else:
            todo.append((name, [*_command(settings, name), "--out", str(path)]))
    environment = {"PYTHONUNBUFFERED": "1"}
    if settings.device == "cuda":  # the tests of the decoder take the photographs that the rest is measured on
        environment |= {"GPU_TESTS_BOXES": settings.box_file, "GPU_TESTS_ROOT": str(settings.folder)}
    for name, command in todo:
        rest = None if settings.minutes is None else 60 * settings.minutes - (time.monotonic() - began)
        if rest is not None and rest <= 0:
            ended["left for want of time"].append(name)
            continue
        settings.say(f"\n== {name}: python {' '.join(command)}")
        try:
            if subprocess.run([sys.executable, *command], env=os.environ | environment, timeout=rest).returncode:
                ended["failed"].append(name)
        except subprocess.TimeoutExpired:
            ended["cut off"].append(name)
    for what, names in ended.items():
        if names:
            settings.say(f"{what}: {', '.join(names)}")
    return int(any(ended.values()))


def _data(settings: Settings, module: str = "") -> list[str]:
    """The flags that name the photographs, as the program takes them."""
    if module == "boxes_scale":  # makes its own
        return []
    if module == "search":  # times the making of boxes
        from precompute.base.boxfile import BoxCache

        return ["--dataset", BoxCache.open(settings.box_file).dataset, "--root", str(settings.folder)]
    return ["--boxes", settings.box_file, *([] if settings.root is None else ["--root", settings.root])]


def _command(settings: Settings, name: str) -> list[str]:
    module, flags = RECIPES[settings.device][name]
    return ["-m", f"benchmarks.{module}", *_data(settings, module), *flags]


def _checks(settings: Settings) -> list[tuple[str, list[str]]]:
    """What must hold on a GPU before its times mean anything."""
    tests: list[tuple[str, list[str]]] = []
    if (Path(__file__).resolve().parent.parent / "tests").is_dir():
        tests.append(("tests marked gpu", ["-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider"]))
    parity: Any = ["-m", "benchmarks.parity", *_data(settings), "--device", "cuda"]
    return [*tests, ("parity on CUDA", parity)]


if __name__ == "__main__":
    main(program)
