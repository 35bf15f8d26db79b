"""LARS against timm's, EMA and schedules against their formulas, parameter groups."""

import copy
import itertools
import math
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from trainer_photos import PhotoBatch

from trainer.engine.optim import Lars, build_optimizer, ema_momentum, learning_rate, parameter_groups, set_lr
from trainer.model.networks import Heads, build_model, ema_update, target_of

HEADS = Heads(dim=16, hidden=32, conv_hidden=24)


def test_lars_equals_timm(photos: PhotoBatch) -> None:
    from timm.optim.lars import Lars as TimmLars

    ours = build_model("resnet10w8", HEADS).double()
    theirs = copy.deepcopy(ours)
    a = Lars(parameter_groups([ours], 1e-2), lr=0.0)
    groups = [{k: v for k, v in g.items() if k != "adapt"} for g in parameter_groups([theirs], 1e-2)]
    b = TimmLars(groups, lr=0.0, momentum=0.9)
    for step in range(4):
        for model, optimizer in ((ours, a), (theirs, b)):
            set_lr(optimizer, 0.5 + step)
            out = model(photos.views[step % 2].double())
            (out.prediction.square().mean() + out.predicted_maps[4].square().mean()).backward()
            optimizer.step()
            optimizer.zero_grad()
    torch.testing.assert_close(list(ours.parameters()), list(theirs.parameters()), rtol=1e-12, atol=1e-12)


def test_lars_leaves_zero_weights_and_missing_gradients_alone() -> None:
    zero, silent = torch.nn.Parameter(torch.zeros(3, 3)), torch.nn.Parameter(torch.ones(2, 2))
    optimizer = Lars([zero, silent], lr=0.1, weight_decay=1e-6)
    zero.grad = torch.ones(3, 3)
    optimizer.step()
    torch.testing.assert_close(zero.detach(), torch.full((3, 3), -0.1))  # ratio 1 where a norm is zero
    torch.testing.assert_close(silent.detach(), torch.ones(2, 2))


def test_state_dict_continues_bit_equal() -> None:
    def stepped(model: torch.nn.Module, optimizer: Lars, steps: range) -> None:
        for i in steps:
            for p in model.parameters():
                p.grad = torch.full_like(p, 0.1 * (i + 1))
            optimizer.step()

    straight = torch.nn.Linear(4, 3)
    broken = copy.deepcopy(straight)
    stepped(straight, Lars(parameter_groups([straight], 1e-6), lr=0.2), range(6))
    first = Lars(parameter_groups([broken], 1e-6), lr=0.2)
    stepped(broken, first, range(3))
    second = Lars(parameter_groups([broken], 1e-6), lr=0.2)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    stepped(broken, second, range(3, 6))
    torch.testing.assert_close(list(broken.parameters()), list(straight.parameters()), rtol=0, atol=0)


def test_groups_exclude_biases_and_norms() -> None:
    model = build_model("resnet10w8", HEADS)
    weights, rest = parameter_groups([model], 1e-6)
    assert {p.ndim for p in weights["params"]} == {2, 4}
    assert {p.ndim for p in rest["params"]} == {1}
    assert rest["weight_decay"] == 0
    assert rest["adapt"] is False
    assert len(weights["params"]) + len(rest["params"]) == len(list(model.parameters()))


def test_ema_equals_its_formula_in_place() -> None:
    online = build_model("resnet10w8", HEADS)
    target = target_of(online)
    before = {k: v.clone() for k, v in target.named_parameters()}
    addresses = {k: v.data_ptr() for k, v in target.named_parameters()}
    with torch.no_grad():
        for p in online.parameters():
            p.add_(torch.randn_like(p))
    ema_update(target, online, 0.9)
    source = dict(online.named_parameters())
    for name, p in target.named_parameters():
        torch.testing.assert_close(p, 0.9 * before[name] + 0.1 * source[name].detach())
        assert p.data_ptr() == addresses[name]
    assert not any("predictor" in name for name in before)


def test_schedules() -> None:
    rates = [learning_rate(s, steps=100, warmup=10, peak=2.0) for s in range(101)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[9] == rates[10] == pytest.approx(2.0)
    assert rates[55] == pytest.approx(1.0)
    assert rates[100] == pytest.approx(0.0)
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))
    assert learning_rate(0, steps=1, warmup=0, peak=1.0) == 1.0
    assert ema_momentum(0, 100, 0.996) == pytest.approx(0.996)
    assert ema_momentum(50, 100, 0.996) == pytest.approx(0.998)
    assert ema_momentum(100, 100, 0.996) == 1.0
    assert math.isclose(ema_momentum(25, 100, 0.9), 1 - 0.1 * (math.cos(math.pi / 4) + 1) / 2)


@pytest.mark.parametrize("name", ["lars", "sgd", "adamw"])
def test_every_optimizer_moves_the_network(name: str) -> None:
    layer = torch.nn.Linear(3, 2)
    optimizer = build_optimizer(name, [layer], 1e-6, 0.9)
    set_lr(optimizer, 0.1)
    before = layer.weight.detach().clone()
    layer(torch.ones(4, 3)).sum().backward()
    optimizer.step()
    assert not torch.equal(layer.weight.detach(), before)


class Counting(TorchDispatchMode):
    """Counts the operations that are asked of the device: launches, about."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.asked.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["lars", "sgd"])
def test_launches_do_not_grow_with_the_network(name: str) -> None:
    """The optimizer's step and the target's move: as many operations for three times as many parameters."""
    asked = []
    for depth in (10, 34):
        online = build_model(f"resnet{depth}w8", Heads(dim=16, hidden=16, conv_hidden=16))
        target = target_of(online)
        optimizer = build_optimizer(name, [online], 1e-6, 0.9)
        for p in online.parameters():
            p.grad = torch.ones_like(p)
        optimizer.step()  # makes its buffers
        with Counting() as counting:
            optimizer.step()
            ema_update(target, online, 0.99)
        asked.append([op for op in counting.asked if "detach" not in op])
    assert len(asked[0]) == len(asked[1]) < 60
