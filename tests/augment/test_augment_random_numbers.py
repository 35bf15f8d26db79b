"""Random numbers, an epoch's order and its partners: known answers, and properties over any N, batch and group."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from augment.views.philox import below, philox, uniform, words
from augment.views.plan import epoch_order, group_of, partners, pool_partners


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
