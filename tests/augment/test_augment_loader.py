"""The loader: the same views whatever the batch, ranks and interruptions; bad files; mistakes."""

import dataclasses
import shutil
from typing import ClassVar

import pytest
import torch
from loading import SMALL, assert_equal, collect, open_with, views_of

from augment import Policy, Source, ViewLoader, eval_images
from augment.backends import dali_runs
from augment.stream.producer import Made
from precompute.base.boxfile import BoxCache
from precompute.base.errors import BadFile, UserError


def test_batches_carry_views_and_their_geometry(demo):
    root, boxes = demo
    with open_with(boxes, root, policy=SMALL, batch_size=8, backend="kornia", device="cpu") as loader:
        assert len(loader) == 6
        batch = next(iter(loader))
        assert batch.q.shape == batch.k.shape == (8, 3, 32, 32)
        assert batch.q.is_contiguous(memory_format=torch.channels_last)
        assert not torch.equal(batch.q, batch.k)
        assert batch.rects.shape == (8, 2, 4)
        assert (batch.rects[..., 2:] > batch.rects[..., :2]).all()
        assert batch.masks(1, 4).shape == (8, 4, 4)
        assert batch.boxes(0).canvas_size == (32, 32)
        assert torch.equal(batch.boxes(0).as_subclass(torch.Tensor), batch.rects[:, 0])
        cache = BoxCache.open(boxes)
        assert batch.labels.tolist() == cache.labels[batch.sources.numpy()].tolist()
        assert (batch.sources[:, None] != batch.backgrounds).all()
        train = set(cache.indices("train").tolist())
        assert set(batch.sources.tolist()) | set(batch.backgrounds.flatten().tolist()) <= train


def test_views_do_not_depend_on_batch_workers_or_prefetch(demo):
    alone = views_of(demo)
    assert len(alone) == 2 * 48
    assert_equal(alone, views_of(demo, batch_size=20, workers=5, prefetch=4))
    assert not torch.equal(alone[0, 5][0], alone[1, 5][0]) if (0, 5) in alone else True


def test_resume_on_other_boxes_is_refused(demo):
    """Their number is the same, the views would not be."""
    root, path = demo
    boxes = BoxCache.open(path)
    other = dataclasses.replace(boxes, boxes=boxes.boxes[::-1].copy())
    with open_with(boxes, root, policy=SMALL, batch_size=8, backend="kornia", device="cpu") as loader:
        state = loader.state_dict()
    with open_with(other, root, policy=SMALL, batch_size=8, backend="kornia", device="cpu") as loader:
        with pytest.raises(UserError, match="the images or their boxes are not those that the views began with"):
            loader.load_state_dict(state)
        del state["boxes"]  # as a version before wrote it
        loader.load_state_dict(state)


def test_a_loader_is_stateful_for_distributed_checkpoints(demo):
    from torch.distributed.checkpoint.stateful import Stateful

    root, boxes = demo
    with open_with(boxes, root, policy=SMALL, batch_size=8, backend="kornia", device="cpu") as loader:
        assert isinstance(loader, Stateful)


