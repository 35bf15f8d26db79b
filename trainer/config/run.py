"""What a training run is: one frozen dataclass, the only source of defaults. Light: `--help` imports nothing else.

A field that is None means "chosen by the run, which says what it chose and why".
"""

import re
from dataclasses import dataclass
from typing import Any

from augment.backends import NAMES as BACKENDS
from augment.stream.request import CACHES, CHECKS, ON_BAD
from augment.views.policy import Policy
from precompute.base.options import option, option_of

METHODS = ("cvsa", "byol", "mocov2", "simclr", "instloc", "looc", "rotpred", "relloc")
QUEUED = ("mocov2", "instloc", "looc")  # MoCo v2's way, with a queue of keys
QUEUE_MOMENTUM = 0.999  # of the network that makes them (He et al. 2020)
SGD = (*QUEUED, "rotpred", "relloc")  # methods whose papers train with SGD
CONTROLS = ("none", "shuffled-masks", "rolled-keys", "direct-head")

# What may differ between a run and its continuation, or its repetition: it does not enter the mathematics.
PLACES = ("boxes", "root", "maps", "backgrounds")  # where things lie
FREE = {
    *PLACES, "out", "device", "workers", "cache", "check", "on_bad", "log_every", "save_every", "tensorboard",
    "evaluate",
}  # fmt: skip

# What a policy takes from the flags of the same name.
POLICY_VALUES = (
    "mode", "size", "crop_scale", "paste_scale", "box_cap", "scene", "scene_scale", "colour", "group"
)  # fmt: skip
_BY_FLAG = re.compile(r"^(\w+)=([^:]*)")


@dataclass(frozen=True)
class LossPreset:
    """How Eqs 3-5 are computed. See METHOD.md, "CVSA loss"."""

    scale: str  # "raw": dot product; "sqrt": dot product / sqrt(d); "cosine": cosine / temperature
    temperature: float  # of "cosine" only
    reduction: str  # over the cells of one map: the paper's norm is a "sum"; "mean" weakens the term by the cell count
    weight: float  # of the alignment loss in Eq. 7
    mask: (
        str  # the δ of Eq. 5: "cover" (exact share of each cell) or "bilinear" (the letter; off by up to 0.7 in a cell)
    )


LOSS_PRESETS = {
    "paper": LossPreset("raw", 1.0, "sum", 1.0, "bilinear"),
    "stable": LossPreset("cosine", 0.1, "sum", 1.0, "cover"),
}

