"""LARS in place without host syncs, parameter groups, and the schedules as pure functions of the step."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

TRUST = 1e-3  # LARS's η
EPS = 1e-8


class Lars(Optimizer):
    """Layer-wise adaptive rate scaling (You et al. 2017), equal to `timm.optim.Lars`, as foreach operations in place.

    A group with `adapt=False` (biases and norms) is plain SGD with momentum. The trust ratio
    η‖w‖ / (‖g‖ + wd·‖w‖) never leaves the device: no `.item()`, where lightly's and solo-learn's sync twice per tensor.
    Not timm's own, which lacks the defaults of old checkpoints' groups and whose import loads all of timm's models.
    """

    def __init__(self, params: Any, lr: float, momentum: float = 0.9, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "adapt": True})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            update = [p.grad for p in params]
            if group["adapt"]:
                update = _scaled(params, update, group["weight_decay"])
            elif group["weight_decay"]:
                update = list(torch._foreach_add(update, params, alpha=group["weight_decay"]))
            buffers = self._momentum(params)
            torch._foreach_mul_(buffers, group["momentum"])
            torch._foreach_add_(buffers, update)
            torch._foreach_add_(params, buffers, alpha=-group["lr"])

    def _momentum(self, params: list[Tensor]) -> list[Tensor]:
        for p in params:
            if "momentum_buffer" not in self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        return [self.state[p]["momentum_buffer"] for p in params]


def _scaled(params: list[Tensor], grads: list[Tensor], weight_decay: float) -> list[Tensor]:
    """(g + wd·w) times its trust ratio, new tensors; ratio 1 where a norm is zero."""
    w_norm = torch.stack(torch._foreach_norm(params))
    g_norm = torch.stack(torch._foreach_norm(grads))
    ratio = TRUST * w_norm / (g_norm + weight_decay * w_norm + EPS)
    ratio = torch.where((w_norm > 0) & (g_norm > 0), ratio, torch.ones_like(ratio))
    update = torch._foreach_add(grads, params, alpha=weight_decay)
    torch._foreach_mul_(update, list(ratio.unbind()))
    return list(update)


def parameter_groups(modules: Iterable[nn.Module], weight_decay: float) -> list[dict[str, Any]]:
    """Trainable parameters in two groups: weights, and biases and norms (no decay, no LARS)."""
    params = [p for module in modules for p in module.parameters() if p.requires_grad]
    return [
        {"params": [p for p in params if p.ndim > 1], "weight_decay": weight_decay, "adapt": True},
        {"params": [p for p in params if p.ndim <= 1], "weight_decay": 0.0, "adapt": False},
    ]


def build_optimizer(
    name: str, modules: Iterable[nn.Module], weight_decay: float, momentum: float, bias_lr: float = 1.0
) -> Optimizer:
    """ "lars", "sgd" or "adamw"; the learning rate is set before every step (`set_lr`).

    `bias_lr` is the rate of biases and norms as a share of the weights', under LARS only. These are not scaled by
    LARS, so at the weights' rate of 2.4 they are driven by plain SGD, and the summed alignment loss drives them into
    saturation (C = 1 everywhere on two epochs of CUB). 0.024 is the share in Barlow Twins' and VICReg's own code.
    """
    groups = parameter_groups(modules, weight_decay)
    if name == "lars":
        groups[1]["lr_share"] = bias_lr
        return Lars(groups, lr=0.0, momentum=momentum)
    for group in groups:
        del group["adapt"]
    if name == "sgd":
        return torch.optim.SGD(groups, lr=0.0, momentum=momentum, foreach=True)
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=0.0, foreach=True)
    raise ValueError(f"Unknown value {name!r} for optimizer. Valid values are lars, sgd, adamw.")


def set_lr(optimizer: Optimizer, lr: float) -> None:
    """The rate of every group: `lr`, or its share of it."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_share", 1.0)


def learning_rate(step: int, steps: int, warmup: int, peak: float) -> float:
    """Linear warm-up over `warmup` steps, then a cosine to 0 at `steps`. Step 0 already moves."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))


def ema_momentum(step: int, steps: int, base: float) -> float:
    """BYOL's 1 - (1 - base)·(cos(π·step/steps) + 1)/2: from `base` to 1."""
    return 1 - (1 - base) * (math.cos(math.pi * step / steps) + 1) / 2
