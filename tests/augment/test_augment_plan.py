"""Policy and plan: what is drawn lies where it may, as often as asked, and depends on nothing else."""

import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from augment.views.plan import Plan, Pool, draw, epoch_order, partners
from augment.views.policy import NAMES, Policy, blur_radius
from precompute.base.errors import UserError


def same(a: Plan, b: Plan) -> bool:
    """Whether two plans are equal in every value."""
    return all(np.array_equal(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(Plan))


def test_policy_goes_to_json_and_back_and_names_bad_values():
    policy = Policy(name="rrc", size=96, blur_sigma=(0.5, 1.0))
    assert Policy.from_json(json.loads(json.dumps(policy.to_json()))) == policy
    assert policy.crop_scale == 0.2
    assert Policy().crop_scale == 0.5
    assert "size=96" not in str(Policy())
    assert "blur_sigma=(0.5, 1)" in str(policy)
    assert "scene" not in str(Policy(name="rrc", scene="zoom", group=8)), "it pastes nothing"
    assert "scene=zoom" in str(Policy(scene="zoom"))
    idle = {name: dict(Policy(name=name).idle()) for name in NAMES}
    for name, fields in {
        "saliencyswap": ["scene_scale"],
        "rrc": ["box_cap", "group", "mode", "own", "paste_scale", "scene", "scene_scale"],
        "instloc": ["mode", "own", "scene_scale"],
        "copy-paste": ["own", "scene_scale"],
    }.items():
        assert sorted(idle[name]) == fields
    assert idle["instloc"]["mode"] == "the policies saliencyswap and copy-paste"
    assert not dict(Policy(scene="zoom").idle())
    with pytest.raises(UserError, match="wobble"):
        Policy.from_json({"wobble": 1})
    bad = [
        {"name": "mixup"}, {"mode": "cut"}, {"size": 4}, {"views": 0}, {"flip": 1.5}, {"aspect": (2, 1)},
        {"jitter": (0.4, 0.4, 0.4)}, {"jitter": (0, 0, 0, 0.6)}, {"std": (0, 1, 1)}, {"crop_scale": 0.0},
        {"group": 1}, {"group": 10**12}, {"size": 8, "blur_sigma": (1, 4)}, {"blur_sigma": (0.0, 1.0)},
        {"aspect": (math.inf, math.inf)}, {"aspect": (1e-3, 1.0)}, {"aspect": 1}, {"aspect": ("a", "b")}, {"flip": "x"},
        {"mean": (math.nan, 0, 0)}, {"mean": (123.7, 116.3, 103.5)}, {"std": (58.4, 57.1, 57.4)}, {"size": math.inf},
        {"size": "x"}, {"views": 1.5}, {"paste_scale": math.nan},
    ]  # fmt: skip
    for values in bad:
        with pytest.raises(ValueError, match=next(iter(values)) if "blur_sigma" not in values else "blur_sigma"):
            Policy(**values)
    assert [blur_radius(s) for s in (0.1, 1.0, 2.0)] == [1, 3, 6]


def pool_of(n: int, seed: int = 0, whole: float = 0.0) -> Pool:
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.random((n, 2, 2)), axis=1)
    boxes = np.concatenate((corners[:, 0], np.maximum(corners[:, 1], corners[:, 0] + 0.01)), axis=1).clip(0, 1)
    has_box = rng.random(n) >= whole
    boxes[~has_box] = 0, 0, 1, 1
    sides = rng.integers(1, 900, (2, n)).astype(np.int32)
    return Pool(sides[0], sides[1], boxes.astype(np.float32), has_box)


policies = st.builds(
    Policy,
    name=st.sampled_from(("saliencyswap", "rrc", "instloc")),
    mode=st.sampled_from(("swap", "paste")),
    scene=st.sampled_from(("whole", "crop", "zoom")),
    size=st.integers(8, 300),
    views=st.integers(1, 4),
    crop_scale=st.floats(0.01, 1),
    paste_scale=st.floats(0.01, 1),
    scene_scale=st.floats(0.05, 1),
    box_cap=st.floats(0.05, 1),
    rotate=st.sampled_from((0.0, 0.5, 1.0)),
    blur_sigma=st.just((0.1, 1.0)),
)


