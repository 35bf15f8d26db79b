"""Stand-ins for bad files where half of the pictures have no box: no source is pasted onto itself."""

import dataclasses
import shutil

import numpy as np
import pytest
from loading import SMALL, open_with

from precompute.base.boxfile import BoxCache, write


@pytest.fixture
def half_boxed(demo, tmp_path):
    """The demo set with a box for every second picture, in which half of the training pictures with one are gone."""
    root, boxes = demo
    shutil.copytree(root, tmp_path / "demo")
    cache = BoxCache.open(boxes)
    known = cache.boxes.copy(), cache.sources.copy()
    known[0][::2], known[1][::2] = (0, 0, 1, 1), cache.source_names.index("whole")
    write(tmp_path / "half.h5", dataclasses.replace(cache, boxes=known[0], sources=known[1]))
    train = cache.indices("train")
    for row in train[train % 2 == 1][::2].tolist():
        (tmp_path / "demo" / cache.path(row)).unlink()
    return tmp_path / "half.h5", tmp_path / "demo"


@pytest.mark.parametrize("shared", [(), ("background",)])
@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_stand_in_without_a_box_is_not_pasted_onto_itself(demo, half_boxed, shared, elsewhere):
    options = {"policy": SMALL.replace(own=0.7, shared=shared), "batch_size": 8, "backend": "fused", "device": "cpu"}
    if elsewhere:  # backgrounds come from another set alone
        options |= {"backgrounds": ((demo[1], demo[0]),), "own_backgrounds": False}
    shown = away = 0
    with open_with(*half_boxed, say=lambda _: None, **options) as loader:
        mine = len(BoxCache.open(half_boxed[0]))
        for batch in (batch for _ in range(3) for batch in loader):
            plan = batch.plan
            pasted = plan.rects[..., 2] > plan.rects[..., 0]
            own = plan.backgrounds == plan.sources[:, None]
            np.testing.assert_array_equal(pasted, ~own)
            shown, away = shown + own.sum(), away + (plan.backgrounds >= mine).sum()
            assert not elsewhere or (plan.backgrounds[pasted] >= mine).all()
        assert loader.report()["replaced"] > 10
    assert shown > 10
    assert (away > 10) == elsewhere


def test_a_view_without_a_background_takes_none_from_a_stand_in(half_boxed):
    options = {"policy": SMALL.replace(name="rrc"), "batch_size": 8, "backend": "fused", "device": "cpu"}
    with open_with(*half_boxed, say=lambda _: None, **options) as loader:
        for batch in loader:
            assert (batch.plan.backgrounds == batch.plan.sources[:, None]).all()
        assert loader.report()["replaced"] > 10
