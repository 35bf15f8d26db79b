"""Philox, policy, plan and geometry: known answers, torchvision's rule, and properties over any N, batch and group."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from augment import geometry
from augment.colour import collapse
from augment.philox import below, philox, uniform, words
from augment.plan import Pool, draw, epoch_order, group_of, partners, pool_partners, same
from augment.policy import Policy, blur_radius, paper
from precompute.cli import UserError


@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [  # Random123's kat_vectors, philox4x32 with 10 rounds
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_philox_known_answers(counter, key, answer):
    read = lambda text: [int(word, 16) for word in text.split()]  # noqa: E731
    k0, k1 = read(key)
    assert philox(np.array(read(counter), np.uint32), (k0, k1)).tolist() == read(answer)


def test_streams_are_uniform_and_differ():
    bits = words(3, 5, np.arange(4000)[:, None], np.arange(2), 36)
    u = uniform(bits)
    assert bits.shape == (4000, 2, 36)
    assert abs(u.mean() - 0.5) < 0.002
    assert abs(np.corrcoef(u[:, 0].ravel(), u[:, 1].ravel())[0, 1]) < 0.01
    other = [words(4, 5, 7, 0, 8), words(3, 6, 7, 0, 8), words(3, 5, 8, 0, 8), words(3, 5, 7, 1, 8)]
    assert all(not np.array_equal(words(3, 5, 7, 0, 8), o) for o in other)
    counts = np.bincount(below(bits.ravel(), 7), minlength=7)
    assert len(counts) == 7
    assert counts.min() > 0.95 * counts.mean()
    for seed, epoch in ((-1, 0), (1 << 64, 0), (0, -1)):
        with pytest.raises(ValueError, match="must be at least 0"):
            words(seed, epoch, 0, 0, 1)


def test_policy_goes_to_json_and_back_and_names_bad_values():
    policy = Policy(name="rrc", size=96, blur_sigma=(0.5, 1.0))
    assert Policy.from_json(json.loads(json.dumps(policy.to_json()))) == policy
    assert policy.crop_scale == 0.2
    assert Policy().crop_scale == 0.5
    assert "size=96" not in str(Policy())
    assert "blur_sigma" in str(policy)
    assert (paper().box_cap, paper().colour) == (1.0, "torchvision")
    with pytest.raises(UserError, match="wobble"):
        Policy.from_json({"wobble": 1})
    bad = [
        {"name": "mixup"}, {"mode": "cut"}, {"size": 4}, {"views": 0}, {"flip": 1.5}, {"aspect": (2, 1)},
        {"jitter": (0.4, 0.4, 0.4)}, {"jitter": (0, 0, 0, 0.6)}, {"std": (0, 1, 1)}, {"crop_scale": 0.0},
        {"group": 1}, {"size": 8, "blur_sigma": (1, 4)}, {"blur_sigma": (0.0, 1.0)},
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


sizes = st.integers(2, 200)


@given(n=sizes, group=st.integers(2, 40), batch=st.integers(1, 64), seed=st.integers(0, 2**64 - 1))
@settings(max_examples=150, deadline=None)
def test_partners_are_others_of_the_group_whatever_the_batch(n, group, batch, seed):
    order = epoch_order(n, seed, 3)
    assert sorted(order) == list(range(n))
    start, length = group_of(np.arange(n), n, group)
    assert ((start <= np.arange(n)) & (np.arange(n) < start + length)).all()
    assert (length >= 2).all()
    assert length.max() <= group + 1
    assert sum(length[np.unique(start)]) == n  # the groups tile the order
    whole = partners(order, np.arange(n), group, 2, seed, 3)
    parts = [partners(order, np.arange(i, min(i + batch, n)), group, 2, seed, 3) for i in range(0, n, batch)]
    assert np.array_equal(whole, np.concatenate(parts))
    assert (whole != order[:, None]).all()
    place = np.empty(n, np.int64)
    place[order] = np.arange(n)
    assert (start[place[whole]] == start[:, None]).all()


@given(
    n=st.integers(1, 80), size=st.integers(2, 90), shift=st.integers(0, 60), group=st.integers(2, 20),
    batch=st.integers(1, 32),
)  # fmt: skip
@settings(max_examples=100, deadline=None)
def test_pool_partners_come_from_the_pool_and_are_others(n, size, shift, group, batch):
    order, pool = epoch_order(n, 5, 1), shift + epoch_order(size, 5, 1, stream=1)
    whole = pool_partners(order, pool, np.arange(n), group, 3, 5, 1)
    assert set(whole.ravel().tolist()) <= set(pool.tolist())
    assert (whole != order[:, None]).all()
    for start in range(0, n, batch):
        part = pool_partners(order, pool, np.arange(start, min(start + batch, n)), group, 3, 5, 1)
        assert np.array_equal(part, whole[start : start + batch])


def test_partners_are_uniform_and_independent_between_views():
    n = 16
    pairs = np.stack([partners(np.arange(n), np.arange(n), 16, 2, 1, e) for e in range(2000)])  # [E, n, 2]
    counts = np.stack([np.bincount(pairs[:, i, 0], minlength=n) for i in range(n)])
    assert (np.diag(counts) == 0).all()
    assert counts[~np.eye(n, dtype=bool)].min() > 80  # expected 133
    assert abs((pairs[..., 0] == pairs[..., 1]).mean() - 1 / 15) < 0.005
    with pytest.raises(ValueError, match="at least two"):
        partners(np.arange(1), np.arange(1), 16, 2, 0, 0)


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


def test_capped_boxes_keep_their_centre_and_are_counted():
    boxes = np.array(((0.0, 0.0, 1.0, 1.0), (0.1, 0.0, 0.5, 0.5), (0.0, 0.02, 0.98, 1.0)))
    capped, bitten = geometry.cap_boxes(boxes, 0.9)
    assert bitten.tolist() == [True, False, True]
    area = (capped[:, 2] - capped[:, 0]) * (capped[:, 3] - capped[:, 1])
    assert np.allclose(area, (0.9, 0.2, 0.9))
    assert np.allclose(capped[:, :2] + capped[:, 2:], boxes[:, :2] + boxes[:, 2:])
    assert np.array_equal(geometry.cap_boxes(boxes, 1.0)[0], boxes)


def test_crop_rule_agrees_with_torchvision():
    """The same distribution of areas, aspects and places, and the same fallback crop, as RandomResizedCrop."""
    from torchvision.transforms import v2

    for side in ((300, 200), (40, 400)):
        width, height = side
        region = np.broadcast_to(np.array((10, 20, 10 + width, 20 + height)), (4000, 4))
        u = np.random.default_rng(0).random((4000, 22))
        ours = geometry.random_resized_crop(region, (0.2, 1.0), (3 / 4, 4 / 3), u) - (10, 20, 10, 20)
        transform = v2.RandomResizedCrop(8, (0.2, 1.0))
        torch.manual_seed(0)
        picture = torch.zeros(3, height, width)
        drawn = [transform.make_params([picture]) for _ in range(4000)]
        theirs = np.array([(p["left"], p["top"], p["left"] + p["width"], p["top"] + p["height"]) for p in drawn])
        for quantile in (0, 10, 50, 90, 100):
            gap = np.percentile(ours, quantile, axis=0) - np.percentile(theirs, quantile, axis=0)
            assert np.abs(gap).max() <= 0.03 * max(side), (side, quantile)
    narrow = geometry.random_resized_crop(np.array(((0, 0, 3, 400),)), (0.9, 1.0), (3 / 4, 4 / 3), np.zeros((1, 22)))
    assert narrow.tolist() == [[0, 198, 3, 202]]  # central, 3 × 4


@given(
    rect=st.tuples(*[st.integers(0, 64)] * 4),
    grid=st.one_of(st.integers(1, 20), st.tuples(st.integers(1, 20), st.integers(1, 20))),
)
@settings(max_examples=200, deadline=None)
def test_masks_are_the_exact_cover(rect, grid):
    x0, x1 = sorted(rect[:2])
    y0, y1 = sorted(rect[2:])
    rects = np.array((x0, y0, x1, y1))[None]
    mask = geometry.masks(rects, 64, grid)
    rows, columns = (grid, grid) if isinstance(grid, int) else grid
    fine = np.zeros((64, 64))
    fine[y0:y1, x0:x1] = 1
    # 64·rows lines of which each pixel spans `rows` and each cell 64: counting is exact.
    oracle = np.repeat(np.repeat(fine, rows, 0), columns, 1).reshape(rows, 64, columns, 64).mean((1, 3))
    assert mask.shape == (1, rows, columns)
    assert mask.dtype == np.float32
    assert np.abs(mask[0] - oracle).max() < 1e-5
    by_torch = geometry.masks(torch.from_numpy(rects), 64, grid)
    assert by_torch.dtype == torch.float32
    assert np.abs(by_torch.numpy() - mask).max() < 1e-6
    flipped = geometry.flip_rects(rects, np.array([True]), 64)
    assert np.abs(geometry.masks(flipped, 64, grid)[..., ::-1] - mask).max() < 1e-5
    assert np.array_equal(geometry.flip_rects(flipped, np.array([True]), 64)[0], rects[0] if mask.any() else [0] * 4)


def apply_in_turn(pixels, jitter, order, gray):
    """The four operations one after the other, straight from their definitions, on RGB [P, 3]."""
    luma = lambda x: x @ (0.299, 0.587, 0.114)  # noqa: E731
    yiq = np.array(((0.299, 0.587, 0.114), (0.596, -0.274, -0.322), (0.211, -0.523, 0.312)))
    brightness, contrast, saturation, hue = jitter.astype(np.float64)
    for op in order:
        if op == 0:
            pixels = pixels * brightness
        elif op == 1:
            pixels = contrast * pixels + (1 - contrast) * luma(pixels).mean()
        elif op == 2:
            pixels = saturation * pixels + (1 - saturation) * luma(pixels)[:, None]
        else:
            y, i, q = (pixels @ yiq.T).T
            turned = (i + 1j * q) * np.exp(-2j * np.pi * hue)
            pixels = np.stack((y, turned.real, turned.imag), 1) @ np.linalg.inv(yiq).T
    return np.repeat(luma(pixels)[:, None], 3, 1) if gray else pixels


def test_linear_colour_collapses_any_order():
    rng = np.random.default_rng(0)
    pixels = rng.random((50, 3)) * 255
    for case in range(60):
        jitter = (np.array((1, 1, 1, 0)) + rng.uniform(-1, 1, 4) * (0.4, 0.4, 0.4, 0.5)).astype(np.float32)
        order = rng.permutation(4).astype(np.uint8)
        gray = np.array(case % 3 == 0)
        m, k = collapse(jitter, gray)
        assert np.allclose(pixels @ m.T + k @ pixels.mean(0), apply_in_turn(pixels, jitter, order, gray), atol=0.01)
    m, k = collapse(np.array((1, 1, 1, 0), np.float32), np.array(False))
    assert np.allclose(m, np.eye(3), atol=1e-6)
    assert not k.any()


def test_linear_hue_turns_the_way_of_hsv():
    import colorsys

    for hue in (0.1, -0.1, 0.25):
        m, _ = collapse(np.array((1, 1, 1, hue), np.float32), np.array(False))
        for h in np.arange(0, 1, 0.1):
            rgb = np.array(colorsys.hsv_to_rgb(h, 0.3, 0.6))
            right = np.array(colorsys.hsv_to_rgb(h + hue, 0.3, 0.6))
            wrong = np.array(colorsys.hsv_to_rgb(h - hue, 0.3, 0.6))
            assert np.abs(m @ rgb - right).mean() < np.abs(m @ rgb - wrong).mean()


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


@given(turns=st.integers(0, 3), data=st.data())
def test_turned_rectangles_lie_where_the_turned_pixels_do(turns, data):
    size = 9
    x0, y0 = data.draw(st.integers(0, size)), data.draw(st.integers(0, size))
    rect = np.array((x0, y0, data.draw(st.integers(x0, size)), data.draw(st.integers(y0, size))))
    rect = geometry.flip_rects(rect, np.array(False), size)  # an empty one becomes zeros
    pixels = np.zeros((size, size), bool)
    pixels[rect[1] : rect[3], rect[0] : rect[2]] = True
    x0, y0, x1, y1 = geometry.turn_rects(rect, np.array(turns), size)
    again = np.zeros_like(pixels)
    again[y0:y1, x0:x1] = True
    assert np.array_equal(again, np.rot90(pixels, turns))


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