@given(policy=policies, seed=st.integers(0, 1000), whole=st.sampled_from((0.0, 0.5, 1.0)))
@settings(max_examples=150, deadline=None)
def test_a_plan_stays_inside_its_images_and_does_not_depend_on_the_batch(policy, seed, whole):
    pool = pool_of(24, seed, whole)
    order = epoch_order(24, seed, 0)
    backgrounds = partners(order, np.arange(24), 8, policy.views, seed, 0)
    plan = draw(policy, pool, order, backgrounds, seed=seed, epoch=0)
    for roi, image in ((plan.patch, plan.sources[:, None]), (plan.scene, plan.backgrounds)):
        assert (roi[..., :2] >= 0).all()
        assert (roi[..., 2:] > roi[..., :2]).all()
        assert (roi[..., 2] <= pool.widths[image]).all()
        assert (roi[..., 3] <= pool.heights[image]).all()
    assert (plan.rects[..., :2] >= 0).all()
    assert (plan.rects[..., 2:] > plan.rects[..., :2]).all()
    assert plan.rects.max() <= policy.size
    assert np.array_equal(plan.images[plan.source_slot], plan.sources)
    assert np.array_equal(plan.images[plan.background_slot], plan.backgrounds)
    assert len(set(plan.images.tolist())) == len(plan.images)
    assert plan.covered or policy.name != "rrc"
    half = draw(policy, pool, order[5:9], backgrounds[5:9], seed=seed, epoch=0)
    for name in ("patch", "scene", "rects", "flip", "jitter", "order", "gray", "turns", "sigma", "capped"):
        assert np.array_equal(getattr(half, name), getattr(plan, name)[5:9]), name
    again = draw(policy, pool, order, backgrounds, seed=seed, epoch=0)
    assert same(plan, again)
    assert not same(plan, draw(policy, pool, order, backgrounds, seed=seed, epoch=1))


def test_shares_and_ranges_of_the_draw():
    n = 4000
    pool = Pool(*np.full((2, n), 300, np.int32), np.tile(np.float32((0.2, 0.3, 0.8, 0.7)), (n, 1)), np.ones(n, bool))
    order = epoch_order(n, 1, 0)
    plan = draw(Policy(), pool, order, partners(order, np.arange(n), 16, 2, 1, 0), seed=1, epoch=0)
    for share, p in ((plan.flip, 0.5), (plan.jittered, 0.8), (plan.gray, 0.2), (plan.sigma > 0, 0.5)):
        assert abs(share.mean() - p) < 0.02
    on = plan.jitter[plan.jittered]
    assert (np.abs(on - (1, 1, 1, 0)) <= np.array((0.4, 0.4, 0.4, 0.1)) + 1e-6).all()
    assert (np.abs(on - (1, 1, 1, 0)).max(0) > np.array((0.39, 0.39, 0.39, 0.097))).all()
    assert (plan.jitter[~plan.jittered] == (1, 1, 1, 0)).all()
    assert plan.sigma[plan.sigma > 0].min() >= 0.1
    assert plan.sigma.max() <= 2.0
    counts = np.unique(plan.order.reshape(-1, 4), axis=0, return_counts=True)[1]
    assert len(counts) == 24
    assert counts.min() > 0.7 * counts.mean()
    assert (plan.rects == (45, 67, 179, 157)).all()  # the box of every background, 224 px
    width, height = plan.patch[..., 2] - plan.patch[..., 0], plan.patch[..., 3] - plan.patch[..., 1]
    area = width * height / (180 * 120)
    assert 0.49 < area.min() < 0.52 < 0.85 < area.max() <= 1.0


def test_zoomed_scenes_keep_the_middle_of_their_box_and_vary_in_size_and_place():
    n = 2000
    box = np.float32((0.5, 0.1, 0.9, 0.5))
    pool = Pool(np.full(n, 400, np.int32), np.full(n, 300, np.int32), np.tile(box, (n, 1)), np.ones(n, bool))
    order = epoch_order(n, 1, 0)
    policy = Policy(scene="zoom", scene_scale=0.3, box_cap=1.0)
    plan = draw(policy, pool, order, partners(order, np.arange(n), 16, 2, 1, 0), seed=1, epoch=0)
    x0, y0, x1, y1 = np.moveaxis(plan.scene, -1, 0)
    assert ((x0 <= 280) & (x1 > 280) & (y0 <= 90) & (y1 > 90)).all()
    area = (x1 - x0) * (y1 - y0) / (400 * 300)
    assert 0.29 < area.min() < 0.32
    assert area.max() > 0.9
    assert np.unique(x0).size > 150
    # The patch lies where the box does in the crop.
    left = np.rint(np.clip((200 - x0) / (x1 - x0), 0, 1) * policy.size)
    assert (np.abs(plan.rects[..., 0] - left) <= 1).all()
    # Whatever else is drawn does not depend on it.
    whole = draw(Policy(), pool, order, plan.backgrounds, seed=1, epoch=0)
    for name in ("patch", "flip", "jitter", "order", "sigma"):
        assert np.array_equal(getattr(plan, name), getattr(whole, name)), name


