"""Pictures that are kept, and backgrounds from further sets: what they change and what they do not."""

import shutil

import numpy as np
import pytest
import torch
from loading import SMALL, assert_equal, open_with, views_of

from precompute.base.boxfile import BoxCache
from precompute.base.errors import UserError


@pytest.mark.parametrize("backend", ["fused", "eager"])
@pytest.mark.parametrize("changes", [{}, {"scene": "crop"}, {"own": 0.5}, {"name": "rrc"}, {"mode": "paste"}], ids=str)
def test_decoded_pictures_change_nothing_but_the_number_of_decodes(demo, backend, changes):
    root, boxes = demo
    options = {"policy": SMALL.replace(crop_scale=None, **changes), "backend": backend, "batch_size": 8}
    streamed = views_of(demo, **options)
    assert_equal(streamed, views_of(demo, cache="ram", **options))
    said: list[str] = []
    with open_with(boxes, root, device="cpu", cache="ram", say=said.append, **options) as loader:
        decoded = []
        for _ in range(3):
            for _ in loader:
                pass
            decoded.append(loader.report()["decoded"])
    # Files for batches made ahead are read before their images are known to be held: at most the first epoch's.
    assert decoded[0] == 48
    assert decoded[2] == decoded[1]
    assert any("decoded pictures take" in line for line in said)


@pytest.mark.parametrize("backend", ["fused", "eager"])
@pytest.mark.parametrize("changes", [{}, {"scene": "zoom", "scene_scale": 0.5}, {"name": "rrc"}], ids=str)
def test_a_capped_side_saves_memory_and_moves_views_little(demo, backend, changes):
    root, boxes = demo
    policy = SMALL.replace(crop_scale=0.5, jitter_p=0.0, gray_p=0.0, **changes)
    options = {"policy": policy, "backend": backend, "batch_size": 8}
    whole, *capped = (views_of(demo, cache="ram", cache_side=side, **options) for side in (None, 64, 96))
    off = [255 / 4.4 * np.mean([(x - c[key][0]).abs().mean() for key, (x, *_) in whole.items()]) for c in capped]
    assert 0 < off[1] < off[0] < 3.5  # levels of 255; the less is thrown away, the nearer
    for key, (_, *geometry) in whole.items():
        assert all(torch.equal(x, y) for x, y in zip(geometry, capped[0][key][1:], strict=True))  # the plan is the same
    needs: list[str] = []
    for side in (None, 64):
        with open_with(boxes, root, device="cpu", cache="ram", cache_side=side, say=needs.append, **options):
            pass
    full, small = (float(line.split()[3]) for line in needs if "decoded pictures take" in line)  # MB
    assert small < full
    assert_equal(whole, views_of(demo, cache="ram", cache_side=10_000, **options))  # nothing is that large
    with pytest.raises(UserError, match="cache_side=0"):
        open_with(boxes, root, device="cpu", cache="ram", cache_side=0, say=needs.append, **options)


def test_a_small_budget_keeps_what_fits(demo):
    root, boxes = demo
    said: list[str] = []
    options = {"policy": SMALL, "backend": "fused", "batch_size": 8, "device": "cpu"}
    with open_with(boxes, root, cache="ram", cache_bytes=500_000, say=said.append, **options) as loader:
        counts = []
        for _ in range(3):
            for _ in loader:
                pass
            counts.append(loader.report()["decoded"])
    assert any("the others decoded in every epoch" in line for line in said)
    assert 0 < counts[2] - counts[1] < 48
    assert_equal(views_of(demo, backend="fused"), views_of(demo, backend="fused", cache="ram", cache_bytes=500_000))
    for wrong, words in (
        ({"cache": "gpu"}, "cache='gpu': must be ram"),
        ({"cache": "ram", "backend": "kornia"}, "must be fused"),
    ):
        with pytest.raises(UserError, match=words):
            open_with(boxes, root, **(options | wrong))


@pytest.mark.parametrize("own", [True, False])
def test_backgrounds_from_further_sets(demo, own, tmp_path):
    root, boxes = demo
    cache = BoxCache.open(boxes)
    options = {"policy": SMALL, "batch_size": 8, "backend": "fused", "device": "cpu", "drop_last": False}
    more = {"backgrounds": [(boxes, root), (cache, root)], "own_backgrounds": own}
    used, said = set(), []
    with open_with(boxes, root, say=said.append, **options, **more) as loader:
        assert len(loader.images) == 3 * len(cache)
        for epoch in range(4):
            sources = []
            for batch in loader:
                sources += batch.sources.tolist()
                used |= set(batch.backgrounds.flatten().tolist())
                assert len(batch.plan.images) <= 2 * len(batch)
                assert (batch.sources[:, None] != batch.backgrounds).all()
            assert sorted(sources) == cache.indices("train").tolist(), epoch
        assert len(used) > 50
        train, n = set(cache.indices("train").tolist()), len(cache)
        assert any(f"{2 * len(train)} of {2 * n} images are of the split too, and left out" in line for line in said)
        assert not {row % n for row in used if row >= n} & train  # it could be the source itself
        assert (min(used) < len(cache)) == own
        assert max(used) >= 2 * len(cache)
        path = loader.images.path(2 * len(cache) + 5)
        assert path == cache.path(5)
    assert_equal(views_of(demo, **more), views_of(demo, batch_size=20, workers=3, **more))
    gone = tmp_path / "gone"
    last = gone / cache.path(len(cache) - 1)
    last.parent.mkdir(parents=True)
    shutil.copy(root / cache.path(len(cache) - 1), last)
    with open_with(  # a set whose files are gone but one: the other backgrounds have stand-ins from the split itself
        boxes, root, say=lambda _: None, backgrounds=[(boxes, gone)], **options
    ) as loader:
        batches = list(loader)
        used = {int(i) for b in batches for i in b.backgrounds.flatten()}
        assert used <= {*range(len(cache)), 2 * len(cache) - 1}
        assert loader.report()["replaced"] > 0
