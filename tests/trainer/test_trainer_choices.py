"""What a run decides by itself, and that it says why."""

import os
from pathlib import Path

import pytest
import torch

from augment import Policy
from precompute.base.errors import BadValue, UsageError, UserError
from precompute.base.options import as_json, values_of
from trainer.config.choices import SPINS, Hardware, decide, find_hardware, let_idle_threads_sleep
from trainer.config.run import RunConfig
from trainer.engine.data import open_data
from trainer.engine.start import surroundings
from trainer.methods.registry import METHODS
from trainer.model.resnets import build_encoder

CPU = Hardware("cpu", "CPU", bf16=False)
H200 = Hardware("cuda:0", "NVIDIA H200", bf16=True)


def test_papers_schedule_gives_the_papers_numbers() -> None:
    settings, _ = decide(RunConfig.of(epochs=800, batch_size=1024, base_lr=0.6), 5994, 2048, H200)
    assert settings.peak_lr == pytest.approx(2.4)
    assert settings.steps == 800 * 5
    assert settings.warmup == 10 * 5
    assert settings.weight_decay == 1.5e-6
    assert (settings.hidden, settings.conv_hidden, settings.amp) == (4096, 512, "bf16")


def test_every_choice_has_its_reason() -> None:
    settings, reasons = decide(RunConfig.of(epochs=2), 114, 512, CPU)
    assert (settings.batch_size, settings.steps, settings.warmup, settings.amp) == (16, 14, 2, "off")
    said = "\n".join(reasons)
    for word in (
        "batch size 16",
        "2 of 114 images sit out",
        "peak learning rate 2.4",
        "warm-up 2 of 14",
        "autocast off",
    ):
        assert word in said
    _, reasons = decide(
        RunConfig.of(epochs=2, batch_size=38, base_lr=0.3, warmup_epochs=1, amp="off", hidden=64, conv_hidden=64),
        114,
        512,
        CPU,
    )
    assert reasons == []


def test_linear_rule_takes_over_where_it_exceeds_the_papers_peak() -> None:
    peaks = [decide(RunConfig.of(batch_size=b), 10_000, 512, H200)[0].peak_lr for b in (32, 256, 1024, 2048, 4096)]
    assert peaks == pytest.approx([2.4, 2.4, 2.4, 4.8, 9.6])


def test_small_sets_get_a_batch_they_can_fill_or_a_remedy() -> None:
    assert decide(RunConfig.of(), 11, 512, CPU)[0].batch_size == 8
    with pytest.raises(UserError, match="has 1 images: too few"):
        decide(RunConfig.of(), 1, 512, CPU)
    with pytest.raises(UserError, match=r"more than the 30 images.*Use --batch-size 16"):
        decide(RunConfig.of(batch_size=32), 30, 512, CPU)
    with pytest.raises(UserError, match="must be a multiple of processes × accumulate = 2 × 1"):
        decide(RunConfig.of(batch_size=7), 30, 512, Hardware("cpu", "CPU", False, world=2))
    with pytest.raises(UserError, match=r"--compile --arch resnet10w8.*16 channels or more"):
        decide(RunConfig.of(arch="resnet10w8", compile=True), 100, 64, CPU)
    with pytest.raises(UserError, match="fp16 needs CUDA"):
        decide(RunConfig.of(amp="fp16"), 100, 512, CPU)


