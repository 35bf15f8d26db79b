"""`decode="scaled"`: how small pictures are decoded, how far views move, who has it and who says that it would pay."""

import io

import numpy as np
import pytest
import torch
from loading import SMALL, open_with
from PIL import Image

from augment import Making, Policy, backends
from augment.backends import fused, jpeg, native
from augment.backends.layout import CROP, lay_out
from augment.stream.imageset import ImageSet
from augment.views.schedule import Schedule
from precompute.base.errors import BadValue
from precompute.boxes import make_boxes


@pytest.fixture(scope="module")
def large(shared_data, tmp_path_factory) -> ImageSet:
    """Real photographs of 3 to 10 megapixels."""
    root, out = shared_data / "large", tmp_path_factory.mktemp("large") / "large.h5"
    return ImageSet.open(make_boxes("folder", root=str(root), out=str(out), say=lambda line: None), root)


def crops_of(*jobs: tuple[int, int, int, int, int, int]) -> np.ndarray:
    crops = np.zeros(len(jobs), CROP)
    for crop, (*roi, width, height) in zip(crops, jobs, strict=True):
        crop["roi"], crop["width"], crop["height"] = roi, width, height
    return crops


def test_the_smallest_scale_that_leaves_enough_pixels_to_every_crop():
    whole = crops_of((0, 0, 1400, 2800, 100, 100))
    for size, expected in ((100, 8), (101, 4), (200, 4), (201, 2), (400, 2), (401, 1), (2000, 1)):
        whole["width"] = size
        assert jpeg.shrinks(whole, np.array((0, 1))).tolist() == [expected]
    two = crops_of((0, 0, 1400, 1400, 100, 100), (0, 0, 350, 1400, 100, 100), (0, 0, 700, 700, 100, 100))
    assert jpeg.shrinks(two, np.array((0, 2, 2, 3))).tolist() == [2, 1, 4]  # the second picture has no crops


@pytest.mark.parametrize("shrink", [2, 4, 8])
def test_crops_of_a_scaled_decode_lie_where_those_of_the_whole_one_do(shrink):
    """A ramp: a crop that was half a decoded pixel off would show as a shift of all of its levels."""
    try:
        library = native.load()
    except native.NotBuilt as error:
        pytest.skip(str(error))
    across = np.linspace(10, 240, 1600)
    picture = np.stack(np.broadcast_arrays(across, across[:1200, None], 128), axis=-1)
    file = io.BytesIO()
    Image.fromarray(picture.round().astype(np.uint8)).save(file, "JPEG", quality=98, subsampling="4:4:4")
    crops = next(jpeg.JpegCrops(library, path) for _, path in jpeg.candidates())
    jobs = crops_of(*((37 + k, 53 + k, 37 + k + 35 * shrink, 53 + k + 54 * shrink, 20, 30) for k in range(shrink)))
    assert jpeg.shrinks(jobs, np.array((0, len(jobs)))).tolist() == [shrink]
    made = {}
    for crops.scaled in (False, True):
        out = np.zeros((len(jobs), 30, 20, 3), np.uint8)
        jobs["out"] = out.ctypes.data + np.arange(len(jobs)) * out[0].nbytes
        assert not len(crops.cut([file.getvalue()], np.array((0, len(jobs))), jobs, lambda work: work()))
        made[crops.scaled] = out.astype(int)
    off = made[True] - made[False]
    assert abs(off).max() <= 2
    assert abs(off.mean(axis=(1, 2))).max() < 0.4  # half a decoded pixel of the ramp is 0.15 * shrink levels
    assert not np.array_equal(made[True], made[False]) or shrink == 2


def test_views_of_real_large_photographs_move_little(large: ImageSet):
    """In levels of 255: a quarter on average, three at the 99th percentile."""
    policy = Policy(mean=(0.0, 0.0, 0.0), std=(1 / 255,) * 3)
    plan = Schedule(policy, np.arange(16), 16, 0, True).plan(large.pool, 0, 0)
    files = [large.read(int(i)) for i in plan.images]
    views = []
    for decode in ("exact", "scaled"):
        backend = backends.build("fused", policy, Making(device="cpu", workers=2, decode=decode), 16)
        views.append(torch.stack(backend.render(plan, files)))
        backend.close()
    off = (views[0] - views[1]).abs()
    assert 0 < off.mean() < 0.25
    assert torch.quantile(off.reshape(-1)[::97], 0.99) < 3
    layout = lay_out(plan, shared=True)
    shrink = jpeg.shrinks(layout.crops, np.searchsorted(layout.slot, np.arange(len(plan.images) + 1)))
    assert (shrink > 1).mean() > 0.5


def test_small_pictures_are_decoded_wholly(demo):
    root, boxes = demo
    views = {}
    for decode in ("exact", "scaled"):
        options = {"policy": Policy(size=224), "device": "cpu", "batch_size": 16, "say": lambda _: None}
        with open_with(boxes, root, decode=decode, **options) as loader:
            views[decode] = [view.clone() for batch in loader for view in batch.views]
    assert all(torch.equal(a, b) for a, b in zip(views["exact"], views["scaled"], strict=True))


def test_who_does_not_have_it_says_so(demo, monkeypatch):
    root, boxes = demo
    for wrong in ({"backend": "eager"}, {"backend": "kornia"}):
        with pytest.raises(BadValue, match="decode='scaled': must be exact with"):
            open_with(boxes, root, policy=SMALL, batch_size=8, device="cpu", decode="scaled", **wrong)
    with pytest.raises(BadValue, match=r"exact with dali on cpu\. DALI's decoders \(2.4\) have no smaller DCT"):
        backends.build("dali", SMALL, Making(device="cpu", decode="scaled"), 8)
    with pytest.raises(BadValue, match="exact with a cache"):
        Making(cache="ram", decode="scaled")
    with pytest.raises(BadValue, match="decode='half': must be"):
        Making(decode="half")
    said = []
    monkeypatch.setattr(jpeg, "candidates", lambda: iter(()))
    fused.FusedBackend(SMALL, Making(device="cpu", workers=1, decode="scaled", say=said.append).settled()).close()
    assert "whole pictures are decoded" in said[-1]


def test_the_first_lines_say_where_it_would_pay(large: ImageSet, demo):
    plan = Schedule(Policy(), np.arange(16), 16, 0, True).plan(large.pool, 0, 0)
    line = jpeg.advice(plan, True, np.full(len(plan.images), 6.0))
    assert line is not None
    assert "decode=scaled would take about" in line
    cache, root = large.parts[0]
    for boxes, folder, pays in ((cache, root, True), (*reversed(demo), False)):
        said = []
        with open_with(boxes, folder, split="all", batch_size=16, device="cpu", backend="fused", say=said.append):
            assert any("decode=scaled would take" in text for text in said) == pays
