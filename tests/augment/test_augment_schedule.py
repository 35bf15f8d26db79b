"""Which images meet in a batch: every image once an epoch, on any number of ranks."""

from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from augment import Policy, Share
from augment.views.plan import Plan, Pool, draw
from augment.views.schedule import Schedule
from precompute.base.errors import BadValue, UserError


def test_a_stand_in_is_the_next_of_the_group_cyclically():
    schedule = Schedule(Policy(group=4), np.arange(8), 4, 7, True)
    order = schedule.order(0)
    first = list(schedule.stand_ins(int(order[2]), 0))
    assert first[:3] == order[[3, 0, 1]].tolist()
    assert first[3:] == order[[3, 4, 5, 6, 7, 0, 1]].tolist()


@given(
    n=st.integers(2, 150),
    batch=st.integers(1, 40),
    world=st.integers(1, 4),
    group=st.integers(2, 20),
    drop_last=st.booleans(),
    epoch=st.integers(0, 3),
)
@settings(max_examples=300, deadline=None)
def test_every_image_once_an_epoch_over_batches_and_ranks(n, batch, world, group, drop_last, epoch):
    rows = np.arange(10, 10 + n)
    policy = Policy(group=group)
    make = lambda rank: Schedule(policy, rows, batch, 7, drop_last, rank, world)  # noqa: E731
    if batch % world or (drop_last and n < batch) or (not drop_last and 0 < n % batch < world):
        with pytest.raises(UserError):
            make(0)
        return
    ranks = [make(rank) for rank in range(world)]
    seen, pairs = [], {}
    for step in range(len(ranks[0])):
        for s in ranks:
            sources, backgrounds = s.pick(epoch, step)
            assert 0 < len(sources) <= s.largest
            seen += sources.tolist()
            pairs |= dict(zip(sources.tolist(), backgrounds.tolist(), strict=True))
    assert len(seen) == len(set(seen)) == (n // batch * batch if drop_last else n)
    assert all(source not in others and set(others) <= set(rows.tolist()) for source, others in pairs.items())
    single = Schedule(policy, rows, 1, 7, False)
    for step in range(n):
        source, others = single.pick(epoch, step)
        assert pairs.get(int(source[0]), others[0].tolist()) == others[0].tolist()


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("changes", [{}, {"name": "rrc"}, {"own": 0.3, "scene": "zoom", "rotate": 0.5}], ids=str)
def test_small_batches_are_cut_from_a_larger_plan_and_equal_their_own(changes, world):
    rng = np.random.default_rng(0)
    low, high = np.sort(rng.random((2, 150, 2)).astype(np.float32), axis=0)
    sides = rng.integers(40, 200, (2, 150)).astype(np.int32)
    pool = Pool(*sides, np.concatenate((low, high), axis=1), rng.random(150) < 0.8)
    policy = Policy(size=32, **changes)
    for rank in range(world):
        schedule = Schedule(policy, np.arange(150), 6, 5, world == 2, rank, world)
        for epoch, step in [(e, k) for e in (0, 1) for k in range(len(schedule))] + [(0, 3), (1, 20), (0, 3)]:
            plan = schedule.plan(pool, epoch, step)
            alone = draw(policy, pool, *schedule.pick(epoch, step), seed=5, epoch=epoch)
            for f in fields(Plan):
                np.testing.assert_array_equal(getattr(plan, f.name), getattr(alone, f.name), f.name, strict=True)
        again = schedule.plan(pool, 0, 3)
        again.patch[:] = 0  # a plan is its owner's: the next one does not see it
        assert schedule.plan(pool, 0, 3).patch.any()


def test_batches_that_cannot_be_made_are_named():
    rows = np.arange(20)
    for values, words in [
        ({"batch_size": 0}, "at least 1"),
        ({"batch_size": 10, "world_size": 4}, "a multiple of the 4 ranks. Try 8 or 12"),
        ({"batch_size": 32}, "drop_last=False"),
        ({"batch_size": 9, "world_size": 3, "drop_last": False}, "last batch has 2 images for 3 ranks"),
        ({"rows": rows[:1], "batch_size": 1}, "at least two"),
        ({"rows": rows[:0], "batch_size": 1, "policy": Policy(name="rrc")}, "empty"),
        ({"batch_size": 4, "seed": -1}, "seed=-1"),
    ]:
        settings = {"policy": Policy(), "rows": rows, "seed": 0, "drop_last": True} | values
        with pytest.raises(UserError, match=words):
            Schedule(**settings)
    for rank, world, words in ((2, 2, "rank=2: must be below world=2"), (0, 0, "world=0: must be at least 1")):
        with pytest.raises(BadValue, match=words):
            Share(rank, world)
