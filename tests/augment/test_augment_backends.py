"""One plan through every backend and the slow reference, on real photographs: one meaning."""

import numpy as np
import pytest
import torch
from loading import open_with

from augment import Making, backends
from augment.stream.imageset import ImageSet
from augment.views.plan import draw, epoch_order, partners
from augment.views.policy import Policy
from precompute.base import pixels
from precompute.base.boxfile import BoxCache
from precompute.base.device import find_device
from precompute.base.errors import BadValue
from tests.augment import reference

LEVELS = {"mean": (0.0, 0.0, 0.0), "std": (1 / 255,) * 3}  # outputs are pixels in [0, 255]
GEOMETRY = {"jitter_p": 0.0, "gray_p": 0.0, "blur_p": 0.0, **LEVELS}
NAMES = ["kornia", "dali", "fused", "eager"]


@pytest.fixture(scope="module")
def birds(shared_data, cub_boxes) -> ImageSet:
    """The real CUB photographs with their ground-truth boxes."""
    return ImageSet.open(BoxCache.open(cub_boxes), shared_data / "CUB_200_2011")


def plan_of(policy: Policy, birds: ImageSet, count: int = 12, seed: int = 3, start: int = 0):
    order = epoch_order(len(birds), seed, 0)
    positions = np.arange(start, start + count)
    chosen = partners(order, positions, policy.group, policy.views, seed, 0)
    return draw(policy, birds.pool, order[positions], chosen, seed=seed, epoch=0)


def render(name: str, policy: Policy, plan, files: list[bytes], dtype: torch.dtype = torch.float32):
    if name == "dali":
        pytest.importorskip("nvidia.dali")
    backend = backends.build(name, policy, Making(device="cpu", dtype=dtype, workers=2), len(plan))
    try:
        views = backend.render(plan, files)
        for view in views:
            assert view.shape == (len(plan), 3, policy.size, policy.size)
            assert view.dtype == dtype
            assert view.is_contiguous(memory_format=torch.channels_last)
        return np.stack([view.double().numpy() for view in views], axis=1)
    finally:
        backend.close()


def compare(name: str, policy: Policy, birds: ImageSet, count: int = 12, **where):
    """|backend - reference| in levels, [B, V, 3, S, S]; the same without the frames (see `frames`), flat."""
    plan = plan_of(policy, birds, count, **where)
    files = [birds.read(i) for i in plan.images.tolist()]
    expected = reference.views(plan, [pixels.decode(data) for data in files], policy)
    std = np.array(policy.std)[:, None, None]
    off = np.abs(render(name, policy, plan, files) - expected) * std * 255
    return off, np.moveaxis(off, 2, -1)[~frames(plan)]


def frames(plan) -> np.ndarray:
    """bool [B, V, S, S]: the outermost pixels of the views and of the patches.

    Beyond a crop's edge DALI repeats the last pixel, Pillow leaves it out of the weighted mean: up to 20 levels there.
    """
    out = np.ones((len(plan), plan.views, plan.size, plan.size), bool)
    for i, v in np.ndindex(len(plan), plan.views):
        x0, y0, x1, y1 = plan.finished_rects[i, v]
        out[i, v, 1:-1, 1:-1] = False
        out[i, v, y0:y1, x0:x1] = True
        out[i, v, y0 + 1 : y1 - 1, x0 + 1 : x1 - 1] = False
    return out


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"mode": "paste"},
        {"scene": "crop"},
        {"scene": "zoom", "scene_scale": 0.3},
        {"scene": "zoom", "own": 0.5},
        {"name": "rrc"},
        {"name": "instloc"},
        {"size": 64, "views": 3},
        {"box_cap": 0.2, "views": 1},
    ],
    ids=str,
)
def test_geometry_agrees_with_pillow(name, changes, birds):
    off, inside = compare(name, Policy(**(GEOMETRY | changes)), birds)
    assert off.mean() < 0.5
    assert inside.max() <= 1.01
    assert off.max() <= (25 if name == "dali" else 1.01)


