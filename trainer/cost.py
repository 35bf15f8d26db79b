"""What a step costs in arithmetic, and what share of the device's peak a run reaches (MFU)."""

import copy

import torch
from torch.utils.flop_counter import FlopCounterMode

from trainer.methods import Method

# Dense bf16/fp16 tensor-core peaks in FLOP/s, from NVIDIA's data sheets (no sparsity).
PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "RTX 4090": 165e12, "RTX 3090": 71e12}


@torch.no_grad()
def step_flops(method: Method, size: int, views: int = 2) -> float:
    """FLOPs (two per multiply-add) of one training step per source image: forward + backward = 3 forwards online."""
    total = 0.0
    for network, passes in ((method.online, 3 * views), (method.target, views)):
        if network is not None:
            twin = copy.deepcopy(network).to("meta").eval()
            twin.compiled = False  # what is compiled is not counted
            with FlopCounterMode(display=False) as counter:
                twin(torch.empty(1, 3, size, size, device="meta"))
            total += passes * counter.get_total_flops()
    return total


def peak_flops(device_name: str, amp: str) -> float | None:
    """The device's peak for this autocast, or None where it is not known."""
    if amp == "off":
        return None
    return next((peak for name, peak in PEAKS.items() if name in device_name), None)
