"""The roofline counts bytes and operations as one counts them by hand."""

import numpy as np

from benchmarks import roofline


def test_count_by_hand(demo_images):
    """One source, one view: every number written out."""
    from dataclasses import replace

    from augment.views.policy import Policy
    from augment.views.schedule import Schedule

    schedule = Schedule(Policy(size=64, views=1, group=2), np.arange(2), 1, 0, True)
    plan = schedule.plan(demo_images.pool, 0, 0)
    plan = replace(
        plan,
        rects=np.array([[[8, 4, 40, 20]]], np.int32),  # 32 × 16
        patch=np.array([[[0, 0, 128, 64]]], np.int32),  # four times as large in both directions
        sigma=np.array([[0.5]], np.float32),  # radius 2, window 5
    )
    moved, operations = roofline.count(plan)
    assert moved == 3 * 128 * 64 + 3 * (64 * 64 - 32 * 16) + 3 * 64 * 64 * 4
    resize = 3 * 32 * (64 * 8 + 16 * 8)  # 8 taps: columns for all 64 rows, then rows
    assert operations == resize + (12 + 3) * 64 * 64 + 2 * 5 * 3 * 64 * 64
    still = replace(plan, sigma=np.zeros((1, 1), np.float32))
    assert roofline.count(still)[1] == operations - 2 * 5 * 3 * 64 * 64
    assert roofline.count(still, itemsize=2)[0] == moved - 3 * 64 * 64 * 2
