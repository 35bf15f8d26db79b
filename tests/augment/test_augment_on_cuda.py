"""On CUDA: every policy's views, from each backend there, are those of the CPU but for the decoder's rounding."""

import numpy as np
import pytest
import torch
from test_augment_backends import LEVELS, birds, plan_of  # noqa: F401 - a fixture
from test_augment_decoder_stress import photographs  # noqa: F401 - a fixture

from augment import Making, backends
from augment.backends.decoded import DecodedCache
from augment.stream.alpha import with_alpha
from augment.stream.imageset import ImageSet
from augment.views.plan import Plan
from augment.views.policy import Policy

CASES = [
    {},
    {"own": 0.5},
    {"own": 0.5, "scene": "zoom"},
    {"mode": "paste", "scene": "crop"},
    {"name": "rrc"},
    {"name": "instloc"},
    {"name": "copy-paste"},
    {"name": "copy-paste", "mode": "paste", "scene": "zoom"},
]
SMALL = {"size": 96, "blur_sigma": (0.1, 1.0), **LEVELS}


def views_of(name: str, policy: Policy, plan: Plan, files: list[bytes], device: str, cache: DecodedCache | None = None):
    """Levels [V, B, 3, S, S]; with a cache, of the second time."""
    backend = backends.build(name, policy, Making(device=device, workers=2), len(plan), cache)
    try:
        for _ in range(1 if cache is None else 2):
            views = backend.render(plan, files)
        return np.stack([view.cpu().numpy() for view in views])
    finally:
        backend.close()


def assert_equal_views(images: ImageSet, name: str, policy: Policy, device: str, cached: bool = False):
    """Each view of a plan on its own: what went wrong in one of them shows."""
    plan = plan_of(policy, images, 16)
    if policy.name == "copy-paste":
        sides = np.stack((images.pool.widths, images.pool.heights), axis=1)[plan.sources]
        ramp = np.add.outer(np.arange(60, dtype=np.uint8), 2 * np.arange(90, dtype=np.uint8))
        plan = with_alpha(plan, lambda row: ramp, sides)
    files = [images.read(i) for i in plan.images.tolist()]
    cache = DecodedCache(policy, images.pool, 1 << 30) if cached else None
    off = np.abs(
        views_of(name, policy, plan, files, device, cache) - views_of("kornia", policy, plan, files, "cpu")
    ).mean(axis=(2, 3, 4))
    assert off.max() < 2.5, f"view, source {np.unravel_index(off.argmax(), off.shape)} is off by {off.max():.1f} levels"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("name", ["dali", "fused", "fused, cached", "kornia"])
@pytest.mark.parametrize("changes", CASES, ids=str)
def test_views_on_cuda_are_those_of_the_cpu(photographs, changes, name):  # noqa: F811
    if name == "dali":
        pytest.importorskip("nvidia.dali")
    policy = Policy(**(SMALL | changes))
    assert_equal_views(photographs, name.split(",")[0], policy, "cuda", cached="cached" in name)


@pytest.mark.parametrize("changes", [{"own": 0.5}, {"name": "copy-paste"}], ids=str)
def test_the_same_comparison_on_the_cpu(birds, changes):  # noqa: F811
    """So that it has been seen to pass before a GPU is at hand."""
    pytest.importorskip("nvidia.dali")
    policy = Policy(**(SMALL | changes))
    assert_equal_views(birds, "dali", policy, "cpu")
    assert_equal_views(birds, "fused", policy, "cpu", cached=True)


@pytest.mark.parametrize("changes", [{"own": 0.5}, {"own": 0.5, "scene": "zoom"}], ids=str)
def test_nothing_is_pasted_beyond_the_view_and_not_at_its_corner(birds, changes):  # noqa: F811
    """On CUDA DALI opens an empty region where its anchor is and never closes it before the next edge (paste_gpu.h)."""
    pytest.importorskip("nvidia.dali")
    from augment.backends import dali, dali_graph

    policy = Policy(size=64, blur_sigma=(0.1, 1.0), **changes)
    plan = plan_of(policy, birds, 12, start=10)
    slots = np.arange(len(plan.images))
    table = dali_graph.inputs(**dali.graph_of(policy))
    given = dali.arguments(plan, slots, False, policy.scene == "whole")
    for v in range(2):
        empty = (plan.rects[:, v, 2:] <= plan.rects[:, v, :2]).any(axis=1)
        assert 0 < empty.sum() < len(plan)
        rows = len(plan) + 5  # the last ones fill up
        anchors, shapes = (dali.filled(given[n], rows, table[n][2]) for n in (f"anchor{v}", f"shape{v}"))
        nothing = (shapes[:, 1] == 0).all(axis=1)
        assert np.array_equal(nothing, [*empty, *[True] * 5])
        assert (anchors[nothing, 1] == 64).all()
        filling = (shapes[:, 0] == 0).all(axis=1)
        assert np.array_equal(filling, [False] * len(plan) + [True] * 5)
        assert (anchors[filling] == 64).all()
