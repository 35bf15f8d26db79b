"""What the machine is: what can be imported and how long that takes, the GPU, and its rates of copying and multiplying.

python -m benchmarks.device --device cuda
"""

import importlib
import json
import time
from dataclasses import dataclass
from typing import Any

from benchmarks import harness
from benchmarks.program import Photographs, parse
from precompute.base.errors import UserError
from precompute.base.options import group, option
from precompute.base.program import main

MODULES = ("torch", "numpy", "h5py", "torchvision", "triton", "nvidia.dali.fn", "kornia")


@dataclass(frozen=True)
class DeviceSettings:
    """The program's settings and their only defaults."""

    photographs: Photographs = group(Photographs, "photographs")
    device: str = option("cpu", "what is looked at", choices=("cpu", "cuda"))


def program(argv: list[str] | None = None) -> int:
    """Prints a JSON line for every part; exit status 0 done, 1 the device cannot be used, 2 usage."""
    settings = parse(DeviceSettings, "benchmarks.device", __doc__, argv)
    print(json.dumps({"imports": imports()}), flush=True)
    import torch

    if settings.device == "cuda" and not torch.cuda.is_available():
        raise UserError(f"torch {torch.__version__} (CUDA {torch.version.cuda}) sees no GPU")
    print(json.dumps(harness.facts()), flush=True)
    print(json.dumps({"photographs": photographs(settings.photographs)}), flush=True)
    print(json.dumps({"rates": rates(settings.device)}), flush=True)
    return 0


def imports() -> dict[str, Any]:
    """Seconds that each module took, or why it cannot be imported."""
    found: dict[str, Any] = {}
    for name in MODULES:
        began = time.perf_counter()
        try:
            importlib.import_module(name)
            found[name] = round(time.perf_counter() - began, 2)
        except Exception as error:  # whatever a broken package raises
            found[name] = f"{type(error).__name__}: {error}"
    return found


def photographs(wanted: Photographs) -> dict[str, Any]:
    """How many, and their mean size as files and as pictures: decoding depends on both."""
    images = wanted.images()
    some = range(min(len(images), 64))
    return {
        "count": len(images),
        "mean_kilobytes": round(sum(len(images.read(row)) for row in some) / len(some) / 1e3, 1),
        "mean_megapixels": round(float((images.pool.widths * images.pool.heights).mean()) / 1e6, 3),
    }


def rates(device: str) -> dict[str, float]:
    """Gigabytes a second of a large copy (read and written), and float32 multiplications in 1e9 a second."""
    import torch

    from benchmarks.roofline import rulers

    arms, copied, multiplied = rulers(torch.device(device))
    harness.measure(arms, 3)
    seconds = {arm.name: harness.spread(arm.wall_ms)["median"] / 1e3 for arm in arms}
    return {
        "copy_gigabytes_per_second": round(copied / seconds["copy"] / 1e9, 1),
        "gigaoperations_per_second": round(multiplied / seconds["multiply"] / 1e9, 1),
    }


if __name__ == "__main__":
    main(program)
