"""Named sets of values for whole runs (`--preset`)."""

from typing import Any

# What a preset sets instead of the defaults, by flag name. Flags that are given win over it.
PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    # A narrow net on small views: two minutes on two CPU cores show that classes and places are learned.
    "demo": {
        "dataset": "demo",
        "method": "matching",
        "arch": "resnet10w16",
        "size": 48,
        "batch_size": 32,
        "epochs": 30,
        "out": "runs/demo",
    },
    # The letter of the paper where our defaults depart from it, with its schedule for CUB and ResNet-50.
    "paper": {
        "method": "cvsa",
        "arch": "resnet50",
        "loss": "paper",
        "scene": "whole",
        "own": 0.0,
        "box_cap": 1.0,
        "colour": "torchvision",
        "batch_size": 1024,
        "epochs": 800,
        "base_lr": 0.6,
        "bias_lr": 1.0,
        "warmup_epochs": 10.0,
        "conv_hidden": 4096,
    },
}
