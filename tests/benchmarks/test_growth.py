"""What throughput --over varies: slopes against known laws, photographs of another size, jobs of as many images."""

import math

import numpy as np
import pytest

from benchmarks import growth
from benchmarks.program import JobSettings
from precompute.base.errors import BadValue


def test_slope_of_known_laws():
    values = [1.0, 4.0, 16.0]
    assert growth.slope(values, [3.0, 3.0, 3.0]) == pytest.approx(0)
    assert growth.slope(values, [0.5 * v for v in values]) == pytest.approx(1)
    assert growth.slope(values, [7 * v**2 for v in values]) == pytest.approx(2)


def test_resized_photographs(demo_images, demo_root, tmp_path):
    from augment.stream.imageset import ImageSet
    from precompute.base import pixels

    cache = demo_images.parts[0][0]
    rows = np.array([3, 0, 3])
    small = growth.resized(cache, demo_root, rows, 0.01, tmp_path)
    images = ImageSet.open(small, tmp_path)
    for k, row in enumerate(rows):
        picture = pixels.decode(images.read(k))
        assert picture.shape[:2] == (small.heights[k], small.widths[k])
        assert 0.008e6 < picture.shape[0] * picture.shape[1] < 0.012e6
        assert np.array_equal(small.boxes[k], cache.boxes[row])


def test_a_job_takes_as_many_images_at_every_value():
    job = JobSettings(batch=16, batches=4)
    at = {(over, v): growth.job_at(job, over, v) for over in growth.QUANTITIES for v in growth.QUANTITIES[over].values}
    assert {j.batch * j.batches for (over, _), j in at.items() if over != "images"} == {64}
    assert [at["images", v].batch * at["images", v].batches for v in (64, 256, 1024)] == [64, 256, 1024]
    assert [(at["batch", v].batch, at["batch", v].batches) for v in (4, 16, 64)] == [(4, 16), (16, 4), (64, 1)]
    assert [at["size", v].size for v in (64, 448)] == [64, 448]
    assert [at["threads", v].threads for v in (1, 4)] == [1, 4]
    with pytest.raises(BadValue, match="two positive whole numbers"):
        growth.check("threads", (0.5, 1))
    growth.check("image", (0.5, 1))


@pytest.mark.parametrize("over", growth.QUANTITIES)
@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf, 0, -1, 64])
def test_values_that_are_no_numbers_or_come_twice_are_refused(over, wrong):
    kind = "finite" if over == "image" else "whole"
    for values in ((64, wrong), (wrong, 64)):
        with pytest.raises(BadValue, match=f"two positive {kind} numbers, none of them twice"):
            growth.check(over, values)
