"""Unusual arguments (NumPy's numbers, slivers of pictures) and settings of torch (dtype, autocast, threads)."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from loading import SMALL, open_with, views_of

from augment import Making, Policy
from augment.backends import build, eager, kornia
from augment.backends.decoded import kept_rois
from augment.backends.layout import view_table
from augment.views import geometry, schedule
from augment.views.plan import Pool, draw, partners
from precompute.base.boxfile import BoxCache
from precompute.base.errors import BadValue, UserError

BACKENDS = ("eager", "kornia")


@given(width=st.integers(1, 4000), kept=st.integers(1, 600), low=st.integers(0, 3999), span=st.integers(1, 4000))
def test_crops_of_a_picture_kept_small_stay_inside_it_and_are_never_empty(width, kept, low, span):
    kept, low = min(kept, width), min(low, width - 1)
    rois = np.array([[low, 0, min(low + span, width), 8]], np.int32)
    scale = (kept / width, 1 / 8)  # of height 8, kept as one pixel
    x0, y0, x1, y1 = kept_rois(rois, (0, 0), scale)[0].tolist()
    assert 0 <= x0 < x1 <= kept
    assert (y0, y1) == (0, 1)
    assert abs(x0 - low * scale[0]) <= 1 + 1e-6
    assert abs(x1 - rois[0, 2] * scale[0]) <= 1 + 1e-6


def test_numpy_settings_make_a_state_of_plain_values(demo):
    root, boxes = demo
    seed, batch = np.random.default_rng(0).integers(2**31), np.int64(8)
    policy = SMALL.replace(flip=np.float32(0.5), crop_scale=np.float64(0.5), gray_p=1)
    options = {"device": "cpu", "backend": "fused", "policy": policy, "say": lambda _: None}
    with open_with(boxes, root, batch_size=batch, seed=seed, drop_last=np.bool_(True), **options) as views:
        first = next(iter(views))
        state = json.loads(json.dumps(views.state_dict()))
        file = BytesIO()
        torch.save(views.state_dict(), file)
        file.seek(0)
        assert torch.load(file) == state
    with open_with(boxes, root, batch_size=8, seed=int(seed), **options) as views:
        again = next(iter(views))
        assert torch.equal(first.views[0], again.views[0])
        views.load_state_dict(state)
    assert Policy.from_json(json.loads(json.dumps(policy.to_json()))) == policy


@pytest.mark.parametrize(
    "option",
    [
        {"batch_size": "8"}, {"batch_size": None}, {"batch_size": 8.0}, {"seed": None}, {"seed": 1.5}, {"rank": "0"},
        {"world": None}, {"workers": 1.5}, {"workers": "2"}, {"prefetch": float("nan")}, {"prefetch": None},
        {"cache": "ram", "cache_bytes": "5"}, {"cache": "ram", "cache_side": 0.5},
    ],
    ids=str,
)  # fmt: skip
def test_what_is_no_whole_number_is_named(demo, option):
    root, boxes = demo
    name, value = list(option.items())[-1]
    with pytest.raises(UserError, match=f"{name}={value!r}: must be a whole number"):
        open_with(boxes, root, **{"batch_size": 8, "device": "cpu", **option})


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"shared": 5}, "shared=5: must be at most 1 of none"),
        ({"shared": [[1]]}, "shared=.*: must be at most 1 of none"),
        ({"size": 10**400}, "size=1000.*: must be a whole number"),
    ],
)
def test_policies_name_what_no_policy_can_have(values, match):
    with pytest.raises(ValueError, match=match):
        Policy(**values)


@pytest.mark.parametrize(
    "option", [{"split": 3}, {"split": ["train"]}, {"backgrounds": 5}, {"backgrounds": [5]}], ids=str
)
def test_what_names_no_data_is_an_error_that_tells_it(demo, option):
    root, boxes = demo
    with pytest.raises(UserError, match=next(iter(option))):
        open_with(boxes, root, batch_size=8, device="cpu", policy=SMALL, **option)
    for bad in ((None, root), (boxes, 5.5)):
        with pytest.raises(BadValue, match=r"boxes=None|root=5\.5"):
            open_with(*bad, batch_size=8, device="cpu", policy=SMALL)


def test_epochs_are_whole_numbers(demo):
    root, boxes = demo
    with open_with(boxes, root, batch_size=8, device="cpu", policy=SMALL, say=lambda _: None) as views:
        for epoch in (1.5, "1", -1):
            with pytest.raises(UserError, match="epoch="):
                views.set_epoch(epoch)
        views.set_epoch(np.int64(3))
        assert json.dumps(views.state_dict()["epoch"]) == "3"


def test_a_state_loaded_into_a_loop_that_goes_on_changes_nothing(demo):
    root, boxes = demo
    with open_with(boxes, root, batch_size=8, device="cpu", policy=SMALL, say=lambda _: None) as views:
        state = views.state_dict()
        steps = []
        for k, _ in enumerate(views):
            if k == 1:
                views.load_state_dict(state | {"step": 2, "epoch": 4})
            steps.append((views.epoch, views.state_dict()["step"]))
        assert (views.epoch, views.state_dict()["step"]) == (1, 0)
        assert steps[1] == (4, 2)  # until the next batch is asked for
        assert steps[2] == (0, 3)
        assert len(list(views)) == len(views)
        for _ in views:
            views.load_state_dict(state | {"step": 2})
            break
        assert len(list(views)) == len(views) - 2  # the loop was left: the state holds


@pytest.mark.parametrize("grid", [0, (7, 0), 7.0, "7", None, (1, 2, 3)], ids=str)
def test_grids_are_whole_numbers(grid):
    for make in (
        lambda: geometry.masks(np.zeros((2, 4)), 32, grid),
        lambda: geometry.cell_means(torch.ones(4, 4), grid),
    ):
        with pytest.raises(ValueError, match="grid="):
            make()


def test_masks_are_float32_and_exact_under_autocast():
    values = torch.rand(3, 30, 30)
    expected = values.double().view(3, 6, 5, 6, 5).mean((2, 4))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = geometry.cell_means(values, np.int64(6))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("colour", ["linear", "torchvision"])
def test_views_do_not_depend_on_torchs_default_dtype(demo, backend, colour):
    options = {"policy": SMALL.replace(colour=colour, jitter_p=1.0), "backend": backend, "batch_size": 8}
    before, usual = torch.get_default_dtype(), views_of(demo, **options)
    try:
        for dtype in (torch.float64, torch.bfloat16):
            torch.set_default_dtype(dtype)
            found = views_of(demo, **options)
            assert all(torch.equal(x, y) for key in usual for x, y in zip(usual[key], found[key], strict=True))
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize("module", [eager, kornia])
def test_torchvision_colour_does_not_depend_on_the_number_of_threads(module):
    """At 224 torch adds up one mean of a view in parts, as many as it has threads."""
    policy = Policy(size=224, views=1, colour="torchvision", jitter_p=1.0)
    pool = Pool(
        np.full(8, 300, np.int32),
        np.full(8, 300, np.int32),
        np.tile(np.float32([0.2, 0.2, 0.8, 0.8]), (8, 1)),
        np.ones(8, bool),
    )
    torch.manual_seed(0)
    levels, threads = torch.rand(3, 224 * 224), torch.get_num_threads()
    rows = np.arange(8)
    plan = draw(policy, pool, rows, rows[::-1, None].copy(), seed=0, epoch=0)
    each = [(rows[i : i + 1], rows[::-1, None][i : i + 1].copy()) for i in rows]
    found = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            if module is eager:
                found.append([eager.torchvision_colour(255 * levels, plan, i, 0) for i in range(8)])
            else:
                singles = [draw(policy, pool, row, backgrounds, seed=0, epoch=0) for row, backgrounds in each]
                found.append([kornia.torchvision_colour(levels.view(1, 3, 224, 224), one, 0) for one in singles])
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(torch.equal(x, y) for x, y in zip(found[0], other, strict=True))


def test_eagers_blur_and_colour_do_not_depend_on_the_number_of_threads():
    """In a thread of the backend's own, as it is used: what torch has for others is BLAS's for all."""
    torch.manual_seed(0)
    before, found = torch.get_num_threads(), []
    views = {size: 255 * torch.rand(3, size, size) for size in (24, 32, 49, 56, 67, 97, 224)}
    matrix = torch.rand(3, 3)

    def make(view: torch.Tensor) -> list[torch.Tensor]:
        planes = view.reshape(3, -1)
        return [*(eager.blur(view, sigma) for sigma in (0.3, 1.0, 1.9)), matrix @ planes, planes.mean(1)]

    try:
        for count in (1, 3, 8):
            with ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,)) as thread:
                thread.submit(int).result()
                torch.set_num_threads(count)
                found.append([view for made in thread.map(make, views.values()) for view in made])
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(x, y) for x, y in zip(found[0], other, strict=True))


def test_a_view_in_its_own_scene_needs_no_other_good_image(demo, tmp_path):
    """Two images, one of them gone: the one that is left stands in for it, and no background is looked for."""
    root, boxes = demo
    cache = BoxCache.open(boxes)
    missing, *_ = cache.indices("train").tolist()
    shutil.copytree(root, tmp_path / "demo")
    for row in cache.indices("train").tolist()[:1] + cache.indices("train").tolist()[2:]:
        (tmp_path / "demo" / cache.path(row)).unlink()
    options = {"batch_size": 48, "device": "cpu", "backend": "fused", "prefetch": 1}
    for policy in (SMALL.replace(name="rrc"), SMALL.replace(own=1.0)):
        said: list[str] = []
        with open_with(boxes, tmp_path / "demo", policy=policy, say=said.append, **options) as views:
            batch = next(iter(views))
        assert set(batch.sources.tolist()) == {cache.indices("train").tolist()[1]}
        assert sum("bad file" in line for line in said) == 47
        assert any(cache.path(missing) in line for line in said)
    views = open_with(boxes, tmp_path / "demo", policy=SMALL, say=lambda _: None, **options)
    with views, pytest.raises(UserError, match="no good image is left"):
        next(iter(views))


@pytest.mark.parametrize("backend", ["fused", "eager"])
def test_a_backends_threads_have_one_thread_of_torchs_each(backend):
    """Also after their first operation, at which torch sets a thread up."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        made = build(backend, SMALL, Making(device="cpu", workers=2), 8)

        def used(_: int) -> int:
            torch.rand(3, 300, 300).sum()
            return torch.get_num_threads()

        assert set(made._threads.map(used, range(8))) == {1}
        assert torch.get_num_threads() == 4
        made.close()
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("size", [9, 12, 17, 33])
def test_the_widest_blur_that_a_view_can_have(demo, size):
    """A window's half of S - 1 pixels: as float32, 3σ is that; one bit more would be beyond the view."""
    sigma = (size - 1) / 3
    policy = SMALL.replace(size=size, blur_p=1.0, blur_sigma=(sigma, sigma))
    usual = views_of(demo, policy=policy, backend="kornia")
    for backend in ("eager", "fused"):
        found = views_of(demo, policy=policy, backend=backend)
        assert max((x - found[key][0]).abs().max().item() for key, (x, *_) in usual.items()) < 0.1
    order = np.arange(2)
    pool = Pool(*np.full((2, 2), 40, np.int32), np.tile(np.float32((0, 0, 1, 1)), (2, 1)), np.ones(2, bool))
    plan = draw(policy, pool, order, partners(order, order, 2, 2, 0, 0), seed=0, epoch=0)
    nowhere = np.zeros((2, 2), np.uint64)
    assert set(view_table(plan, nowhere, nowhere)["radius"].flat) == {size - 1}  # of the compiled passes, CUDA's too


def test_the_order_of_many_backgrounds_is_drawn_once_an_epoch(monkeypatch):
    drawn = []
    real = schedule.epoch_order

    def counted(n, seed, epoch, **more):
        drawn.append((n, epoch))
        return real(n, seed, epoch, **more)

    monkeypatch.setattr(schedule, "epoch_order", counted)
    s = schedule.Schedule(SMALL, np.arange(40), 8, 0, True, backgrounds=np.arange(100, 150))
    for epoch in (0, 1, 0):
        picked = [s.pick(epoch, step)[1] for step in range(5)]
        assert len(np.unique(np.concatenate(picked))) > 20
    assert [n for n, _ in drawn] == [40, 50] * 3