def test_any_maker_of_batches_will_do(demo):
    """A loader asks for places and takes what comes: here batches that another maker has made."""
    root, boxes = demo
    with open_with(boxes, root, policy=SMALL, batch_size=8, backend="kornia", device="cpu") as loader:
        made = [Made(batch, {"batches": 1, "samples": len(batch)}, None) for batch in loader]

        class Kept:
            bad: ClassVar[dict[int, str]] = {7: "spoilt"}
            closed = False

            def begin_here(self): ...

            def make(self, places):
                yield from (made[step] for _, step in places)

            def status(self):
                return {"service": "none"}

            def close(self):
                self.closed = True

        with ViewLoader(loader.schedule, loader.images, kept := Kept(), prefetch=1) as other:
            assert all(a is b.batch for a, b in zip(other, made, strict=True))
            assert other.report()["samples"] == 48
            assert other.report()["service"] == "none"
            assert other.report()["bad_files"] == {loader.images.path(7): "spoilt"}
            assert other.state_dict() == loader.state_dict()
        assert kept.closed


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (None, "the state is a NoneType"),
        ([1], "the state is a list"),
        ({}, "lacks backgrounds, batch_size, drop_last, epoch, images, policy, seed, step"),
        ({"step": 99}, "step=99: must be a whole number, at least 0, below 6"),
        ({"step": 6}, "step=6"),
        ({"step": -1}, "step=-1"),
        ({"step": 1.5}, r"step=1\.5"),
        ({"epoch": -1}, "epoch=-1: must be a whole number, at least 0$"),
    ],
)
def test_a_state_that_is_none_is_refused(demo, change, words):
    root, boxes = demo
    with open_with(boxes, root, policy=SMALL, batch_size=8, backend="kornia", device="cpu") as loader:
        assert len(loader) == 6
        state = loader.state_dict() | change if isinstance(change, dict) and change else change
        with pytest.raises(UserError, match=words):
            loader.load_state_dict(state)
        assert loader.state_dict()["step"] == 0


def test_two_ranks_see_what_one_sees(demo):
    both = {}
    for rank in (0, 1):
        both |= views_of(demo, rank=rank, world=2)
    assert_equal(both, views_of(demo))


def test_resume_in_the_middle_of_an_epoch(demo):
    root, boxes = demo
    whole = views_of(demo)
    options = {"policy": SMALL, "batch_size": 8, "backend": "kornia", "device": "cpu", "drop_last": False}
    parts = {}
    with open_with(boxes, root, **options) as first:
        for step, batch in enumerate(first):
            collect(parts, 0, batch)
            if step == 2:
                state = first.state_dict()
                break
    assert (state["epoch"], state["step"]) == (0, 3)
    with open_with(boxes, root, **options) as second:
        second.load_state_dict(state)
        for epoch in range(2):
            second.set_epoch(epoch)
            for batch in second:
                collect(parts, epoch, batch)
        assert second.state_dict()["epoch"] == 2
    assert_equal(whole, parts)
    for changed in ({"seed": 5}, {"batch_size": 16}, {"policy": SMALL.replace(flip=0.1)}):
        with (
            open_with(boxes, root, **(options | changed)) as other,
            pytest.raises(UserError, match=next(iter(changed))),
        ):
            other.load_state_dict(state)


def test_a_loop_left_early_begins_its_epoch_again(demo):
    root, boxes = demo
    with open_with(boxes, root, policy=SMALL, batch_size=8, backend="kornia", device="cpu") as loader:
        first = next(iter(loader))
        again = [batch.sources.tolist() for batch in loader]
        assert again[0] == first.sources.tolist()
        assert len(again) == len(loader)
        assert [batch.sources.tolist() for batch in loader] != again  # the next epoch
        loader.set_epoch(0)
        assert [batch.sources.tolist() for batch in loader] == again
        assert loader.report()["batches"] == 1 + 3 * len(loader)
        assert loader.wait_seconds > 0


@pytest.fixture
def broken(demo, tmp_path):
    """A copy of the demo set in which five training images have gone bad since the boxes were made."""
    root, boxes = demo
    copy = tmp_path / "demo"
    shutil.copytree(root, copy)
    cache = BoxCache.open(boxes)
    rows = cache.indices("train")[[1, 2, 3, 9, 20]].tolist()
    gone, cut, zeros, folder, garbage = (copy / cache.path(row) for row in rows)
    gone.unlink()
    cut.write_bytes(cut.read_bytes()[:-100])
    zeros.write_bytes(bytes(zeros.stat().st_size))
    folder.unlink()
    folder.mkdir()
    data = garbage.read_bytes()  # the right size, the right ends, nothing between them
    garbage.write_bytes(data[:2] + bytes(len(data) - 4) + data[-2:])
    return copy, boxes, rows


