"""What a step costs in arithmetic, and what share of the device's peak a run reaches (MFU)."""

import sys

import torch

from trainer.methods.base import Method

# Dense bf16/fp16 tensor-core peaks in FLOP/s, from NVIDIA's data sheets (no sparsity).
PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "RTX 4090": 165e12, "RTX 3090": 71e12}


def step_flops(method: Method, size: int) -> float:
    """FLOPs (two per multiply-add) of one training step per source image: forward + backward = 3 forwards online."""
    image = torch.empty(1, 3, size, size, device="meta")
    with torch.random.fork_rng(devices=[]):  # `sees` may draw, and a continuation, which counts again, must not differ
        seen = method.sees(image)
    total = 3 * method.online.flops(seen)
    return total + (method.target_views * method.target.flops(image) if method.target is not None else 0)


def peak_memory(device: str) -> float | None:
    """Peak memory in GiB: CUDA allocations since `restart_peak_memory`, or this process's resident set on Linux."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device) / 2**30
    if not sys.platform.startswith("linux"):  # other systems count in other units
        return None
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def restart_peak_memory(device: str) -> None:
    """From here on `peak_memory` counts anew, on a GPU: several runs may follow each other in one process."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)


def peak_flops(device_name: str, amp: str) -> float | None:
    """The device's peak for this autocast, or None where it is not known."""
    if amp == "off":
        return None
    return next((peak for name, peak in PEAKS.items() if name in device_name), None)
