"""Crops that helpers cut give the batches that are made here, to the bit; helpers that would cut others are refused."""

import json
import shutil
import time
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from augment import Making, Policy, Source, open_views
from augment.backends.fused import FusedBackend
from augment.service.helper import Answer, Helper
from augment.service.stream import Stream
from augment.views.kinds import KINDS
from precompute.base.errors import BadValue, UserError

SMALL = Policy(size=32, blur_sigma=(0.1, 1.0), group=4)
HERE = Making(backend="fused", device="cpu", workers=2, say=lambda _: None)


@pytest.fixture
def maps(demo, tmp_path):
    """A folder with a map of every picture."""
    from PIL import Image

    root, boxes = demo
    with open_views(boxes, root, policy=SMALL, batch_size=8, making=HERE) as loader:
        images = loader.images
    for row in range(len(images)):
        target = tmp_path / "maps" / f"{images.path(row)}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        height, width = images.shape(row)
        Image.fromarray(np.tile(np.arange(width) * 255 // width, (height, 1)).astype(np.uint8)).save(target)
    return tmp_path / "maps"


def stream_of(source, loader):
    return Stream.of(source, loader.images, loader.schedule, HERE, loader._maker.backend.name)


def from_crops(maker, place, crops, answer):
    """The batch that a trainer makes of a helper's crops, as `HelpedMaker` does."""
    from augment.service.client import finished

    return finished(maker, place, crops, Answer.from_json(answer)).batch


def equal(a, b):
    assert all(torch.equal(x, y) for x, y in zip(a.views, b.views, strict=True))
    for name in ("rects", "sources", "backgrounds", "labels"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name


@pytest.mark.parametrize(
    "policy",
    [
        *(replace(SMALL, name=name, crop_scale=None) for name in KINDS),
        replace(SMALL, scene="zoom", own=0.5),
        replace(SMALL, scene="crop", mode="paste", rotate=0.5, colour="torchvision"),
    ],
    ids=str,
)
def test_crops_of_a_helper_make_the_same_batch(demo, maps, policy):
    root, boxes = demo
    source = Source(str(boxes), str(root), maps=str(maps) if policy.kind.maps else None)
    helper = Helper(Source(str(boxes), str(root)), workers=1)
    with open_views(source, policy=policy, batch_size=8, seed=3, making=HERE) as loader:
        stream = stream_of(source, loader).to_json()
        assert helper.admit(stream) == ""
        for step, batch in enumerate(loader):
            crops, answer = helper.cut(stream, 0, step)
            crops = crops.copy()
            crops.setflags(write=False)  # as Ray gives them
            equal(batch, from_crops(loader._maker, (0, step), crops, answer))
    assert helper.report()["batches"] == 6
    assert helper.report()["samples"] == 48
    helper.close()


def test_ranks_have_streams_of_their_own(demo):
    from augment import Share

    root, boxes = demo
    source, helper = Source(str(boxes), str(root)), Helper(Source(str(boxes), str(root)), workers=1)
    for rank in range(2):
        with open_views(source, policy=SMALL, batch_size=8, making=HERE, share=Share(rank, 2)) as loader:
            batch = next(iter(loader))
            equal(batch, from_crops(loader._maker, (0, 0), *helper.cut(stream_of(source, loader).to_json(), 0, 0)))
            assert len(batch) == 4
    helper.close()


def test_a_bad_file_is_decided_by_the_helper_and_named_once_by_the_trainer(demo, tmp_path):
    root, boxes = demo
    shutil.copytree(root, tmp_path / "bad")
    source = Source(str(boxes), str(root))
    with open_views(source, policy=SMALL, batch_size=8, making=HERE) as loader:
        some = next(iter(loader)).sources.tolist()
    cut, gone = (tmp_path / "bad" / loader.images.path(row) for row in some[:2])
    data = cut.read_bytes()
    cut.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))
    gone.unlink()
    said = []
    source = Source(str(boxes), str(tmp_path / "bad"))
    helper = Helper(source, workers=1)
    making = replace(HERE, say=said.append)
    with (
        open_views(source, policy=SMALL, batch_size=8, making=HERE) as here,
        open_views(source, policy=SMALL, batch_size=8, making=making) as loader,
    ):
        said.clear()
        for epoch in range(2):
            for step, batch in enumerate(here):
                crops, answer = helper.cut(stream_of(source, loader).to_json(), epoch, step)
                equal(batch, from_crops(loader._maker, (epoch, step), crops, answer))
        assert loader.report()["bad_files"] == here.report()["bad_files"]
        assert len(loader.report()["bad_files"]) == 2
    assert sorted(line.split(": ")[1] for line in said) == sorted(loader.images.path(row) for row in some[:2])
    helper.close()


class Late:
    """A fleet with one helper that is alive and never answers in time; asks for no time itself."""

    def __init__(self):
        self.ready, self.refused, self.ready_since, self.given = {"a": None}, {}, {"a": 0.0}, []

    def ask(self, name, epoch, step):
        return epoch, step

    def done(self, reference, seconds):
        self.given.append(seconds)
        return False

    def lose(self, name):
        self.ready_since[name] = time.monotonic()  # it says at once that it is there

    def close(self):
        pass


def test_a_helper_that_is_late_is_given_half_a_second_more_and_no_place_is_lost(demo):
    """The training waits (`wanted`) and makes the batch itself; a helper that is only slow is believed step by step."""
    from augment.service.client import HelpedMaker

    root, boxes = demo
    with (
        open_views(boxes, root, policy=SMALL, batch_size=8, making=HERE) as loader,
        open_views(boxes, root, policy=SMALL, batch_size=8, making=HERE) as helped,
    ):
        fleet = Late()
        maker = HelpedMaker(helped._maker, fleet)
        maker.wanted.set()
        made = maker.make((0, step) for step in range(6))
        for expected, batch in zip(loader, made, strict=False):
            equal(expected, batch.take())
        assert maker.status()["service"]["made_here"] == maker.status()["service"]["late"] == len(fleet.given) >= 4
        # One that is new is expected to take a second.
        assert all(given <= 1.0 + 0.5 * (i + 1) for i, given in enumerate(fleet.given))


class TestRefusals:
    """Each names both sides."""

    @pytest.fixture
    def opened(self, demo):
        root, boxes = demo
        source, helper = Source(str(boxes), str(root)), Helper(Source(str(boxes), str(root)), workers=1)
        with open_views(source, policy=SMALL, batch_size=8, making=HERE) as loader:
            yield helper, stream_of(source, loader)
        helper.close()

    @pytest.mark.parametrize("name", ["code", "libraries", "processor", "kernel"])
    def test_another_kind_of_helper(self, opened, name):
        helper, stream = opened
        other = "eager" if name == "kernel" else "something else"
        changed = replace(stream, maker=replace(stream.maker, **{name: other}))
        refusal = helper.admit(changed.to_json())
        if name == "kernel":  # it can be either
            assert refusal == ""
            return
        assert getattr(stream.maker, name) in refusal
        assert other in refusal
        with pytest.raises(UserError, match="something else"):
            helper.cut(changed.to_json(), 0, 0)

    def test_another_box_file(self, opened):
        helper, stream = opened
        refusal = helper.admit(replace(stream, pictures="0123456789abcdef").to_json())
        assert stream.pictures in refusal
        assert "0123456789abcdef" in refusal
        assert "has no split" in helper.admit(replace(stream, split="tset").to_json()) or "tset" in helper.admit(
            replace(stream, split="tset").to_json()
        )

    def test_a_request_of_another_version(self, opened):
        helper, stream = opened
        values = asdict(stream)
        assert "another version" in helper.admit(json.dumps({**values, "new": 1}))
        del values["seed"]
        assert "another version" in helper.admit(json.dumps(values))
        assert "another version" in helper.admit("[]")

    def test_crops_of_another_size(self, opened):
        helper, stream = opened
        backend = helper._maker(stream.to_json()).backend
        assert isinstance(backend, FusedBackend)
        with pytest.raises(ValueError, match="the plan asks for"):
            backend.finish(helper._maker(stream.to_json()).prepare((0, 0)).plan, np.zeros(7, np.uint8))


@pytest.mark.parametrize(
    ("making", "words"),
    [
        ({"service": "dask"}, "one of off, ray"),
        ({"address": "auto"}, "left out without a service"),
        ({"service": "ray", "cache": "ram"}, "off with service ray"),
        ({"service": "ray", "backend": "kornia"}, r"fused \(or eager on a CPU\)"),
    ],
)
def test_what_cannot_be_is_refused(demo, making, words):
    root, boxes = demo
    with pytest.raises(BadValue, match=words):
        open_views(boxes, root, policy=SMALL, batch_size=8, making=replace(Making(device="cpu", say=print), **making))


def test_ranks_need_a_cluster_that_they_share(demo):
    from augment import Share

    root, boxes = demo
    making = replace(HERE, service="ray")
    with pytest.raises(BadValue, match="ray start --head"):
        open_views(boxes, root, policy=SMALL, batch_size=8, making=making, share=Share(0, 2))


def test_without_the_extra_the_message_names_it(demo, monkeypatch):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "ray" else find(name, *a))
    root, boxes = demo
    with pytest.raises(BadValue, match=r"pip install 'saliencyswap\[ray\]'"):
        open_views(boxes, root, policy=SMALL, batch_size=8, making=replace(HERE, service="ray"))
