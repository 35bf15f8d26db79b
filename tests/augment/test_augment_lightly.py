"""Views in somebody else's loop: lightly's loss and projection head, as README says."""

import pytest
import torch
from loading import open_with

from augment import Policy


def test_a_lightly_loop_learns(shared_data, cub_boxes):
    loss_module = pytest.importorskip("lightly.loss")
    heads = pytest.importorskip("lightly.models.modules.heads")
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 5, stride=4), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(2))
    model = torch.nn.Sequential(net, torch.nn.Flatten(), heads.SimCLRProjectionHead(32, 32, 16))
    criterion, before = loss_module.NTXentLoss(), [p.detach().clone() for p in model.parameters()]
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    policy = Policy(size=32, blur_sigma=(0.1, 1.0))
    options = {"policy": policy, "batch_size": 16, "split": None, "device": "cpu", "say": lambda _: None}
    with open_with(cub_boxes, shared_data / "CUB_200_2011", **options) as views:
        for batch in views:
            loss = criterion(model(batch.q), model(batch.k))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            assert loss.isfinite()
        assert views.report()["batches"] == len(views)
    assert not any(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True) if b.ndim > 1)