def test_moco_queue_does_not_outgrow_the_set() -> None:
    settings, reasons = decide(RunConfig.of(method="mocov2"), 240, 512, CPU)
    assert settings.queue == 240
    assert settings.optimizer == "sgd"
    assert any("queue of 240" in r for r in reasons)
    assert decide(RunConfig.of(method="mocov2"), 100_000, 512, CPU)[0].queue == 65536


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"size": 0}, "size=0: must be within 8 and 4096"),
        ({"align_stages": (2,)}, "must be 3, 4 or both"),
        (
            {"control": "rolled-keys", "method": "byol"},
            "control='rolled-keys': must be none for --method byol.*needs --method cvsa",
        ),
        ({"ema": 1.5}, "ema=1.5: must be within 0 and 1"),
        ({"base_lr": float("inf")}, "base_lr=inf: must be greater than 0, and finite"),
        ({"weight_decay": float("nan")}, "weight_decay=nan: must be at least 0, and finite"),
        ({"align_weight": -1.0}, "align_weight=-1.0: must be at least 0"),
        ({"warmup_epochs": -1.0}, "warmup_epochs=-1.0: must be at least 0"),
        ({"align_stages": (4, 4)}, "must be 3, 4 or both"),
        ({"out": ""}, "out='': must be the name of a folder"),
        ({"epochs": "many"}, "epochs='many': must be of type int"),
        ({"epochs": True}, "epochs=True: must be of type int"),
        ({"evaluate": 1}, "evaluate=1: must be of type bool"),
        ({"size": None}, "size=None: must be of type int"),
        ({"align_stages": [3, "4"]}, r"align_stages=\(3, '4'\): must be of type tuple"),
        ({"method": "foo"}, "method='foo': must be one of cvsa, byol"),
        ({"policy": "rrc", "own": 2.0, "method": "byol"}, "own=2.0: must be within 0 and 1"),
    ],
)
def test_impossible_values_name_themselves(values: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        RunConfig.of(**values)


@pytest.mark.parametrize("width", [4, 8])
def test_odd_batches_of_very_narrow_nets_train(width: int) -> None:
    """oneDNN would write beyond its memory in the backward of such a step and take the process down."""
    encoder = build_encoder(f"resnet10w{width}").to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    views = torch.randn(5, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    for images in (views[:3], views):
        encoder(images.contiguous(memory_format=torch.channels_last)).square().mean().backward()
    gradients = [parameter.grad for parameter in encoder.parameters()]
    assert all(g is not None and g.isfinite().all() for g in gradients)


def test_narrow_nets_run_without_onednn_and_say_so() -> None:
    told = lambda width, hardware: any(  # noqa: E731
        "without oneDNN" in reason
        for reason in decide(RunConfig.of(arch=f"resnet10w{width}", batch_size=8), 48, 8 * width, hardware)[1]
    )
    assert told(8, CPU)
    assert not told(16, CPU)
    assert not told(8, H200)
    before = torch.backends.mkldnn.enabled
    try:
        torch.backends.mkldnn.enabled = True  # type: ignore[assignment]
        build_encoder("resnet10w16")
        assert torch.backends.mkldnn.enabled
        build_encoder("resnet10w8")
        assert not torch.backends.mkldnn.enabled
    finally:
        torch.backends.mkldnn.enabled = before  # type: ignore[assignment]


def test_names_that_no_machine_knows_are_usage_errors() -> None:
    with pytest.raises(BadValue, match="device='potato'"):
        find_hardware("potato")
    with pytest.raises(UsageError, match="--arch resnet99"):
        build_encoder("resnet99")


def test_a_machine_without_git_knows_no_commit(
    demo_boxes: Path, demo_root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    data = open_data(None, str(demo_boxes), str(demo_root), print)
    assert surroundings(data, Policy())["commit"] is None


@pytest.mark.parametrize(
    ("config", "given", "idle"),
    [
        (RunConfig.of(method="byol", policy="rrc", own=0.5), "own scene policy method", "--scene --own"),
        (
            RunConfig.of(own=0.5, mode="paste", scene_scale=0.3, loss="paper", ema=0.9),
            "own mode scene_scale loss ema",
            "",
        ),
        (RunConfig.of(policy="instloc", method="mocov2", ema=0.9), "ema mode mask", "--mode --ema --mask"),
        (RunConfig.of(policy="instloc", method="instloc"), "mask align_weight", "--align-weight"),
        (RunConfig.of(scene="whole", scale="raw"), "scene_scale temperature", "--scene-scale --temperature"),
        (RunConfig.of(optimizer="adamw"), "momentum bias_lr", "--bias-lr --momentum"),
        (RunConfig.of(method="simclr"), "bias_lr", ""),
        (RunConfig.of(method="rotpred"), "dim hidden", "--dim"),
        (
            RunConfig.of(method="cvsa", control="direct-head"),
            "dim scale temperature reduction",
            "--scale --temperature",
        ),
        (RunConfig.of(evaluate=False), "eval_split", "--eval-split"),
        (RunConfig.of(policy="rrc", align_weight=0.0), "align_weight loss mask dense_weight", "--loss --mask"),
        (RunConfig.of(method="instloc", policy="instloc", align_weight=0.0), "mask loss", "--loss"),
        (RunConfig.of(contrast="cosine", dense_weight=0.0), "contrast dense_temperature", "--dense-temperature"),
    ],
)
def test_flags_without_an_effect_are_said(config: RunConfig, given: str, idle: str) -> None:
    said = config.idle_notes(given.split())
    assert [line.split()[0] for line in said] == idle.split()
    assert all("changes nothing in this run: it belongs to" in line for line in said)


@pytest.mark.parametrize("method", METHODS)
def test_only_options_are_said_to_be_without_effect(method: str) -> None:
    for more in ({"optimizer": "adamw"}, {"evaluate": False, "policy": "instloc"}):
        config = RunConfig.of(method=method, **more)
        assert dict(config.idle()).keys() <= values_of(config).keys()


def test_values_that_depend_on_others_are_settled_once() -> None:
    assert RunConfig.of(size=64).views.blur_sigma == (0.1, pytest.approx(2 * 64 / 224))
    assert RunConfig.of(size=448).views.blur_sigma == (0.1, 2.0)
    assert RunConfig.of(size=64, blur_sigma=[0.1, 1.0]).views.blur_sigma == (0.1, 1.0)
    assert RunConfig.of().views.own == 0.25
    assert RunConfig.of(method="byol", policy="rrc", own=0.5).views.own == 0
    assert RunConfig.of(policy="rrc", method="byol").views.crop_scale == 0.2


def test_saved_values_give_the_same_configuration() -> None:
    """Also those of older files: without newer options, null for what is chosen, options that are gone."""
    config = RunConfig.of(size=64, align_stages=(3, 4), backgrounds=("b.h5", "b"), base_lr=1)
    values = as_json(config)
    assert RunConfig.of(values) == config
    older = {name: value for name, value in values.items() if name not in ("blur_sigma", "flip", "jitter")}
    assert RunConfig.of({**older, "crop_scale": None, "gone": 1}) == config


def test_waiting_threads_look_a_while_and_what_the_user_set_stays(monkeypatch):
    monkeypatch.setattr(os, "environ", {})
    let_idle_threads_sleep()
    assert os.environ == {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": str(SPINS)}
    monkeypatch.setattr(os, "environ", {"GOMP_SPINCOUNT": "0"})
    let_idle_threads_sleep()
    assert os.environ["GOMP_SPINCOUNT"] == "0"
