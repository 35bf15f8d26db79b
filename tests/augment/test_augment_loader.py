"""The loader: every image once, the same views whatever the batch, ranks and interruptions, bad files, clean ends."""

import gc
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from augment import Policy, eval_images, open_views
from augment.backends import dali_runs
from augment.schedule import Schedule
from precompute.cache import BadFile, BoxCache
from precompute.cli import UserError

SMALL = Policy(size=32, blur_sigma=(0.1, 1.0), group=4)


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
    order = ranks[0].order(epoch)
    seen, pairs = [], {}
    for step in range(len(ranks[0])):
        for s in ranks:
            sources, backgrounds = s.pick(order, epoch, step)
            assert 0 < len(sources) <= s.largest
            seen += sources.tolist()
            pairs |= dict(zip(sources.tolist(), backgrounds.tolist(), strict=True))
    assert len(seen) == len(set(seen)) == (n // batch * batch if drop_last else n)
    assert all(source not in others and set(others) <= set(rows.tolist()) for source, others in pairs.items())
    single = Schedule(policy, rows, 1, 7, False)
    for step in range(n):
        source, others = single.pick(order, epoch, step)
        assert pairs.get(int(source[0]), others[0].tolist()) == others[0].tolist()


def test_batches_that_cannot_be_made_are_named():
    rows = np.arange(20)
    for values, words in [
        ({"batch_size": 0}, "at least 1"),
        ({"batch_size": 10, "world_size": 4}, "try 8 or 12"),
        ({"batch_size": 32}, "drop_last=False"),
        ({"batch_size": 9, "world_size": 3, "drop_last": False}, "last batch has 2"),
        ({"rows": rows[:1], "batch_size": 1}, "at least two"),
        ({"rows": rows[:0], "batch_size": 1, "policy": Policy(name="rrc")}, "empty"),
        ({"batch_size": 4, "rank": 2, "world_size": 2}, "rank=2"),
        ({"batch_size": 4, "seed": -1}, "seed=-1"),
    ]:
        settings = {"policy": Policy(), "rows": rows, "seed": 0, "drop_last": True} | values
        with pytest.raises(UserError, match=words):
            Schedule(**settings)


@pytest.fixture(scope="module")
def demo(demo_boxes, demo_root):
    """Root and box file of the small demo set."""
    return demo_root, demo_boxes


def views_of(demo, **options):
    """All batches of two epochs: {(epoch, source): (views, rects, backgrounds)}."""
    root, boxes = demo
    options = {"policy": SMALL, "batch_size": 8, "backend": "kornia", "device": "cpu", "drop_last": False} | options
    out = {}
    with open_views(boxes, root, say=lambda _: None, **options) as loader:
        for epoch in range(2):
            for batch in loader:
                collect(out, epoch, batch)
    return out


def collect(out, epoch, batch):
    for i, source in enumerate(batch.sources.tolist()):
        assert (epoch, source) not in out
        out[epoch, source] = (torch.stack([v[i] for v in batch.views]), batch.rects[i], batch.backgrounds[i])


def assert_equal(a, b):
    assert a.keys() == b.keys()
    for key in a:
        for x, y in zip(a[key], b[key], strict=True):
            assert torch.equal(x, y), key


def test_batches_carry_views_and_their_geometry(demo):
    root, boxes = demo
    with open_views(boxes, root, policy=SMALL, batch_size=8, backend="kornia", device="cpu") as loader:
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


def test_two_ranks_see_what_one_sees(demo):
    both = {}
    for rank in (0, 1):
        both |= views_of(demo, rank=rank, world_size=2)
    assert_equal(both, views_of(demo))


def test_resume_in_the_middle_of_an_epoch(demo):
    root, boxes = demo
    whole = views_of(demo)
    options = {"policy": SMALL, "batch_size": 8, "backend": "kornia", "device": "cpu", "drop_last": False}
    parts = {}
    with open_views(boxes, root, **options) as first:
        for step, batch in enumerate(first):
            collect(parts, 0, batch)
            if step == 2:
                state = first.state_dict()
                break
    assert (state["epoch"], state["step"]) == (0, 3)
    with open_views(boxes, root, **options) as second:
        second.load_state_dict(state)
        for epoch in range(2):
            second.set_epoch(epoch)
            for batch in second:
                collect(parts, epoch, batch)
        assert second.state_dict()["epoch"] == 2
    assert_equal(whole, parts)
    for changed in ({"seed": 5}, {"batch_size": 16}, {"policy": SMALL.replace(flip=0.1)}):
        with (
            open_views(boxes, root, **(options | changed)) as other,
            pytest.raises(UserError, match=next(iter(changed))),
        ):
            other.load_state_dict(state)


def test_a_loop_left_early_begins_its_epoch_again(demo):
    root, boxes = demo
    with open_views(boxes, root, policy=SMALL, batch_size=8, backend="kornia", device="cpu") as loader:
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
    with open_views(boxes, root, say=said.append, **options) as loader:
        batches = list(loader)
        report = loader.report()
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
    with open_views(boxes, root, on_bad="fail", say=said.append, **options) as loader, pytest.raises(BadFile):
        list(loader)


def test_same_size_other_contents_is_found_by_hash(demo, tmp_path):
    root, boxes = demo
    copy = tmp_path / "demo"
    shutil.copytree(root, copy)
    cache = BoxCache.open(boxes)
    row = int(cache.indices("train")[0])
    data = bytearray((copy / cache.path(row)).read_bytes())
    data[len(data) // 2] ^= 0xFF
    (copy / cache.path(row)).write_bytes(data)
    with open_views(
        boxes, copy, policy=SMALL, batch_size=8, backend="kornia", device="cpu", check="hash", say=lambda _: None
    ) as loader:
        assert row not in torch.cat([b.sources for b in loader]).tolist()
        assert "other contents" in loader.report()["bad_files"][cache.path(row)]


def test_nothing_good_left_is_an_error_not_a_hang(demo, tmp_path):
    _, boxes = demo
    (tmp_path / "empty").mkdir()
    with open_views(
        boxes, tmp_path / "empty", policy=SMALL, batch_size=8, backend="kornia", device="cpu", say=lambda _: None
    ) as loader:
        for _ in range(2):  # also when asked again
            with pytest.raises(UserError, match="no good image is left"):
                next(iter(loader))


def test_closing_ends_every_thread(demo):
    root, boxes = demo
    before = set(threading.enumerate())
    for leave_early in (True, False):
        loader = open_views(boxes, root, policy=SMALL, batch_size=8, backend="kornia", device="cpu", say=lambda _: None)
        for _ in loader:
            if leave_early:
                break
        began = time.monotonic()
        loader.close()
        loader.close()
        assert time.monotonic() - began < 5
        assert set(threading.enumerate()) <= before
        with pytest.raises(RuntimeError, match="closed"):
            next(iter(loader))


def test_unknown_names_are_answered_with_the_known(demo, tmp_path):
    root, boxes = demo
    for options, words in [
        ({"backend": "cuda"}, "dali"),
        ({"split": "val"}, "train"),
        ({"on_bad": "skip"}, "replace"),
        ({"check": "md5"}, "hash"),
    ]:
        with pytest.raises(UserError, match=words):
            open_views(boxes, root, batch_size=8, device="cpu", **options)
    with pytest.raises(UserError, match="no such folder"):
        open_views(boxes, tmp_path / "none", batch_size=8, device="cpu")
    with pytest.raises(UserError, match="center, box, whole"):
        eval_images(boxes, root, crop="middle")


def test_evaluation_images_are_torchvisions(demo):
    from PIL import Image
    from torchvision.transforms import v2

    root, boxes = demo
    cache = BoxCache.open(boxes)
    batches = list(eval_images(boxes, root, split="test", size=64, batch_size=20))
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
    for crop in ("box", "whole"):
        for images, _ in eval_images(boxes, root, split=None, size=32, batch_size=64, crop=crop):
            assert images.shape[1:] == (3, 32, 32)


@pytest.mark.parametrize("backend", ["fused", "eager"])
@pytest.mark.parametrize("changes", [{}, {"scene": "crop"}, {"own": 0.5}, {"name": "rrc"}, {"mode": "paste"}], ids=str)
def test_decoded_pictures_change_nothing_but_the_number_of_decodes(demo, backend, changes):
    root, boxes = demo
    options = {"policy": SMALL.replace(crop_scale=None, **changes), "backend": backend, "batch_size": 8}
    streamed = views_of(demo, **options)
    assert_equal(streamed, views_of(demo, cache="ram", **options))
    said: list[str] = []
    with open_views(boxes, root, device="cpu", cache="ram", say=said.append, **options) as loader:
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
        with open_views(boxes, root, device="cpu", cache="ram", cache_side=side, say=needs.append, **options):
            pass
    full, small = (float(line.split()[3]) for line in needs if "decoded pictures take" in line)  # MB
    assert small < full
    assert_equal(whole, views_of(demo, cache="ram", cache_side=10_000, **options))  # nothing is that large
    with pytest.raises(UserError, match="cache_side=0"):
        open_views(boxes, root, device="cpu", cache="ram", cache_side=0, say=needs.append, **options)


def test_a_small_budget_keeps_what_fits(demo):
    root, boxes = demo
    said: list[str] = []
    options = {"policy": SMALL, "backend": "fused", "batch_size": 8, "device": "cpu"}
    with open_views(boxes, root, cache="ram", cache_bytes=500_000, say=said.append, **options) as loader:
        counts = []
        for _ in range(3):
            for _ in loader:
                pass
            counts.append(loader.report()["decoded"])
    assert any("the others decoded in every epoch" in line for line in said)
    assert 0 < counts[2] - counts[1] < 48
    assert_equal(views_of(demo, backend="fused"), views_of(demo, backend="fused", cache="ram", cache_bytes=500_000))
    for wrong, words in (({"cache": "gpu"}, "use ram"), ({"cache": "ram", "backend": "kornia"}, "backend=fused")):
        with pytest.raises(UserError, match=words):
            open_views(boxes, root, **(options | wrong))


@pytest.mark.parametrize("own", [True, False])
def test_backgrounds_from_further_sets(demo, own, tmp_path):
    root, boxes = demo
    cache = BoxCache.open(boxes)
    options = {"policy": SMALL, "batch_size": 8, "backend": "fused", "device": "cpu", "drop_last": False}
    more = {"background_sets": [(boxes, root), (cache, root)], "own_backgrounds": own}
    used = set()
    with open_views(boxes, root, say=lambda _: None, **options, **more) as loader:
        assert len(loader.images) == 3 * len(cache)
        for epoch in range(4):
            sources = []
            for batch in loader:
                sources += batch.sources.tolist()
                used |= set(batch.backgrounds.flatten().tolist())
                assert len(batch.plan.images) <= 2 * len(batch)
                assert (batch.sources[:, None] != batch.backgrounds).all()
            assert sorted(sources) == cache.indices("train").tolist(), epoch
        assert len(used) > 100
        assert (min(used) < len(cache)) == own
        assert max(used) >= 2 * len(cache)
        path = loader.images.path(2 * len(cache) + 5)
        assert path == cache.path(5)
    assert_equal(views_of(demo, **more), views_of(demo, batch_size=20, workers=3, **more))
    gone = tmp_path / "gone"
    gone.mkdir()
    with open_views(  # a set whose files are all missing: every background has a stand-in from the split itself
        boxes, root, say=lambda _: None, background_sets=[(boxes, gone)], **options
    ) as loader:
        batches = list(loader)
        assert max(int(b.backgrounds.max()) for b in batches) < len(cache)
        assert loader.report()["replaced"] > 0


def test_a_forgotten_loader_ends_its_threads(demo):
    root, boxes = demo
    before = set(threading.enumerate())
    loader = open_views(boxes, root, policy=SMALL, batch_size=8, backend="fused", device="cpu", say=lambda _: None)
    next(iter(loader))
    assert set(threading.enumerate()) > before
    del loader
    gc.collect()
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("backend", ["fused", "kornia", "dali"])
def test_a_program_that_just_ends_does_end(demo, backend):
    """Native code in threads would abort the interpreter, were they not stopped first."""
    if backend == "dali":
        pytest.importorskip("nvidia.dali")
    root, boxes = demo
    lines = (
        "import sys",
        "from augment import Policy, open_views",
        f"loader = open_views(sys.argv[1], sys.argv[2], policy=Policy(size=64), batch_size=8, backend={backend!r})",
        "print(next(iter(loader)).q.shape)",
        "sys.exit(3)",
    )
    command = [sys.executable, "-c", "\n".join(lines), str(boxes), str(root)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 3, done.stderr
    assert "Error" not in done.stderr


FORKED = """
import os, sys, time
from augment import Policy, open_views
loader = open_views(sys.argv[1], sys.argv[2], policy=Policy(size=32, blur_sigma=(0.1, 1.0)), batch_size=8,
                    split=None, backend="eager", device="cpu", workers=1, say=lambda _: None)
batches = iter(loader)
next(batches)
child = os.fork()
if child == 0:
    try:
        for _ in batches:
            pass
    except RuntimeError as error:
        print(error, flush=True)
        os._exit(7)
    os._exit(0)
ended = time.monotonic() + 20
while (done := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < ended:
    time.sleep(0.05)
if done == (0, 0):
    os.kill(child, 9)
    sys.exit("the child hangs")
next(batches)  # the parent goes on
loader.close()
sys.exit(os.waitstatus_to_exitcode(done[1]))
"""


def test_a_forked_process_gets_an_error_and_never_hangs(demo):
    root, boxes = demo
    command = [sys.executable, "-W", "ignore", "-c", FORKED, str(boxes), str(root)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert run.returncode == 7, run.stdout + run.stderr
    assert "call open_views in the process that uses them" in run.stdout


def test_a_thread_that_is_gone_is_an_error_within_seconds():
    """Whatever ends it without a word, an interpreter that shuts down for one."""
    from augment.making import Producer

    producer = Producer(lambda places: iter(()), (0, 0), 1, 2)  # ends without a batch
    began = time.monotonic()
    with pytest.raises(RuntimeError, match="is gone: open the views again"):
        producer.get()
    assert time.monotonic() - began < 5