@pytest.mark.parametrize(("backend", "lanes"), [("kornia", 1), ("dali", 1), ("dali", 2), ("fused", 1)])
def test_files_that_went_bad_are_named_and_replaced(demo, broken, backend, lanes, monkeypatch):
    if backend == "dali":
        pytest.importorskip("nvidia.dali")
        monkeypatch.setitem(dali_runs.LANES, "cpu", lanes)  # two, as on CUDA, where the next batch is begun ahead
    root, boxes, rows = broken
    whole = views_of(demo, backend=backend)
    cache, said, parts = BoxCache.open(boxes), [], {}
    options = {"policy": SMALL, "batch_size": 8, "backend": backend, "device": "cpu", "drop_last": False}
    with open_with(boxes, root, say=said.append, **options) as loader:
        batches = list(loader)
        report = loader.report()
        known = len(said)
        list(loader)
        assert not any("bad file" in line for line in said[known:]), "each is named once"
    sources = torch.cat([b.sources for b in batches]).tolist()
    others = torch.cat([b.backgrounds for b in batches])
    assert len(sources) == 48
    assert not set(rows) & (set(sources) | set(others.flatten().tolist()))
    assert (torch.tensor(sources)[:, None] != others).all()
    assert set(report["bad_files"]) == {cache.path(row) for row in rows}
    assert report["replaced"] >= 5
    assert all(any(cache.path(row) in line for line in said) for row in rows)
    for batch in batches:  # whatever has no bad image in it is what it was
        for i, source in enumerate(batch.sources.tolist()):
            views, rects, backgrounds = whole[0, source]
            if torch.equal(backgrounds, batch.backgrounds[i]) and sources.count(source) == 1:
                assert torch.equal(torch.stack([v[i] for v in batch.views]), views)
                assert torch.equal(rects, batch.rects[i])
                parts[source] = True
    assert len(parts) > 20
    with open_with(boxes, root, on_bad="fail", say=said.append, **options) as loader, pytest.raises(BadFile):
        list(loader)


def test_a_stand_in_is_seen_as_the_image_that_it_stands_for_would_have_been(demo, broken):
    """Its flip, colour and blur are the bad image's; so one image that is twice in a batch makes two pairs of views."""
    options = {"policy": SMALL, "batch_size": 8, "backend": "kornia", "device": "cpu", "say": lambda _: None}
    (root, boxes), (copy, _, rows), twice = demo, broken, 0
    with open_with(boxes, root, **options) as whole, open_with(boxes, copy, **options) as mended:
        for was, batch in zip(whole, mended, strict=True):
            for name in ("flip", "jitter", "jittered", "order", "gray", "sigma"):
                assert (getattr(was.plan, name) == getattr(batch.plan, name)).all(), name
            sources = batch.sources.tolist()
            for i in (i for i, row in enumerate(was.sources.tolist()) if row in rows):
                assert sources[i] not in rows
                for j in (j for j, row in enumerate(sources) if row == sources[i] and j != i):
                    assert not torch.equal(batch.q[i], batch.q[j])
                    twice += 1
    assert twice > 0


