"""What a batch tells of its views."""

import dataclasses
from dataclasses import fields

import numpy as np
import pytest
import torch
from loading import open_with

from augment import Policy
from augment.stream.batch import Parameters
from precompute.base.errors import UserError


@pytest.fixture(scope="module")
def cub(shared_data, cub_boxes):
    return cub_boxes, shared_data / "CUB_200_2011"


def test_a_batch_moves_as_a_whole(cub):
    options = {"batch_size": 16, "backend": "eager", "device": "cpu", "split": None, "say": lambda _: None}
    with open_with(*cub, policy=Policy(size=32, blur_sigma=(0.1, 1.0)), **options) as loader:
        moved = next(iter(loader)).to("meta")
    tensors = [*moved.views, moved.rects, moved.sources, moved.backgrounds, moved.labels]
    assert {t.device.type for t in tensors} == {"meta"}


def test_a_batch_prints_as_one_line_and_knows_its_views(cub):
    options = {"batch_size": 4, "backend": "eager", "device": "cpu", "split": None, "say": lambda _: None}
    with open_with(*cub, policy=Policy(size=32, blur_sigma=(0.1, 1.0)), **options) as loader:
        batch = next(iter(loader))
    assert repr(batch) == "Batch(4 sources, 2 views [4, 3, 32, 32] torch.float32 on cpu)"
    assert torch.equal(batch.masks(-1, 4), batch.masks(1, 4))
    for ask in (lambda: batch.masks(2, 7), lambda: batch.boxes(2), lambda: batch.patch_masks(-3)):
        with pytest.raises(IndexError, match="the batch has views 0 to 1"):
            ask()
    one = dataclasses.replace(batch, views=batch.views[:1])
    with pytest.raises(IndexError, match=r"view 1: the batch has views 0 to 0\. Policy\(views=\.\.\.\) makes more"):
        _ = one.k
    for nothing in (None, "x", [32]):
        with pytest.raises(UserError, match=r"policy=.*: must be a mapping of values by name"):
            loader.load_state_dict(loader.state_dict() | {"policy": nothing})


def test_mistakes_in_arguments_are_named(cub):
    for arguments, words in (
        ({"policy": "rrc"}, r"policy='rrc': must be an augment.Policy, such as Policy\(name='rrc'\)"),
        ({"backgrounds": ["other.h5"]}, r"backgrounds=\['other.h5'\]: must be pairs of a box file and its folder"),
    ):
        with pytest.raises(UserError, match=words):
            open_with(*cub, batch_size=4, device="cpu", say=lambda _: None, **arguments)
    options = {"batch_size": 16, "backend": "eager", "device": "cpu", "split": None, "say": lambda _: None}
    with open_with(*cub, policy=Policy(size=32, blur_sigma=(0.1, 1.0)), **options) as loader:
        state = loader.state_dict()
    with (
        open_with(*cub, policy=Policy(size=48, blur_sigma=(0.1, 1.0), flip=0.0), **options) as loader,
        pytest.raises(UserError, match=r"the policy's size was 32, now it is 48; flip was 0.5, now it is 0.0$"),
    ):
        loader.load_state_dict(state)


def test_geometry_as_tv_tensors(cub):
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    options = {"batch_size": 16, "backend": "eager", "device": "cpu", "split": None, "say": lambda _: None}
    with open_with(*cub, policy=Policy(size=32, blur_sigma=(0.1, 1.0)), **options) as loader:
        batch = next(iter(loader))
    for view in range(2):
        boxes, masks = batch.boxes(view), batch.patch_masks(view)
        assert isinstance(masks, tv_tensors.Mask)
        assert masks.shape == (16, 32, 32)
        assert torch.allclose(masks.float().mean((1, 2)), batch.masks(view, 1).flatten())
        for (x0, y0, x1, y1), mask in zip(batch.rects[:, view].tolist(), masks, strict=True):
            assert mask[y0:y1, x0:x1].all()
        # torchvision's transforms know them: a flip turns views, boxes and masks alike.
        image = tv_tensors.Image(batch.views[view][0])
        one = tv_tensors.wrap(boxes[:1], like=boxes), tv_tensors.wrap(masks[:1], like=masks)
        _, box, mask = v2.RandomHorizontalFlip(p=1.0)(image, *one)
        x0, y0, x1, y1 = box[0].tolist()
        assert mask[0, y0:y1, x0:x1].all()
        assert mask.sum() == (y1 - y0) * (x1 - x0)


def test_turned_views_are_the_same_pixels_turned_and_their_rectangles_with_them(cub):
    policy = Policy(size=32, blur_sigma=(0.1, 1.0))
    options = {"batch_size": 16, "backend": "eager", "device": "cpu", "split": None, "say": lambda _: None}
    with open_with(*cub, policy=policy, **options) as loader:
        plain = next(iter(loader))
    with open_with(*cub, policy=policy.replace(rotate=0.75), **options) as loader:
        batch = next(iter(loader))
    turns = batch.parameters.turns
    assert set(turns.flatten().tolist()) == {0, 1, 2, 3}
    for v in range(2):
        for i, turn in enumerate(turns[:, v].tolist()):
            assert torch.equal(batch.views[v][i], plain.views[v][i].rot90(turn, (1, 2)))
            assert torch.equal(batch.masks(v, 32)[i], plain.masks(v, 32)[i].rot90(turn, (0, 1)))
        assert batch.views[v].is_contiguous(memory_format=torch.channels_last)


def test_parameters_are_those_of_the_plan(cub):
    policy = Policy(name="rrc", size=32, views=3, blur_sigma=(0.1, 1.0))
    options = {"policy": policy, "batch_size": 16, "backend": "eager", "device": "cpu", "split": None}
    with open_with(*cub, say=lambda _: None, **options) as loader:
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
