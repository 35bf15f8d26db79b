"""The Triton kernels' logic, run by Triton's interpreter on the CPU, against the slow reference."""

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from augment.backends.decoded import DecodedCache, Picture
from augment.request import Making
from augment.stream.alpha import with_alpha
from augment.views.plan import Pool, draw, partners
from augment.views.policy import Policy
from tests.augment import reference

SIZE, COUNT = 16, 3


INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
# Triton decides when it is imported, which torch may have done long ago: hence a process of its own.
interpreted = pytest.mark.skipif(not INTERPRETED, reason="run by test_in_the_interpreter in a process of its own")


@pytest.mark.skipif(INTERPRETED, reason="this is that process")
def test_in_the_interpreter():
    triton = pytest.importorskip("triton")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    environment, root = os.environ | {"TRITON_INTERPRET": "1"}, Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=300)
    if done.returncode and "only 0-dimensional arrays can be converted" in done.stdout:
        pytest.skip(f"the interpreter of triton {triton.__version__} cannot loop beside numpy {np.__version__}")
    assert done.returncode == 0, done.stdout
    assert "11 passed" in done.stdout


def smooth_pictures(rng, sides):
    """Pictures with gradients and edges, uint8 [H, W, 3] each."""
    out = []
    for width, height in sides:
        y, x = np.mgrid[:height, :width]
        waves = [np.sin(x * rng.uniform(0.05, 0.4) + y * rng.uniform(0.05, 0.4) + c) for c in range(3)]
        picture = 128 + 100 * np.stack(waves, -1)
        picture[: height // 3, : width // 2] = rng.integers(0, 255, 3)
        out.append(picture.clip(0, 255).astype(np.uint8))
    return out


def png(picture):
    """The picture as a file."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "png")
    return file.getvalue()


@interpreted
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"colour": "torchvision", "jitter_p": 1.0, "gray_p": 0.5},
        {"scene": "crop", "mode": "paste", "blur_p": 1.0},
        {"name": "rrc", "views": 3, "blur_p": 0.0},
        {"name": "copy-paste"},
        {"name": "copy-paste", "scene": "crop", "colour": "torchvision", "blur_p": 1.0},
        {"size": 24, "blur_p": 1.0, "blur_sigma": (5.0, 7.0)},  # wider than a tile
        {"own": 1.0},  # nothing is pasted, and with kept scenes nothing is cut
        {"own": 0.5, "scene": "zoom"},
        {"name": "copy-paste", "mode": "paste", "paste_scale": 1.0, "box_cap": 1.0, "aspect": (1.0, 1.0)},
    ],
    ids=str,
)
def test_kernels_agree_with_the_reference(changes):
    from augment.backends.addressed import Addressed
    from augment.backends.decoding import Decoding
    from augment.backends.finished_on_device import FinishedOnDevice
    from augment.backends.fused_cuda import FusedCudaBackend, make_views

    rng = np.random.default_rng(0)
    sides = rng.integers(12, 36, (COUNT, 2))
    pictures = smooth_pictures(rng, sides)
    boxes = np.tile(np.float32((0.2, 0.1, 0.9, 0.8)), (COUNT, 1))
    pool = Pool(sides[:, 0].astype(np.int32), sides[:, 1].astype(np.int32), boxes, np.ones(COUNT, bool))
    settings = {"size": SIZE, "blur_sigma": (0.1, 1.5), "mean": (0, 0, 0), "std": (1 / 255,) * 3}
    policy = Policy(**(settings | changes))
    order = np.arange(COUNT)
    plan = draw(policy, pool, order, partners(order, order, 3, policy.views, 1, 0), seed=1, epoch=0)
    if policy.name == "copy-paste":
        plan = with_alpha(plan, lambda row: pictures[row][..., 0], sides)  # as good a map as any
        assert plan.covered == (policy.box_cap == 1)  # then all that is seen of scenes is seen through patches
    images = [Picture(torch.from_numpy(pictures[i])) for i in plan.images]
    views = make_views(policy, plan, images, torch.device("cpu"), torch.float32)
    assert all(v.is_contiguous(memory_format=torch.channels_last) for v in views)
    expected = reference.views(plan, [pictures[i] for i in plan.images], policy)
    off = np.abs(np.stack([v.double().numpy() for v in views], axis=1) - expected)
    assert off.mean() < 0.3
    assert off.max() < 3.0  # one level of rounding in the crops, times the jitter's gain
    cache = DecodedCache(policy, pool, 1 << 20)  # parts of the pictures and ready scenes: nothing may change
    backend = FusedCudaBackend(policy, Making(device="cpu", workers=1).settled(), COUNT, cache)
    backend.keep(plan.images, Addressed.of(images))
    again = backend.render(plan, [b""] * len(plan.images))
    assert all(torch.equal(a, b) for a, b in zip(again, views, strict=True))
    pytest.importorskip("nvidia.dali")
    files = [png(pictures[i]) for i in plan.images]
    for decoding in (Decoding(), Decoding(region=True)):  # all of each image, and what views read of it
        making = Making(device="cpu", workers=1).settled()
        backend = FusedCudaBackend(policy, making, COUNT, decoding=decoding)
        again = backend.render(plan, files)
        assert all(torch.equal(a, b) for a, b in zip(again, views, strict=True))
        backend.close()
    if "blur_p" not in changes:  # crops of a CPU, as helpers send them, finished by the kernels
        backend = FinishedOnDevice(policy, Making(device="cpu", workers=1).settled())
        crops = backend.cut(plan, files)[0].copy()
        crops.flags.writeable = False
        finished = backend.finish(plan, crops)
        backend.close()
        off = np.abs(np.stack([v.double().numpy() for v in finished], axis=1) - expected)
        assert off.mean() < 0.3
        assert off.max() < 3.0
        with pytest.raises(ValueError, match="the plan asks for"):
            backend.finish(plan, crops[1:])


@interpreted
def test_an_image_that_is_not_the_planned_one_is_refused():
    from augment.backends.fused_cuda import make_views

    pool = Pool(*np.full((2, 2), 40, np.int32), np.tile(np.float32((0, 0, 1, 1)), (2, 1)), np.ones(2, bool))
    policy, order = Policy(size=SIZE, blur_sigma=(0.1, 1.0)), np.arange(2)
    plan = draw(policy, pool, order, partners(order, order, 2, 2, 0, 0), seed=0, epoch=0)
    small = [Picture(torch.zeros(20, 20, 3, dtype=torch.uint8))] * 2
    with pytest.raises(ValueError, match="the plan was drawn for another one"):
        make_views(policy, plan, small, torch.device("cpu"), torch.float32)