@pytest.mark.parametrize("name", NAMES)
def test_whole_views_agree_with_the_reference(name, birds):
    off, inside = compare(name, Policy(size=160), birds)
    assert off.mean() < 0.5
    assert off.mean(axis=(2, 3, 4)).max() < 0.8
    # fused keeps fractions where Pillow rounds between its two passes: one level at most, times the jitter's gain.
    assert np.percentile(inside, 99) <= (2.01 if name in ("dali", "fused") else 0.5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("stage", ["jitter_p", "gray_p", "blur_p", "flip"])
def test_each_stage_alone_agrees_with_the_reference(name, stage, birds):
    off, inside = compare(name, Policy(size=64, **(GEOMETRY | {"flip": 0.0, stage: 1.0})), birds, count=8)
    assert off.mean() < 0.6
    # One level of resampling times the largest gain, 1.4 ** 3, is the bound for jitter; blur mixes in the frames.
    assert np.percentile(inside, 99) <= {"jitter_p": 2.8, "blur_p": 4.0}.get(stage, 1.5)


@pytest.mark.parametrize("name", ["kornia", "fused", "eager"])
def test_torchvision_colour_agrees_with_the_reference(name, birds):
    off, _ = compare(name, Policy(size=64, colour="torchvision", jitter_p=1.0, blur_p=0.0), birds)
    assert off.mean() < 0.15
    assert np.percentile(off, 99.9) <= (2.51 if name == "fused" else 1.01)


@pytest.mark.parametrize("name", NAMES)
def test_batches_of_any_shape(name, birds):
    """Across group borders more images than sources are needed; a single source too."""
    policy = Policy(size=32, blur_sigma=(0.1, 1.0), **LEVELS)
    plan = plan_of(policy, birds, 40, start=8)
    whole = render(name, policy, plan, [birds.read(i) for i in plan.images.tolist()])
    for start, count in ((8, 1), (10, 3), (13, 20)):
        part = plan_of(policy, birds, count, start=start)
        assert len(part.images) > len(part)
        views = render(name, policy, part, [birds.read(i) for i in part.images.tolist()])
        assert np.array_equal(views, whole[start - 8 : start - 8 + count])


@pytest.mark.parametrize("name", NAMES)
def test_half_precision(name, birds):
    policy = Policy(size=32, blur_sigma=(0.1, 1.0))
    plan = plan_of(policy, birds, 4)
    files = [birds.read(i) for i in plan.images.tolist()]
    full = render(name, policy, plan, files)
    for dtype, bound in ((torch.bfloat16, 0.02), (torch.float16, 0.01)):
        assert np.abs(render(name, policy, plan, files, dtype) - full).max() < bound


@pytest.mark.parametrize("name", NAMES)
def test_outputs_stay_what_they_are_and_a_failure_is_survived(name, birds):
    if name == "dali":
        pytest.importorskip("nvidia.dali")
    policy = Policy(size=32, blur_sigma=(0.1, 1.0))
    backend = backends.build(name, policy, Making(device="cpu", workers=2), batch=8)
    plans = [plan_of(policy, birds, 8, start=8 * i) for i in range(4)]
    files = [[birds.read(i) for i in plan.images.tolist()] for plan in plans]
    first = backend.render(plans[0], files[0])
    kept = [view.clone() for view in first]
    for plan, data in zip(plans[1:], files[1:], strict=True):
        backend.render(plan, data)
    assert all(torch.equal(a, b) for a, b in zip(first, kept, strict=True))
    with pytest.raises(Exception, match=r"."):
        backend.render(plans[0], [b"no picture", *files[0][1:]])
    backend.reset()
    again = backend.render(plans[0], files[0])
    assert all(torch.equal(a, b) for a, b in zip(again, kept, strict=True))
    backend.close()


def test_dali_is_not_taken_for_colours_that_it_does_not_have(birds, monkeypatch):
    """It would give linear ones, and the log line would say otherwise."""
    with pytest.raises(BadValue, match=r"one with torchvision colour; dali has linear only\. Use fused"):
        open_with(*birds.parts[0], policy=Policy(colour="torchvision"), backend="dali", device="cpu")
    cuda = torch.device("cuda")
    monkeypatch.setattr(backends, "why_no_dali", lambda: None)
    monkeypatch.setattr(backends.importlib.util, "find_spec", lambda _: True)
    assert backends.choose("auto", cuda)[0] == "dali"
    assert backends.choose("auto", cuda, "torchvision") == ("fused", "has torchvision colour, which dali does not")
    assert backends.choose("auto", cuda, cached=True) == ("fused", "keeps decoded pictures, which dali does not")
    assert backends.choose("auto", cuda, served=True) == ("fused", "crops from CPUs are finished on cuda")
    monkeypatch.setattr(backends.importlib.util, "find_spec", lambda _: None)
    assert backends.choose("auto", cuda, "torchvision")[0] == "kornia"


def test_auto_says_why(monkeypatch):
    cpu = torch.device("cpu")
    assert backends.choose("kornia", cpu) == ("kornia", "as asked")
    assert backends.choose("auto", cpu)[0] == "fused"
    monkeypatch.setattr(backends, "why_no_dali", lambda: "DALI is not installed")
    name, reason = backends.choose("auto", torch.device("cuda"))
    assert name == "kornia"
    assert "DALI is not installed" in reason
    with pytest.raises(BadValue, match="DALI is not installed"):
        backends.choose("dali", cpu)
    monkeypatch.setattr(backends.importlib.util, "find_spec", lambda name: name == "triton" or None)
    assert backends.choose("fused", torch.device("cuda"), served=True)[0] == "fused"  # its helpers decode


def test_the_decoder_falls_back_to_pillow(birds, monkeypatch):
    from augment.backends import torch_ops

    data = birds.read(0)
    native = torch_ops.decode(data)
    assert torch_ops._DECODE is not None
    monkeypatch.setattr(torch_ops, "_DECODE", None)
    assert torch.equal(torch_ops.decode(data), native)
    assert native.shape[1:] == birds.shape(0)


@pytest.mark.parametrize("name", ["kornia", "fused", "eager"])
def test_torchvision_colour_is_within_a_level_of_torchvisions_own(name, birds):
    """On real photographs of the view's size, so that nothing is resized: v2's functional API, in its own order."""
    import io

    from PIL import Image
    from torchvision.transforms.v2 import functional as tv

    from augment.views.plan import Pool

    size, count = 96, 12
    photos = [Image.fromarray(pixels.decode(birds.read(i))).resize((size, size)) for i in range(count)]
    files = []
    for photo in photos:
        file = io.BytesIO()
        photo.save(file, format="PNG")
        files.append(file.getvalue())
    whole = np.tile(np.float32((0, 0, 1, 1)), (count, 1))
    pool = Pool(*np.full((2, count), size, np.int32), whole, np.ones(count, bool))
    changes = {"name": "rrc", "crop_scale": 1.0, "aspect": (1.0, 1.0), "size": size, "colour": "torchvision"}
    policy = Policy(**(GEOMETRY | changes | {"jitter_p": 1.0, "gray_p": 0.3, "flip": 0.0}))
    rows = np.arange(count)
    plan = draw(policy, pool, rows, rows[:, None].repeat(2, 1), seed=5, epoch=0)
    ours = render(name, policy, plan, files)
    operations = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue)
    for i, v in np.ndindex(count, 2):
        picture = tv.pil_to_tensor(photos[i]).float() / 255
        for op in plan.order[i, v].tolist():
            picture = operations[op](picture, float(plan.jitter[i, v, op]))
        if plan.gray[i, v]:
            picture = tv.rgb_to_grayscale(picture, 3)
        off = np.abs(ours[i, v] - 255 * picture.numpy())
        assert off.mean() < 0.1
        assert np.percentile(off, 99.9) <= 1.0


@pytest.mark.skipif(torch.cuda.is_available(), reason="about machines without a GPU")
def test_a_device_that_is_not_there_is_named():
    assert find_device(None) == find_device("auto") == find_device("cpu") == torch.device("cpu")
    with pytest.raises(BadValue, match="no CUDA device here; use cpu"):
        find_device("cuda:1")
    for wrong in ("cudda", "meta", "cuda:x"):
        with pytest.raises(BadValue, match="cpu, cuda or cuda:N"):
            Making(device=wrong)
