#!/usr/bin/env bash
# What: what layer_decay of timm's create_optimizer_v2 does under timm's scheduler, under torch's and under none.
# Versions: timm 1.0.31, torch 2.11.0 (CPU), torchvision 0.26.0, numpy 2.4.6. Date: 2026-11-30.
# A good guess: the optimizer's groups get their own learning rates, and any scheduler scales these; the text says that
# learning rates "will be scaled by" the decay to the power of the depth.
# Seen: each group has the full rate and an entry lr_scale, which no optimizer reads, only timm's own schedulers. With
# torch's CosineAnnealingLR (as with Lightning or accelerate), or at a constant rate, three steps with layer_decay=0.5
# give the very bits that they give without it. Under timm's CosineLRScheduler the first convolution of a ResNet-18
# moves 380 times less, as it should. Nothing is said; a closed pull request of timm (2532) tells of it, its pages do
# not. Multiply each group's lr by its lr_scale before torch's scheduler is made.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check timm==1.0.31 torch==2.11.0 torchvision==0.26.0 numpy==2.4.6
cat > "$work/try.py" <<'PY'
import warnings

import timm
import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import CosineAnnealingLR

warnings.simplefilter("error")
torch.manual_seed(0)
torch.set_num_threads(1)
pictures, labels = torch.randn(8, 3, 64, 64), torch.arange(8)
net = timm.create_model("resnet18", num_classes=10)
start = {name: value.clone() for name, value in net.state_dict().items()}
watched = "conv1.weight", "layer2.0.conv1.weight", "fc.weight"


def train(scheduler, decay, by_hand=False):
    """Three epochs of one step; the weights after them and the rates of the groups."""
    net.load_state_dict(start)
    optimizer = create_optimizer_v2(net, "adamw", lr=1e-3, weight_decay=0.05, layer_decay=decay)
    if by_hand:
        for group in optimizer.param_groups:
            group["lr"] *= group["lr_scale"]
    schedule = {"timm": lambda: CosineLRScheduler(optimizer, 10), "torch": lambda: CosineAnnealingLR(optimizer, 10),
                "none": lambda: None}[scheduler]()
    for epoch in range(3):
        optimizer.zero_grad()
        cross_entropy(net(pictures), labels).backward()
        optimizer.step()
        if scheduler == "timm":
            schedule.step(epoch + 1)
        elif scheduler == "torch":
            schedule.step()
    return {n: p.detach().clone() for n, p in net.named_parameters()}, {g["lr"] for g in optimizer.param_groups}


def moved(weights):
    return {name: (weights[name] - start[name]).abs().mean().item() for name in watched}


print("timm", timm.__version__, "torch", torch.__version__, "- mean change of", ", ".join(watched))
far = {}
for scheduler, by_hand in (("timm", False), ("torch", False), ("none", False), ("torch", True)):
    plain, _ = train(scheduler, None)
    decayed, rates = train(scheduler, 0.5, by_hand)
    equal = all(torch.equal(plain[name], decayed[name]) for name in plain)
    far[scheduler, by_hand] = moved(plain)["conv1.weight"] / moved(decayed)["conv1.weight"]
    print(f"  scheduler {scheduler}{', lr multiplied by hand' if by_hand else ''}:",
          " ".join(f"{value:.1e}" for value in moved(decayed).values()), f"- rates: {len(rates)}, same bits as without",
          f"layer_decay: {equal}; conv1 moves {far[scheduler, by_hand]:.1f} times less")
    assert equal == (scheduler != "timm" and not by_hand), "the behaviour has changed"
    assert len(rates) == (1 if equal else 10), "the behaviour has changed"
assert far["timm", False] > 100 and far["torch", True] > 100, "the behaviour has changed"
PY
"$work/venv/bin/python" "$work/try.py"
