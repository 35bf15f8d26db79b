"""The registry of methods: light to import, and its records agree with the classes that they build."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from trainer_photos import PhotoBatch

from trainer.config.run import ModelConfig
from trainer.methods.byol import Alignment
from trainer.methods.loss_presets import LOSS_PRESETS
from trainer.methods.registry import METHOD_OPTIONS, METHODS, MethodRecord, methods_with
from trainer.model.networks import Heads, build_model

ROOT = Path(__file__).resolve().parent.parent.parent


def test_no_torch_is_imported() -> None:
    code = "import sys, trainer.methods.registry; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.mark.parametrize("name", METHODS)
def test_a_record_says_what_its_method_does(name: str, photos: PhotoBatch) -> None:
    record = METHODS[name]
    stages = (4,) if record.aligns else ()
    heads = Heads(record.dim(16), hidden=32, conv_hidden=24, stages=stages, predictor=record.predictor)
    net, alignment = build_model("resnet10w8", heads), Alignment(LOSS_PRESETS["stable"])
    method = record.build(net, alignment, queue=24, model=ModelConfig(name))
    assert record.name == name
    assert (method.target is None) == (record.target(0.996) == "no target network")
    assert hasattr(method, "queue") == record.queue
    assert (getattr(method, "alignment", None) is not None) == record.aligns
    assert str(method.momentum(0.5) if record.queue else 0.996) in record.target(0.996) or method.target is None
    # Without the masks that it does not ask for: the record names all that are needed.
    masks = [{stage: photos.masks(view, 8) for stage in record.mask_stages((4,))} for view in range(2)]
    matches = [{stage: photos.match(view, 8) for stage in record.mask_stages((4,))} for view in range(2)]
    parts = list(method.parts(photos.views, masks, matches) if record.matches else method.parts(photos.views, masks))
    assert len(parts) == method.passes
    assert all(torch.isfinite(part.loss) for part in parts)


def test_rates_queues_and_sentences() -> None:
    assert [METHODS["byol"].weight_decay(epochs) for epochs in (300, 301)] == [1e-6, 1.5e-6]
    assert METHODS["mocov2"].weight_decay(800) == 1e-4
    assert [METHODS["looc"].queue_length(images) for images in (100, 10**6)] == [100, 65536]
    assert METHODS["cvsa"].target(0.99) == "target momentum 0.99 rising to 1"
    assert METHODS["instloc"].target(0.99) == "target momentum 0.999"
    assert METHODS["simclr"].target(0.99) == "no target network"
    assert methods_with("mask") == "cvsa, instloc and matching"
    assert {"dim", "ema", "mask", "loss"} <= METHOD_OPTIONS


def test_a_class_is_given_the_fields_that_its_record_takes() -> None:
    record = MethodRecord("mine", "", METHODS["simclr"].implementation, takes=("temperature",))
    net = build_model("resnet10w8", Heads(16, hidden=32, stages=(), predictor="none"))
    assert record.build(net, model=SimpleNamespace(temperature=0.7)).temperature == 0.7
