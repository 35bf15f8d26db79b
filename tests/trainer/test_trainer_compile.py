"""--compile changes nothing but the speed: losses, gradients, diagnoses and BN statistics of a step stay the same."""

import copy
import shutil
from collections.abc import Callable

import pytest
import torch
from trainer_photos import PhotoBatch

from trainer.engine.diagnostics import diagnose
from trainer.engine.start import compile_networks
from trainer.methods.base import Method
from trainer.methods.byol import Alignment, Byol
from trainer.methods.loss_presets import LOSS_PRESETS
from trainer.model.networks import Heads, build_model


def step(method: Method, photos: PhotoBatch) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
    """Losses of both parts, every gradient and buffer after one step's backward; the diagnoses of the first part."""
    masks = [{4: photos.masks(v, 8).double()} for v in range(2)]
    losses, health = [], {}
    for part in method.parts([view.double() for view in photos.views], masks):
        health = health or diagnose(method, part)
        part.loss.backward()
        losses.append(part.loss.detach())
    grads = [p.grad for p in method.online.parameters() if p.grad is not None]
    return [*losses, *grads, *method.online.buffers()], health


@pytest.mark.slow  # most of a minute in the compiler
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # of the compiler's own modules
@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_a_compiled_step_equals_an_eager_one(photos: PhotoBatch, mode: str) -> None:
    heads = Heads(dim=16, hidden=32, conv_hidden=24)
    # float64, because in float32 the rounding of a fresh net's gradients is a hundredth of them in either way.
    method = Byol(build_model("resnet10w8", heads), Alignment(LOSS_PRESETS["stable"])).double()
    twin = copy.deepcopy(method)
    compile_networks(twin, mode)
    (expected, health), (found, compiled_health) = step(method, photos), step(twin, photos)
    assert len(found) == len(expected) > 40
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(compiled_health, health, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU")
def test_a_compiled_run_ends_as_an_eager_one_begins(demo_boxes, demo_root, tmp_path, run_module: Callable) -> None:
    """Through the command: it compiles, logs its diagnoses, saves, evaluates; the first losses are the eager ones."""
    from trainer.record import metrics

    flags = ["--boxes", demo_boxes, "--root", demo_root, "--arch", "resnet10w16", "--size", 32, "--batch-size", 16,
             "--device", "cpu", "--workers", 1, "--epochs", 1, "--log-every", 1]  # fmt: skip
    rows = {}
    for name, more in (("eager", []), ("compiled", ["--compile"])):
        done = run_module("trainer.run", *flags, *more, "--out", tmp_path / name, timeout=400)
        assert done.returncode == 0, done.stderr[-3000:]
        rows[name] = [r for r in metrics.read(tmp_path / name / metrics.NAME) if r["kind"] == "step"]
    for eager, compiled in zip(rows["eager"], rows["compiled"], strict=True):
        for key in ("loss", "contrastive", "alignment", "rank", "c_auc", "gradient_ratio"):
            assert compiled[key] == pytest.approx(eager[key], rel=2e-2), key
    assert rows["compiled"][0]["loss"] == pytest.approx(rows["eager"][0]["loss"], rel=1e-5)