def test_turns_are_drawn_as_often_as_asked():
    n = 4000
    pool = pool_of(n, 0, 0.0)
    order = epoch_order(n, 1, 0)
    plan = draw(Policy(rotate=0.6), pool, order, partners(order, np.arange(n), 16, 2, 1, 0), seed=1, epoch=0)
    shares = np.bincount(plan.turns.reshape(-1), minlength=4) / plan.turns.size
    assert np.abs(shares - (0.4, 0.2, 0.2, 0.2)).max() < 0.02


@pytest.mark.parametrize("scene", ["whole", "crop", "zoom"])
def test_leave_one_out_views_have_from_the_first_what_the_policy_says_and_nothing_else(scene):
    shared = {
        "none": set(),
        "crop": {"patch"},
        "background": {"backgrounds", "scene", "rects"},
        "flip": {"flip"},
        "colour": {"jitter", "jittered", "order", "gray"},
        "blur": {"sigma"},
        "rotate": {"turns"},
    }
    policy = Policy(scene=scene, views=8, shared=tuple(shared), rotate=0.5, box_cap=1.0)
    pool = pool_of(400, 3, 0.0)
    order = epoch_order(400, 1, 0)
    plan = draw(policy, pool, order, partners(order, np.arange(400), 16, 8, 1, 0), seed=1, epoch=0)
    for v, fields in enumerate(shared.values(), start=1):
        for name in set().union(*shared.values()):
            values = getattr(plan, name)
            equal = (values[:, v] == values[:, 0]).reshape(400, -1).all(-1).mean()
            assert (equal == 1) == (name in fields), (v, name)
    assert np.array_equal(plan.images[plan.background_slot], plan.backgrounds)
    with pytest.raises(ValueError, match="at most 1 of none, crop"):
        Policy(shared=("crop", "crop"))
    with pytest.raises(ValueError, match="shared"):
        Policy(shared=("hue",))


@pytest.mark.parametrize("scene", ["whole", "crop", "zoom"])
def test_own_scenes_show_the_source_and_tell_its_box(scene):
    n = 600
    pool = pool_of(n, 5, 0.2)
    order = epoch_order(n, 1, 0)
    others = partners(order, np.arange(n), 16, 2, 1, 0)
    plain = draw(Policy(scene=scene), pool, order, others, seed=1, epoch=0)
    plan = draw(Policy(scene=scene, own=0.4), pool, order, others, seed=1, epoch=0)
    own = plan.backgrounds == plan.sources[:, None]
    known = pool.has_box[plan.sources]
    assert not own[~known].any()
    assert abs(own[known].mean() - 0.4) < 0.05
    assert not plan.rects[own].any()  # nothing is pasted
    assert not plan.capped[own].any()
    for name in ("backgrounds", "scene", "rects", "patch", "flip", "jitter"):  # the other views stay what they were
        assert np.array_equal(getattr(plan, name)[~own], getattr(plain, name)[~own]), name
    assert np.array_equal(plan.objects[~own], plan.rects[~own])
    images = np.broadcast_to(plan.sources[:, None], own.shape)[own]
    side = np.stack((pool.widths, pool.heights, pool.widths, pool.heights), axis=1)[images]
    x0, y0, x1, y1 = np.moveaxis(plan.scene[own], -1, 0)
    corner, extent = np.stack((x0, y0, x0, y0), axis=1), np.stack((x1 - x0, y1 - y0, x1 - x0, y1 - y0), axis=1)
    expected = np.clip((pool.boxes[images] * side - corner) / extent, 0, 1) * 224
    assert np.abs(plan.objects[own] - expected).max() <= 1.0
    assert (plan.objects[own][:, 2:] > plan.objects[own][:, :2]).all()
    with pytest.raises(ValueError, match=r"own=0\.5: must be 0 for rrc"):
        Policy(name="rrc", own=0.5)
