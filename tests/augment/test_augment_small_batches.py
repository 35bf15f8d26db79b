"""Batches that end within a group of backgrounds: every image is decoded once all the same, and no pixel changes."""

import pytest
from loading import SMALL, assert_equal, open_with, views_of

from augment.backends.decoded import RecentPictures
from augment.stream.imageset import ImageSet
from precompute.base.boxfile import BoxCache


def decodes_a_sample(demo, **options) -> list[float]:
    """Of each of three epochs."""
    root, boxes = demo
    out, before = [], {"decoded": 0, "samples": 0}
    with open_with(boxes, root, device="cpu", say=lambda _: None, drop_last=False, prefetch=0, **options) as loader:
        for _ in range(3):
            for _ in loader:
                pass
            now = loader.report()
            out.append((now["decoded"] - before["decoded"]) / (now["samples"] - before["samples"]))
            before = now
    return out


@pytest.mark.parametrize("batch", [1, 2, 3, 4, 6, 8])
@pytest.mark.parametrize("backend", ["fused", "eager"])
def test_each_image_is_decoded_once_an_epoch_at_every_batch_size(demo, backend, batch):
    found = decodes_a_sample(demo, policy=SMALL, backend=backend, batch_size=batch)
    assert found == pytest.approx([1, 1, 1], abs=0.05)  # where an epoch ends within a group's memory: less


@pytest.mark.parametrize("changes", [{}, {"scene": "zoom"}, {"own": 0.5}, {"mode": "paste"}], ids=str)
@pytest.mark.parametrize("backend", ["fused", "eager"])
def test_views_do_not_depend_on_the_batch_size(demo, backend, changes):
    policy = SMALL.replace(**changes)
    expected = views_of(demo, policy=policy, backend=backend, batch_size=8)
    for batch in (1, 3):
        assert_equal(expected, views_of(demo, policy=policy, backend=backend, batch_size=batch))


def test_only_batches_that_end_within_groups_keep_pictures():
    assert not RecentPictures.needed_for(SMALL, 8)
    assert RecentPictures.needed_for(SMALL, 6)
    assert not RecentPictures.needed_for(SMALL.replace(name="rrc"), 6)


def test_pictures_of_finished_groups_are_dropped_and_the_budget_holds(demo, monkeypatch):
    root, boxes = demo
    pool = ImageSet.open(BoxCache.open(boxes), root).pool
    recent = RecentPictures(SMALL, pool, batch=2)
    for start in range(0, 40, 2):
        rows = [start, start + 1]
        for row, picture in zip(rows, recent.blank(rows)[0], strict=True):
            recent.add(row, picture)
        recent.used_now(rows)
        assert set(rows) <= {row for row in range(48) if row in recent}
        assert len(recent) <= 6  # of this batch and the two before it
    kept = [recent.get(row) for row in range(48)]
    assert recent.used == sum(picture.bytes for picture in kept if picture is not None)
    monkeypatch.setattr(RecentPictures, "BUDGET", 0)
    counts = decodes_a_sample(demo, policy=SMALL, backend="fused", batch_size=2)
    assert min(counts) > 1.2