# What a preset sets instead of the defaults; flags that are given win over it.
PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    # A narrow net on small views: two minutes on two CPU cores show that the alignment localises.
    "demo": {
        "dataset": "demo",
        "arch": "resnet10w16",
        "size": 64,
        "scene": "whole",  # whose C maps are easier to learn: two minutes are short
        "own": 0.0,
        "batch_size": 32,
        "epochs": 36,
        "out": "runs/demo",
    },
    # The letter of the paper where METHOD.md departs from it, with its schedule for CUB and ResNet-50.
    "paper": {
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


@dataclass(frozen=True)
class RunConfig:
    """Settings of `trainer.run`. ValueError from `__post_init__` names the value, the valid ones and the remedy."""

    dataset: str | None = option(None, "name of a data set whose boxes are in cache/NAME.h5 (demo: made when missing)")
    boxes: str | None = option(None, "box file made by precompute.boxes")
    root: str | None = option(None, "image folder of the box file's paths; default: the one it was made with")
    train_split: str = option(
        "train", "split to train on; 'all' for every image; NAME/fit and NAME/dev: two thirds and one third of a split"
    )
    eval_split: str | None = option(None, "split held out for the evaluation at the end; default: test, else val")
    pipeline: str = option("auto", "what makes the views", choices=BACKENDS)
    policy: str = option_of(Policy, "name", flags=())
    maps: str | None = option(
        None, "folder of saliency maps, PATH-OF-THE-PICTURE.png, grey; used by --policy copy-paste only"
    )
    mode: str = option_of(Policy, "mode")
    size: int = option_of(Policy, "size")
    crop_scale: float | None = option_of(Policy, "crop_scale")
    paste_scale: float = option_of(Policy, "paste_scale")
    box_cap: float = option_of(Policy, "box_cap")
    # The paper shows backgrounds whole. Zoomed into, patches vary in place and size as test pictures do, and features
    # localise better at no cost in kNN accuracy (trainer/README.md).
    scene: str = option_of(Policy, "scene", default="zoom")
    scene_scale: float = option_of(Policy, "scene_scale")
    # A quarter of the views stay in their own scene: features localise better still, kNN within the noise (same place).
    own: float = option_of(Policy, "own", default=0.25)
    colour: str = option_of(Policy, "colour")
    group: int = option_of(Policy, "group")
    backgrounds: tuple[str, ...] = option((), "further box files whose images may be backgrounds, each with its folder")
    own_backgrounds: bool = option(True, "backgrounds from the training split too; --no-own-backgrounds: only others")
    cache: str = option("off", "keep decoded pictures from epoch to epoch: in memory or on the GPU", choices=CACHES)
    cache_side: int | None = option(None, "most pixels of a kept picture's longer side, so that more fit")
    check: str = option(
        "size", "what shows that a file is the one that boxes were made of: its size, or all of it", choices=CHECKS
    )
    on_bad: str = option("replace", "a file that went bad: another image in its place, or an error", choices=ON_BAD)
    workers: int | None = option(None, "threads of the pipeline; default: the machine's cores")

    method: str = option("cvsa", "training method", choices=METHODS)
    arch: str = option(
        "resnet18", "torchvision ResNet by name, or a narrow one such as resnet10w16 for small views on CPU"
    )
    init: str | None = option(
        None, "weights to start from (torchvision, timm, OpenMixup, ours): second stage of dual-stage"
    )
    freeze_stages: int = option(0, "keep the stem and this many ResNet stages as they are, their BN statistics too")
    align_stages: tuple[int, ...] = option((4,), "ResNet stages that are aligned: 3, 4 or both")
    dim: int = option(256, "width of projections and predictions (the paper's d)")
    hidden: int | None = option(None, "hidden width of the MLP heads; default 4096, less for narrow encoders")
    conv_hidden: int | None = option(None, "hidden width of the 1x1-conv heads; default 512, less for narrow encoders")

    loss: str = option("stable", "preset of the alignment loss", choices=tuple(LOSS_PRESETS))
    scale: str | None = option(None, "scale of the attention map; default by --loss", choices=("raw", "sqrt", "cosine"))
    temperature: float | None = option(None, "temperature of the cosine scale; default by --loss")
    reduction: str | None = option(None, "over the cells of a map; default by --loss", choices=("sum", "mean"))
    align_weight: float | None = option(None, "weight of the alignment loss; default by --loss")
    mask: str | None = option(None, "how masks reach the grid; default by --loss", choices=("cover", "bilinear"))
    control: str = option(
        "none", "control arm of the alignment, to see what the cross-view term buys", choices=CONTROLS
    )

    epochs: int = option(100, "passes over the training split")
    batch_size: int | None = option(None, "source images per step, over all processes")
    accumulate: int = option(1, "split a step's batch into this many parts to save memory (BN then sees a part)")
    optimizer: str | None = option(
        None, "default: lars; sgd for mocov2, instloc, looc, rotpred, relloc", choices=("lars", "sgd", "adamw")
    )
    base_lr: float | None = option(
        None, "peak learning rate per 256 images of batch; default: see the run's first lines"
    )
    bias_lr: float = option(0.024, "rate of biases and norms under LARS, as a share of the weights' rate")
    warmup_epochs: float | None = option(None, "linear warm-up; default 10, at most a tenth of the run")
    weight_decay: float | None = option(
        None, "default 1e-6 up to 300 epochs, else 1.5e-6; 1e-4 for mocov2, instloc, looc, rotpred, relloc"
    )
    momentum: float = option(0.9, "momentum of the optimizer")
    ema: float = option(
        0.996, "byol, cvsa: momentum of the target at the start (it rises to 1 by cosine); with a queue it is 0.999"
    )

    out: str = option("out/run", "folder of the run: metrics, checkpoints, encoder, figures")
    device: str = option("auto", "auto, cpu, cuda or cuda:N")
    amp: str = option("auto", "autocast", choices=("auto", "off", "bf16", "fp16"))
    compile: bool = option(False, "torch.compile the networks (pays off on CUDA in long runs)")
    seed: int = option(0, "seed of weights and views")
    log_every: int | None = option(None, "steps between log lines; default: 10 lines an epoch, about 50 a short run")
    save_every: int | None = option(
        None, "steps between checkpoints; default: every minute, less often where writing takes long"
    )
    tensorboard: bool = option(False, "write TensorBoard event files beside metrics.jsonl (the extra `tensorboard`)")
    evaluate: bool = option(True, "kNN accuracy and localisation figure at the end")

    def __post_init__(self) -> None:
        positive(
            self,
            "size",
            "epochs",
            "batch_size",
            "dim",
            "hidden",
            "conv_hidden",
            "accumulate",
            "log_every",
            "save_every",
            "cache_side",
        )
        positive(self, "base_lr", "bias_lr", "temperature", "workers", "crop_scale")
        _not_negative(self, "weight_decay", "align_weight", "warmup_epochs")
        for name in ("dim", "hidden", "conv_hidden"):
            if getattr(self, name) is not None:
                _in_range(self, name, 1, 65536)
        _in_range(self, "freeze_stages", 0, 4)
        _in_range(self, "ema", 0, 1)
        _in_range(self, "momentum", 0, 1)
        if self.crop_scale is not None:
            _in_range(self, "crop_scale", 0, 1)
        if not self.out:
            raise ValueError("--out '': name the folder of the run")
        if tuple(sorted(self.align_stages)) not in ((3,), (4,), (3, 4)):
            raise ValueError(f"--align-stages {self.align_stages}: valid stages are 3, 4 or both")
        if len(self.backgrounds) % 2:
            raise ValueError(
                f"--backgrounds {' '.join(self.backgrounds)}: each box file with its image folder, FILE DIR FILE DIR"
            )
        if not self.own_backgrounds and not self.backgrounds:
            raise ValueError("--no-own-backgrounds without --backgrounds FILE DIR: no backgrounds are left")
        if self.cache_side is not None and self.cache == "off":
            raise ValueError(f"--cache-side {self.cache_side} without a cache: add --cache ram, or gpu")
        if self.policy == "copy-paste" and self.maps is None:
            raise ValueError("--policy copy-paste without --maps: name the folder of its saliency maps with --maps DIR")
        _in_range(self, "seed", 0, 2**63 - 1)
        known_device(self.device)
        if self.method in ("cvsa", "instloc") and self.policy == "rrc":
            other = "saliencyswap, or --method byol" if self.method == "cvsa" else "instloc, or --method mocov2"
            raise ValueError(
                f"--method {self.method} --policy rrc: without a pasted rectangle there is nothing to align with. "
                f"Use --policy {other}"
            )
        self.views()
        if self.control != "none" and self.method != "cvsa":
            raise ValueError(
                f"--control {self.control} needs --method cvsa (given: {self.method}): it changes the alignment"
            )

    def views(self) -> Policy:
        """The augmentation policy that the flags ask for; ValueError names the flag that no view could be made with."""
        values = {name: getattr(self, name) for name in POLICY_VALUES}
        try:
            return Policy(
                name=self.policy,
                own=self.own if self.policy == "saliencyswap" or not 0 <= self.own <= 1 else 0.0,  # compare's for all
                # The usual 2 px belong to views of 224; on 64-pixel views they would wipe out what is to be seen.
                blur_sigma=(0.1, max(2.0 * min(self.size / 224, 1.0), 0.1)),
                **values,
            )
        except ValueError as error:
            raise ValueError(_BY_FLAG.sub(lambda m: f"--{m[1].replace('_', '-')} {m[2]}", str(error))) from error

    @property
    def maps_used(self) -> str | None:
        """--maps for the policy that takes them; trainer.compare hands it to all arms."""
        return self.maps if self.policy == "copy-paste" else None

    def alignment(self) -> LossPreset:
        """The loss preset with the options that were given on top."""
        base = LOSS_PRESETS[self.loss]
        return LossPreset(
            scale=self.scale or base.scale,
            temperature=self.temperature or base.temperature,
            reduction=self.reduction or base.reduction,
            weight=base.weight if self.align_weight is None else self.align_weight,
            mask=self.mask or base.mask,
        )


def positive(config: Any, *names: str) -> None:
    """ValueError for the first of these fields that is given and not above 0, or not finite."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not 0 < value < float("inf"):
            raise ValueError(f"--{name.replace('_', '-')} {value}: must be greater than 0, and finite")


def known_device(device: str) -> None:
    """ValueError for a name that no machine knows."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise ValueError(f"--device {device}: valid are auto, cpu, cuda and cuda:N")


def _not_negative(config: RunConfig, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if value is not None and not 0 <= value < float("inf"):
            raise ValueError(f"--{name.replace('_', '-')} {value}: must be at least 0, and finite")


def _in_range(config: RunConfig, name: str, low: float, high: float) -> None:
    value = getattr(config, name)
    if not low <= value <= high:
        raise ValueError(f"--{name.replace('_', '-')} {value}: must be within {low} and {high}")
