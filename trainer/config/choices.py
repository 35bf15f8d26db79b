"""Everything that a run chooses by itself, each choice with its reason."""

import math
import os
from dataclasses import dataclass

from precompute.base.device import find_device, rank_device
from precompute.base.errors import UserError
from precompute.base.ranks import this_process
from trainer.config.run import RunConfig
from trainer.methods.registry import QUEUE

# The paper's 0.6 × 1024 / 256. LARS makes a layer's step independent of its gradient's length, so at small batches this
# rate is kept: with the linear rule a run of a few hundred steps of batch 32 moves next to nothing (C map's AUC .71
# after 200 steps of the demo set, .94 with this rate; centre prior .67).
LARS_PEAK = 2.4
# How often a waiting thread looks before it sleeps. A step of the demo on two cores took 0.35 to 0.39 s with none and
# 0.21 to 0.22 with these (`GOMP_SPINCOUNT=0 python -m trainer.run --preset demo` prints it); beside two busy programs
# 0.6 to 0.7 with either.
SPINS = 4000
BASE_LR = {"lars": 0.6, "sgd": 0.03, "adamw": 0.008}
CPU_BATCH, CUDA_BATCH = 16, 256


def let_idle_threads_sleep() -> None:
    """OpenMP's threads spin for some microseconds while they wait, then sleep: others want the same cores.

    Every program calls it before torch loads OpenMP; what the user has set stays. Threads that only spin took 1.8 to
    4.3 s for a training step beside two other programs on two cores, sleeping ones 0.5. Those that sleep at once lose
    on idle cores, where waking up takes longer than most waits: SPINS.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS))  # GNU's OpenMP, which torch has on Linux


@dataclass(frozen=True)
class Hardware:
    """What there is to train on."""

    device: str  # "cpu", "cuda:0"
    name: str
    bf16: bool  # fast bfloat16
    world: int = 1  # processes


@dataclass(frozen=True)
class Settings:
    """The numbers of a run, all decided."""

    images: int
    batch_size: int  # over all processes and accumulation parts
    steps_per_epoch: int
    steps: int
    optimizer: str
    peak_lr: float
    warmup: int  # steps
    weight_decay: float
    hidden: int
    conv_hidden: int
    amp: str  # "off", "bf16", "fp16"
    log_every: int
    save_every: int | None  # steps; None: by the clock
    queue: int  # keys that MoCo v2 holds


def decide(config: RunConfig, images: int, feature_width: int, hardware: Hardware) -> tuple[Settings, list[str]]:
    """The settings for `images` training images, and one sentence for every choice the user did not make.

    Raises UserError where the set is too small for the batch, or where --compile cannot have the encoder.
    """
    reasons: list[str] = []
    schedule, record = config.schedule, config.model.record
    batch = _batch_size(config, images, hardware, reasons)
    if hardware.device == "cpu" and feature_width < 8 * 16:
        if config.run.compile:
            raise UserError(
                f"--compile --arch {config.model.arch}: on a CPU encoders of fewer than 16 channels run without "
                "oneDNN, whose memory layouts the compiler counts on. Leave --compile out, or take 16 channels or more"
            )
        reasons.append("convolutions without oneDNN: with under 16 channels it hangs or crashes on some CPUs")
    per_epoch = images // batch
    if left := images - per_epoch * batch:
        reasons.append(f"{per_epoch} steps an epoch; {left} of {images} images sit out each epoch, others each time")
    steps = per_epoch * schedule.epochs
    optimizer = schedule.optimizer or record.optimizer
    hidden, conv_hidden = _head_widths(config, feature_width, reasons)
    queue = record.queue_length(images)
    if record.queue and queue < QUEUE:
        reasons.append(f"queue of {queue} keys: one of each image, as many as the set has")
    return Settings(
        images=images,
        batch_size=batch,
        steps_per_epoch=per_epoch,
        steps=steps,
        optimizer=optimizer,
        peak_lr=_peak_lr(config, optimizer, batch, reasons),
        warmup=_warmup(config, per_epoch, steps, reasons),
        weight_decay=record.weight_decay(schedule.epochs) if schedule.weight_decay is None else schedule.weight_decay,
        hidden=hidden,
        conv_hidden=conv_hidden,
        amp=_amp(config.run.amp, hardware, reasons),
        log_every=config.run.log_every or max(1, per_epoch // 10, steps // 50),
        save_every=config.run.save_every,
        queue=queue,
    ), reasons


def _batch_size(config: RunConfig, images: int, hardware: Hardware, reasons: list[str]) -> int:
    split, accumulate = config.data.train_split, config.schedule.accumulate
    parts = hardware.world * accumulate
    if config.schedule.batch_size is not None:
        batch = config.schedule.batch_size
        if batch > images:
            raise UserError(
                f"--batch-size {batch} is more than the {images} images of split {split!r}: "
                f"no full batch could be drawn. Use --batch-size {_power_of_two(images)} or less, or a larger split"
            )
        if batch % parts or batch // parts < 2:
            raise UserError(
                f"--batch-size {batch}: must be a multiple of processes × accumulate = {hardware.world} × "
                f"{accumulate} and leave at least 2 images each (BatchNorm, and a background for every source)"
            )
        return batch
    usual = CUDA_BATCH if hardware.device.startswith("cuda") else CPU_BATCH
    batch = min(usual, _power_of_two(images)) if images else 0
    batch -= batch % parts
    if batch // parts < 2:
        raise UserError(f"split {split!r} has {images} images: too few for a step of {parts} parts of 2 or more")
    why = f"usual on {hardware.device.split(':')[0]}" if batch == usual else f"the set has only {images} images"
    reasons.append(f"batch size {batch}: {why} (--batch-size)")
    return batch


def _peak_lr(config: RunConfig, optimizer: str, batch: int, reasons: list[str]) -> float:
    if config.schedule.base_lr is not None:
        return config.schedule.base_lr * batch / 256
    if optimizer == "lars" and BASE_LR["lars"] * batch / 256 < LARS_PEAK:
        reasons.append(
            f"peak learning rate {LARS_PEAK}: the paper's 0.6 × 1024 / 256, kept at batch {batch} because LARS makes a "
            "step independent of the gradient's length and a short run would not move otherwise (--base-lr)"
        )
        return LARS_PEAK
    rate = BASE_LR[optimizer] * batch / 256
    reasons.append(f"peak learning rate {rate:g}: {BASE_LR[optimizer]} × batch / 256 (--base-lr)")
    return rate


def _warmup(config: RunConfig, per_epoch: int, steps: int, reasons: list[str]) -> int:
    epochs = config.schedule.warmup_epochs
    if epochs is not None:
        warmup = round(min(epochs * per_epoch, steps))
        if warmup == steps:
            reasons.append(f"warm-up over all {steps} steps: --warmup-epochs {epochs:g} is the whole run")
        return warmup
    warmup = min(10 * per_epoch, math.ceil(steps / 10))
    if warmup < 10 * per_epoch:
        reasons.append(f"warm-up {warmup} of {steps} steps: a tenth of the run, as it is short (--warmup-epochs)")
    return warmup


def _head_widths(config: RunConfig, feature_width: int, reasons: list[str]) -> tuple[int, int]:
    model, narrow = config.model, feature_width < 512
    hidden = model.hidden or (4 * feature_width if narrow else 4096)
    # The paper gives no width for the conv heads; at 4096 they would be a tenth of a step's arithmetic.
    conv_hidden = model.conv_hidden or (2 * feature_width if narrow else 512)
    if narrow and not (model.hidden and model.conv_hidden):
        reasons.append(f"head widths {hidden} and {conv_hidden}: the encoder has {feature_width} features (--hidden)")
    return hidden, conv_hidden


def _amp(asked: str, hardware: Hardware, reasons: list[str]) -> str:
    if asked != "auto":
        if asked == "fp16" and hardware.device == "cpu":
            raise UserError("--amp fp16 needs CUDA: there is no gradient scaling on the CPU. Use --amp bf16 or off")
        return asked
    if hardware.device == "cpu":
        reasons.append("autocast off: bfloat16 is not faster on most CPUs, and float32 resumes bit-equal (--amp bf16)")
        return "off"
    fp16 = "fp16", f"{hardware.name} has no fast bf16"
    amp, why = ("bf16", "needs no gradient scaling") if hardware.bf16 else fp16
    reasons.append(f"autocast {amp}: {why}")
    return amp


def find_hardware(device: str) -> tuple[Hardware, list[str]]:
    """The device that `--device` names ("auto": CUDA where there is one). BadValue where it is not there."""
    import torch

    process = this_process()
    where, why = rank_device(device, process)
    reasons = [f"device {where.type}: {why} (--device)"] if device == "auto" else []
    if where.type == "cpu":
        return Hardware("cpu", "CPU", bf16=False, world=process.world), reasons
    if process.world > 1:  # each with a GPU to itself
        where = find_device(f"cuda:{process.local_rank}")
    properties = torch.cuda.get_device_properties(where)
    return Hardware(str(where), properties.name, bf16=properties.major >= 8, world=process.world), reasons


def _power_of_two(n: int) -> int:
    return 1 << (max(n, 1).bit_length() - 1)
