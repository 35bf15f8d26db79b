"""What a batch tells of its views."""

from dataclasses import fields

import numpy as np
import torch

from augment import Policy, open_views
from augment.batch import Parameters


def test_parameters_are_those_of_the_plan(shared_data, tmp_path, run_module):
    root, boxes = shared_data / "CUB_200_2011", tmp_path / "cub.h5"
    done = run_module("precompute.boxes", "--dataset", "cub", "--root", root, "--out", boxes)
    assert done.returncode == 0, done.stderr
    policy = Policy(name="rrc", size=32, views=3, blur_sigma=(0.1, 1.0))
    options = {"policy": policy, "batch_size": 16, "backend": "eager", "device": "cpu", "split": None}
    with open_views(boxes, root, say=lambda _: None, **options) as loader:
        batch = next(iter(loader))
    told = batch.parameters
    shapes = {"patch": (4,), "scene": (4,), "jitter": (4,), "order": (4,)}
    for field in fields(Parameters):
        value = getattr(told, field.name)
        assert value.shape == (16, 3, *shapes.get(field.name, ()))
        assert np.array_equal(value.numpy(), getattr(batch.plan, field.name))
    # A copy: nobody changes the plan by it.
    told.jitter.zero_()
    assert batch.plan.jitter.any()
    unjittered = batch.parameters.jitter[~told.jittered]
    assert torch.equal(unjittered, torch.tensor((1.0, 1.0, 1.0, 0.0)).expand_as(unjittered))
    assert (told.order.long().sort(-1).values == torch.arange(4)).all()
