"""The configuration of a training run: frozen dataclasses, the only source of defaults and of `trainer.run`'s flags.

A field that is None means "chosen by the run, which says what it chose and why" (`trainer.config.choices`).
Checkpoints, metrics.jsonl and weights files hold a configuration as flat values by flag name (`as_json`).
Nothing here imports torch.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from augment.request import Making, Source
from augment.views.kinds import KINDS
from augment.views.policy import Policy
from precompute.base.errors import BadValue, UsageError
from precompute.base.options import build, group, option, option_of, values_of
from trainer.methods.loss_presets import CONTRASTS, LOSS_PRESETS, REDUCTIONS, LossPreset, MatchLoss
from trainer.methods.registry import METHOD_OPTIONS, METHODS, MethodRecord, defaults_of, methods_with

WIDEST = 65536  # of a head: more is a slip of the keyboard, which memory would pay for
CONTROLS = ("none", *dict.fromkeys(control for record in METHODS.values() for control in record.controls))

# What may differ between a run and its continuation, or its repetition: it does not enter the mathematics.
PLACES = ("boxes", "root", "maps", "backgrounds")  # where things lie
FREE = {
    *PLACES, "out", "device", "workers", "cache", "cache_bytes", "cache_dir", "service", "address", "check", "on_bad",
    "log_every", "save_every", "tensorboard", "evaluate",
}  # fmt: skip


@dataclass(frozen=True)
class DataConfig:
    """The images that a run learns from and is evaluated on."""

    dataset: str | None = option(None, "name of a data set whose boxes are in cache/NAME.h5 (demo: made when missing)")
    boxes: str | None = option_of(Source, "boxes")
    root: str | None = option_of(Source, "root")
    train_split: str = option(
        "train", "split to train on; 'all' for every image; NAME/fit and NAME/dev: two thirds and one third of a split"
    )
    eval_split: str | None = option(None, "split held out for the evaluation; default: test, else val")
    maps: str | None = option_of(Source, "maps")
    backgrounds: tuple[str, ...] = option_of(Source, "backgrounds")
    own_backgrounds: bool = option_of(Source, "own_backgrounds")

    def __post_init__(self) -> None:
        # Source checks the backgrounds.
        Source(backgrounds=self.backgrounds, own_backgrounds=self.own_backgrounds).background_sets  # noqa: B018


@dataclass(frozen=True)
class ModelConfig:
    """The training method and its networks."""

    method: str = option("matching", "training method", choices=METHODS)
    arch: str = option(
        "resnet18",
        "torchvision ResNet by name (stride 32), with a 3x3 stem of stride 1 as resnet18_cifar (stride 8), or a narrow "
        "one such as resnet10w16 for small views on CPU (3x3 stem of stride 2, stride 8)",
    )
    init: str | None = option(None, "weights to start from (torchvision, timm, OpenMixup, ours): dual-stage training")
    freeze_stages: int = option(
        0, "keep the stem and this many ResNet stages as they are, their BN statistics too", least=0, most=4
    )
    dim: int = option(256, "width of projections and predictions (the paper's d)", least=1, most=WIDEST)
    hidden: int | None = option(
        None, "hidden width of the MLP heads; default 4096, less for narrow encoders", least=1, most=WIDEST
    )
    conv_hidden: int | None = option(
        None, "hidden width of the 1x1-conv heads; default 512, less for narrow encoders", least=1, most=WIDEST
    )
    ema: float = option(
        0.996, f"{methods_with('ema')}: momentum of the target at the start (it rises to 1 by cosine)", least=0, most=1
    )

    @property
    def record(self) -> MethodRecord:
        """What is special about the method."""
        return METHODS[self.method]


@dataclass(frozen=True)
class LossConfig:
    """How correspondence maps are aligned with masks."""

    loss: str = option("stable", "preset of the alignment loss", choices=LOSS_PRESETS)
    scale: str | None = option(None, "scale of the attention map; default by --loss", choices=("raw", "sqrt", "cosine"))
    temperature: float | None = option(None, "temperature of the cosine scale; default by --loss", above=0)
    reduction: str | None = option(
        None, f"over the cells of a map (scaled: the sum as if of 6x6); default by --loss{defaults_of('reduction')}",
        choices=REDUCTIONS,
    )  # fmt: skip
    align_weight: float | None = option(
        None, f"weight of the alignment loss; default by --loss{defaults_of('align_weight')}", least=0
    )
    mask: str | None = option(None, "how masks reach the grid; default by --loss", choices=("cover", "bilinear"))
    align_stages: tuple[int, ...] = option((4,), "ResNet stages that are aligned: 3, 4 or both")
    control: str = option("none", "control arm: shows what the cross-view terms buy", choices=CONTROLS)
    contrast: str = option(MatchLoss.contrast, "matching: loss of whole views", choices=CONTRASTS)
    dense_weight: float = option(MatchLoss.weight, "matching: weight of the loss between corresponding cells", least=0)
    dense_temperature: float = option(MatchLoss.temperature, "matching: temperature of its InfoNCE losses", above=0)

    def __post_init__(self) -> None:
        if tuple(sorted(self.align_stages)) not in ((3,), (4,), (3, 4)):
            raise BadValue("align_stages", self.align_stages, "3, 4 or both")

    @property
    def alignment(self) -> LossPreset:
        """The preset with the options that were given in place of its own."""
        preset = LOSS_PRESETS[self.loss]
        return LossPreset(
            scale=self.scale or preset.scale,
            temperature=self.temperature or preset.temperature,
            reduction=self.reduction or preset.reduction,
            weight=preset.weight if self.align_weight is None else self.align_weight,
            mask=self.mask or preset.mask,
        )

    @property
    def matching(self) -> MatchLoss:
        """The losses of methods that match."""
        return MatchLoss(self.contrast, self.dense_weight, self.dense_temperature)

    def acts_on(self, control: str, record: MethodRecord) -> bool:
        """Whether a control changes anything: whether a term that it spoils has a weight."""
        aligned, dense = self.alignment.weight > 0, record.matches and self.dense_weight > 0
        return {"none": True, "wrong-cells": dense, "rolled-keys": aligned or dense}.get(control, aligned)

    def idle(self) -> Iterator[tuple[str, str]]:
        """(option, what it belongs to) for every option that changes nothing beside the others."""
        if self.control == "direct-head":
            yield "scale", "the attention map, and --control direct-head has none"
        if self.control == "direct-head" or self.alignment.scale != "cosine":
            yield "temperature", "--scale cosine of an attention map"
        if self.contrast == "cosine" and not self.dense_weight:
            yield "dense_temperature", "the InfoNCE losses, and there is none"


@dataclass(frozen=True)
class ScheduleConfig:
    """Batches, optimizer and learning rate."""

    epochs: int = option(100, "passes over the training split", above=0)
    batch_size: int | None = option(None, "source images per step, over all processes", above=0)
    accumulate: int = option(
        1, "split a step's batch into this many parts to save memory (BN then sees a part)", above=0
    )
    optimizer: str | None = option(
        None,
        f"default: lars; sgd for {', '.join(name for name, method in METHODS.items() if method.optimizer == 'sgd')}",
        choices=("lars", "sgd", "adamw"),
    )
    base_lr: float | None = option(
        None, "peak rate per 256 images of batch; default: see the run's first lines", above=0
    )
    bias_lr: float = option(0.024, "rate of biases and norms under LARS, as a share of the weights' rate", above=0)
    warmup_epochs: float | None = option(None, "linear warm-up; default 10, at most a tenth of the run", least=0)
    weight_decay: float | None = option(
        None, "default 1e-6 up to 300 epochs, else 1.5e-6; 1e-4 for methods trained with sgd by default", least=0
    )
    momentum: float = option(0.9, "momentum of the optimizer", least=0, most=1)


@dataclass(frozen=True)
class RunOptions:
    """Where a run writes, how it computes, and what it does besides training."""

    out: str = option("out/run", "folder of the run: metrics, checkpoints, encoder, figures")
    amp: str = option("auto", "autocast", choices=("auto", "off", "bf16", "fp16"))
    compile: bool = option(False, "torch.compile the networks (pays off on CUDA in long runs)")
    compile_mode: str = option(
        "default",
        "how --compile does it; reduce-overhead: with CUDA graphs (benchmarks.step --modes says what is best)",
        choices=("default", "reduce-overhead"),
    )
    seed: int = option(0, "seed of weights and views", least=0, most=2**63 - 1)
    log_every: int | None = option(
        None, "steps between log lines; default: 10 lines an epoch, about 50 a short run", above=0
    )
    save_every: int | None = option(
        None, "steps between checkpoints; default: a minute, more where writing is slow", above=0
    )
    tensorboard: bool = option(False, "write TensorBoard event files beside metrics.jsonl (the extra `tensorboard`)")
    evaluate: bool = option(True, "kNN accuracy and localisation figure at the end")

    def __post_init__(self) -> None:
        if not self.out:
            raise BadValue("out", "", "the name of a folder")

    @property
    def compiled(self) -> str | None:
        """The mode of torch.compile; None: the networks run as they are."""
        return self.compile_mode if self.compile else None


@dataclass(frozen=True)
class RunConfig:
    """Settings of `trainer.run`. Made by `RunConfig.of`, which settles the values that depend on others."""

    data: DataConfig = group(DataConfig, "data")
    # The paper shows backgrounds whole. Zoomed into, patches vary in place and size as test pictures do, and features
    # localise better at no cost in kNN accuracy. With a quarter of the views in their own scene they localise better
    # still, kNN within the noise (trainer/README.md).
    views: Policy = group(Policy, "views", hidden=("views", "mean", "std", "shared", "rotate"), scene="zoom", own=0.25)
    making: Making = group(Making, "making of views")
    model: ModelConfig = group(ModelConfig, "method and networks")
    loss: LossConfig = group(LossConfig, "alignment loss (of methods that align)")
    schedule: ScheduleConfig = group(ScheduleConfig, "schedule and optimizer")
    run: RunOptions = group(RunOptions, "run")

    def __post_init__(self) -> None:
        method, policy = self.model.method, self.views.name
        Source(maps=self.maps_used).check_maps(self.views)
        # A method that matches cells has something to learn from without an alignment.
        idle = self.model.record.matches and self.loss.alignment.weight == 0
        if (why := self.model.record.needs_pasting) and not self.views.kind.pastes and not idle:
            valid = [name for name, kind in KINDS.items() if kind.pastes]
            raise BadValue("name", policy, valid, f"With --method {method} and nothing pasted {why}")
        if (control := self.loss.control) not in (controls := ("none", *self.model.record.controls)):
            able = " or ".join(record.name for record in METHODS.values() if control in record.controls)
            raise BadValue(
                "control", control, f"{', '.join(controls)} for --method {method}", f"{control} needs --method {able}"
            )
        if not self.loss.acts_on(control, self.model.record):
            valid = [name for name in controls if self.loss.acts_on(name, self.model.record)]
            raise BadValue("control", control, valid, "It spoils a term whose weight is 0, so it would change nothing")

    @classmethod
    def of(cls, values: Mapping[str, Any] | None = None, /, **more: Any) -> "RunConfig":
        """The configuration with these values, by flag name, and defaults for the rest.

        Values that depend on others, where they are not given: the usual blur of 2 px belongs to views of 224 and
        shrinks with smaller ones, of which it would leave nothing to be seen. A method may have defaults of its own for
        the alignment. `own` is 0 for policies without own scenes, also where it is given (`trainer.compare` gives one
        to all its arms).

        Raises BadValue for a value that no run could have.
        """
        values = _with_defaults_of_method(values or {}, more)
        checked = build(Policy, {name: values[name] for name in ("size", "own") if name in values})
        values = {"blur_sigma": (0.1, max(2.0 * min(checked.size / 224, 1.0), 0.1)), **values}
        kind = KINDS.get(values.get("policy", Policy.name))
        if kind is not None and not kind.own_scenes:
            values["own"] = 0.0
        return build(cls, values)

    @property
    def maps_used(self) -> str | None:
        """--maps for the policy that takes them; `trainer.compare` gives them to all its arms."""
        return self.data.maps if self.views.kind.maps else None

    def idle(self) -> Iterator[tuple[str, str]]:
        """(option, what it belongs to) for every option that changes nothing in this run."""
        yield from self.views.idle()
        yield from self.loss.idle()
        if not self.views.kind.pastes:
            yield "backgrounds", "policies that paste"
        if not self.views.kind.maps:
            yield "maps", "--policy copy-paste"
        for name in sorted(METHOD_OPTIONS.difference(self.model.record.options)):
            yield name, f"--method {methods_with(name)}"
        if self.model.record.aligns and not self.loss.alignment.weight:
            for name in ("loss", "scale", "temperature", "reduction", "mask"):
                yield name, "the alignment, and --align-weight is 0"
        optimizer = self.schedule.optimizer or self.model.record.optimizer
        if optimizer != "lars":
            yield "bias_lr", "--optimizer lars"
        if optimizer == "adamw":
            yield "momentum", "--optimizer lars and sgd"
        if not self.run.evaluate:
            yield "eval_split", "the evaluation, and there is none"

    def idle_notes(self, given: Collection[str]) -> list[str]:
        """One sentence for every option among those `given` that changes nothing, so that nobody counts on it."""
        idle = dict(self.idle())
        return [
            f"--{name.replace('_', '-')} changes nothing in this run: it belongs to {idle[name]}"
            for name in values_of(self)
            if name in given and name in idle
        ]


def _with_defaults_of_method(stored: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """The values, those of `more` first, with the method's own defaults for None. `reduction` always has a name."""
    values = {**stored, **more}
    record = METHODS.get(values.get("method", ModelConfig.method))
    preset = LOSS_PRESETS.get(values.get("loss", LossConfig.loss))
    if record is None or not record.aligns or preset is None:
        return values
    defaults = {"reduction": preset.reduction, **record.defaults}
    if stored.get("reduction", "") is None:  # an older run's, which had its preset's
        defaults["reduction"] = preset.reduction
    return values | {name: value for name, value in defaults.items() if values.get(name) is None}


def changed(was: Mapping[str, Any], now: Mapping[str, Any], free: Collection[str]) -> Iterator[tuple[str, Any, Any]]:
    """(flag, old value, new value) of every value that differs, but for those that are `free` to."""
    for name, value in was.items():
        if name not in free and value != now[name]:
            yield "--" + name.replace("_", "-"), value, now[name]


def refuse_two_sets(given: Collection[str]) -> None:
    """UsageError where a command line names its data twice."""
    if "dataset" in given and "boxes" in given:
        raise UsageError("--dataset and --boxes each name the data: give one of them")