def test_same_size_other_contents_is_found_by_hash(demo, tmp_path):
    root, boxes = demo
    copy = tmp_path / "demo"
    shutil.copytree(root, copy)
    cache = BoxCache.open(boxes)
    row = int(cache.indices("train")[0])
    data = bytearray((copy / cache.path(row)).read_bytes())
    data[len(data) // 2] ^= 0xFF
    (copy / cache.path(row)).write_bytes(data)
    with open_with(
        boxes, copy, policy=SMALL, batch_size=8, backend="kornia", device="cpu", check="hash", say=lambda _: None
    ) as loader:
        assert row not in torch.cat([b.sources for b in loader]).tolist()
        assert "other contents" in loader.report()["bad_files"][cache.path(row)]


def test_nothing_good_left_is_an_error_not_a_hang(demo, tmp_path):
    root, boxes = demo
    shutil.copytree(root, tmp_path / "demo")
    for path in (tmp_path / "demo").rglob("*.jpg"):
        path.write_bytes(b"")
    with open_with(
        boxes, tmp_path / "demo", policy=SMALL, batch_size=8, backend="kornia", device="cpu", say=lambda _: None
    ) as loader:
        for _ in range(2):  # also when asked again
            with pytest.raises(UserError, match="no good image is left"):
                next(iter(loader))


def test_unknown_names_are_answered_with_the_known(demo, tmp_path):
    root, boxes = demo
    for options, words in [
        ({"backend": "cuda"}, "dali"),
        ({"split": "val"}, "train"),
        ({"on_bad": "skip"}, "replace"),
        ({"check": "md5"}, "hash"),
        ({"workers": -1}, "workers=-1: must be at least 0"),
        ({"prefetch": -5}, "prefetch=-5"),
        *(({"dtype": torch.uint8, "backend": name}, "float32, torch.bfloat16") for name in ("kornia", "dali", "fused")),
        ({"dtype": "float16"}, "dtype='float16': must be one of"),
        ({"own_backgrounds": False}, "own_backgrounds=False: must be on without further backgrounds"),
        ({"cache_side": 64}, "cache_side=64: must be left out without a cache. Name one"),
        ({"cache_bytes": 1 << 20}, "cache_bytes=1048576: must be left out"),
    ]:
        with pytest.raises(UserError, match=words):
            open_with(boxes, root, **({"batch_size": 8, "device": "cpu"} | options))
    with pytest.raises(UserError, match="no such folder"):
        open_with(boxes, tmp_path / "none", batch_size=8, device="cpu")
    with pytest.raises(UserError, match=r"images are not below it \(no images/"):
        open_with(boxes, tmp_path, batch_size=8, device="cpu")
    with pytest.raises(UserError, match="center, box, whole"):
        eval_images(boxes, root, crop="middle")
    for values in ({"resize": 0.5}, {"resize": float("inf")}, {"resize": "2"}, {"resize": 10**400}, {"size": 0},
                   {"mean": (0.5, 0.5)}, {"std": (0, 0, 0)}):  # fmt: skip
        with pytest.raises(UserError, match=f"{next(iter(values))}=.*: must be"):
            eval_images(boxes, root, **values)


def test_evaluation_images_are_torchvisions(demo):
    from PIL import Image
    from torchvision.transforms import v2

    root, boxes = demo
    cache = BoxCache.open(boxes)
    batches = list(eval_images(boxes, root, size=64, batch_size=20))
    indices = torch.cat([i for _, i in batches])
    assert indices.tolist() == cache.indices("test").tolist()
    pixels = torch.cat([x for x, _ in batches])
    assert batches[0][0].is_contiguous(memory_format=torch.channels_last)
    theirs = v2.Compose([
        v2.PILToTensor(), v2.Resize(round(64 * 256 / 224)), v2.CenterCrop(64), v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(Policy.mean, Policy.std),
    ])  # fmt: skip
    for i in (0, 7, 30):
        expected = theirs(Image.open(root / cache.path(int(indices[i]))))
        assert (pixels[i] - expected).abs().max() < 0.03
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    chosen = torch.cat([x for x, _ in eval_images(boxes, root, size=64, resize=1, mean=mean, std=std)])
    theirs = v2.Compose([
        v2.PILToTensor(), v2.Resize(64), v2.CenterCrop(64), v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(mean, std),
    ])  # fmt: skip
    expected = theirs(Image.open(root / cache.path(int(indices[7]))))
    assert (chosen[7] - expected).abs().max() < 0.03
    for crop in ("box", "whole"):
        for images, _ in eval_images(Source(boxes, root, "all"), size=32, batch_size=64, crop=crop):
            assert images.shape[1:] == (3, 32, 32)
