"""A step never makes the host wait for the device, and keeps all its tensors there: both seen without a GPU.

On the CPU everything that comes from weights or views is followed through a step, and what would hand such a value to
the host is refused. On a feigned CUDA device (no numbers, no kernels) tensors of two devices in one operation are.
"""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from trainer_photos import PhotoBatch

from augment.stream.batch import Correspondence
from augment.views.geometry import masks
from precompute.base.options import values_of
from trainer.config.choices import Hardware
from trainer.config.run import RunConfig
from trainer.engine.meter import Meter
from trainer.engine.optim import build_optimizer
from trainer.engine.start import build_network, dtype_of_views, make_method, unsaid
from trainer.engine.state import TrainingState
from trainer.methods.registry import METHODS
from trainer.model.resnets import build_encoder, grid_of
from trainer.parallel.batchnorm import count_on_the_host
from trainer.train import advance, autocast_of

# What hands a value to the host, or a shape that depends on values.
WAITING = {"_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "equal", "_unique2", "bincount"}
TINY = {"arch": "resnet10w8", "size": 64, "batch_size": 8, "dim": 16, "hidden": 16, "conv_hidden": 16,
        "device": "cpu", "epochs": 5}  # fmt: skip


class Counted(TorchDispatchMode):
    """Counts the launches on a GPU that add to a counter."""

    def __init__(self) -> None:
        super().__init__()
        self.launches = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ == "add_" and args[0].dtype == torch.int64:
            self.launches += args[0].device.type == "cuda"
        return func(*args, **(kwargs or {}))


@dataclass
class Batch:
    """What a step reads of a batch of views."""

    views: tuple[Tensor, ...]
    rects: Tensor
    size: int = 64

    def masks(self, view: int, grid: int) -> Tensor:
        return masks(self.rects[:, view], self.size, grid)

    def correspondence(self, view: int, other: int, grid: int) -> Correspondence:
        """As a batch has it: numbers of the host that were put on the device."""
        n, device = len(self.rects), self.rects.device
        points = torch.rand(n, grid, grid, 2) * self.size
        return Correspondence(points.to(device), (points[..., 0] < 32).to(device))


class Waits(AssertionError):
    """The host would wait here."""


class NoWaiting(TorchDispatchMode):
    """Follows what is computed from `device` and refuses to hand a value of it to the host."""

    def __init__(self, device: list[Tensor]) -> None:
        super().__init__()
        self.kept = [*device]  # alive, so that no memory gets a second owner
        self.memory = {memory(t) for t in device}

    def follows(self, t: Tensor) -> bool:
        """Whether `t` came from the device."""
        return memory(t) in self.memory

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        followed = any(isinstance(t, Tensor) and self.follows(t) for t in tree_leaves((args, kwargs)))
        if followed and func.overloadpacket.__name__ in WAITING:
            raise Waits(str(func))
        out = func(*args, **(kwargs or {}))
        if followed:
            made = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
            self.kept += made
            self.memory |= {memory(t) for t in made}
        return out


def memory(t: Tensor) -> int:
    """Where the storage of `t` lies."""
    return t.untyped_storage().data_ptr()


def state_of(config: RunConfig, feigned: FakeTensorMode | None = None) -> TrainingState:
    """A run that is about to begin, on the CPU or on a feigned CUDA device."""
    network, settings, _ = build_network(config, 40, Hardware("cuda:0" if feigned else "cpu", "", bf16=True))
    method = make_method(config, settings, network, unsaid)
    with feigned or nullcontext():
        if feigned:
            feign(method)
        optimizer = build_optimizer(settings.optimizer, [method.online], 1e-6, 0.9)
    return TrainingState(
        config=config, settings=settings, method=method, optimizer=optimizer, loader=None, meter=Meter(),
        grids=grids_of(config),
        scaler=torch.amp.GradScaler("cpu", enabled=False),
    )  # fmt: skip


def feign(module: nn.Module) -> None:
    """Parameters and buffers as they would be on CUDA, without numbers; within a FakeTensorMode."""
    for part in module.modules():
        for name, p in part._parameters.items():
            if p is not None:
                part._parameters[name] = nn.Parameter(there(p), requires_grad=p.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = there(buffer)


def there(t: Tensor) -> Tensor:
    return torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="cuda")


def config_of(method: str, **more: Any) -> RunConfig:
    return RunConfig.of({**TINY, "method": method, **more})


CONFIGS = [config_of(method) for method in METHODS]
CONFIGS += [config_of("cvsa", **more) for more in (
    {"control": "direct-head"}, {"control": "rolled-keys"}, {"control": "shuffled-masks"}, {"mask": "bilinear"},
    {"optimizer": "sgd"}, {"accumulate": 2}, {"freeze_stages": 2}, {"align_stages": (3, 4)}, {"loss": "paper"},
)]  # fmt: skip
CONFIGS += [config_of("matching", **more) for more in (
    {"control": "wrong-cells"}, {"control": "rolled-keys"}, {"contrast": "cosine"}, {"accumulate": 2},
)]  # fmt: skip


def words(config: RunConfig) -> str:
    """A name for a test."""
    usual = values_of(RunConfig.of({**TINY, "method": config.model.method}))
    return "-".join([config.model.method, *(f"{k}={v}" for k, v in values_of(config).items() if v != usual[k])])


def grids_of(config: RunConfig) -> dict[int, int]:
    stages = config.model.record.mask_stages(config.loss.align_stages)
    return {stage: grid_of(build_encoder(config.model.arch), 64, stage) for stage in stages}


@pytest.mark.parametrize("config", CONFIGS, ids=words)
def test_no_step_hands_a_value_to_the_host(photos: PhotoBatch, config: RunConfig) -> None:
    state, batch = state_of(config), Batch(photos.views, photos.rects)
    held = [*state.method.parameters(), *state.method.buffers(), *batch.views, batch.rects]
    with NoWaiting([t.detach() for t in held]) as watch:
        for _ in range(2):
            terms = advance(state, batch, autocast_of("bf16", "cpu"))
            assert watch.follows(terms["loss"])  # up to the end
        with pytest.raises(Waits):
            terms["loss"].item()


@pytest.mark.parametrize("config", [c for c in CONFIGS if c.model.method not in ("looc", "relloc")], ids=words)
def test_a_step_stays_on_its_device(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward, target, optimizer. (looc and relloc draw on the host in the step, and nothing feigned has numbers.)"""

    def backward(loss: Tensor) -> None:  # autograd's engine asks the driver, which is not there
        assert loss.device.type == "cuda"
        assert loss.requires_grad
        for p in state.method.online.parameters():
            p.grad = torch.zeros_like(p) if p.requires_grad else None

    monkeypatch.setattr(Tensor, "backward", backward)
    feigned = FakeTensorMode()
    state = state_of(config, feigned)
    with feigned:
        views = torch.empty(2, 8, 3, 64, 64, device="cuda").unbind()
        batch = Batch(views, torch.empty(8, 2, 4, dtype=torch.int32, device="cuda"))
        terms = advance(state, batch, nullcontext)
        assert {t.device.type for t in [*terms.values(), *state.method.state_dict().values()]} == {"cuda"}
        with pytest.raises(RuntimeError, match="device"):
            terms["loss"] + torch.zeros(2)


@pytest.mark.parametrize("moved", [False, True])
def test_batch_norm_counts_batches_without_a_launch(moved: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a feigned GPU; the state has the names that it always had."""
    monkeypatch.setattr(Tensor, "backward", lambda loss: None)
    feigned, config = FakeTensorMode(), config_of("cvsa")
    state = state_of(config, feigned)
    names, norms = set(state.method.state_dict()), batch_norms(state.method)
    with feigned:
        if moved:
            count_on_the_host(state.method)
        views = torch.empty(2, 8, 3, 64, 64, device="cuda").unbind()
        batch = Batch(views, torch.empty(8, 2, 4, dtype=torch.int32, device="cuda"))
        with Counted() as counted:
            advance(state, batch, nullcontext)
    assert set(state.method.state_dict()) == names
    assert (
        counted.launches == 0 if moved else counted.launches > norms
    )  # the target's twice, the online network's twice


def batch_norms(module: nn.Module) -> int:
    return sum(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in module.modules())


def test_views_in_the_dtype_of_autocast_change_nothing(photos: PhotoBatch) -> None:
    """Equal to the bit after two steps: autocast would have cast them before the first convolution."""
    config = config_of("cvsa")
    states = [state_of(config), state_of(config)]
    assert (dtype_of_views("bf16", "cuda:0"), dtype_of_views("fp16", "cuda")) == (torch.bfloat16, torch.float16)
    assert {dtype_of_views("bf16", "cpu"), dtype_of_views("off", "cuda")} == {torch.float32}
    for state, dtype in zip(states, (torch.float32, torch.bfloat16), strict=True):
        views = tuple(view.to(dtype, memory_format=torch.channels_last) for view in photos.views)
        for _ in range(2):
            advance(state, Batch(views, photos.rects), autocast_of("bf16", "cpu"))
    ours, theirs = (state.method.state_dict() for state in states)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
