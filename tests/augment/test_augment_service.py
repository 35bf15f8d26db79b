"""Crops that helpers cut give the batches that are made here, to the bit; helpers that would cut others are refused."""

import hashlib
import json
import shutil
import threading
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


class Fleet:
    """One helper; `come(place)` says whether its answer is there."""

    def __init__(self, come, crops=None):
        self.ready, self.refused, self.asked, self.given = {"a": None}, {}, [], []
        self.come, self._crops = come, crops

    def ask(self, name, *place):
        self.asked.append(place)
        return place

    def done(self, reference, seconds):
        if seconds > 0.05:
            self.given.append(seconds)
        elif seconds:  # it is asked again and again
            time.sleep(0.001)
        return self.come(reference)

    def take(self, reference):
        return self._crops(reference)

    def lose(self, name):
        raise AssertionError("it is alive")

    def close(self):
        pass


@pytest.fixture
def helped(demo):
    """`helped(come)`: the maker of a training with one helper, its `Fleet`, and batches to compare with."""
    from augment.service.client import HelpedMaker

    root, boxes = demo
    source = Source(str(boxes), str(root))
    with (
        open_views(source, policy=SMALL, batch_size=8, making=HERE) as loader,
        open_views(source, policy=SMALL, batch_size=8, making=HERE) as here,
    ):
        helper, stream = Helper(source, workers=1), stream_of(source, loader).to_json()

        def made(come):
            fleet = Fleet(come, lambda place: helper.cut(stream, *place))
            maker = HelpedMaker(here._maker, fleet)
            maker.wanted.set()  # the training waits
            return maker, fleet, zip(loader, maker.make((0, step) for step in range(8)), strict=False)

        yield made
        helper.close()


def counts(maker, *names):
    return tuple(maker.status()["service"][name] for name in names)


def test_a_helper_that_stands_still_is_waited_for_once(helped):
    from augment.service.client import EACH, SLACK

    maker, fleet, pairs = helped(lambda place: False)
    for expected, made in pairs:
        equal(expected, made.take())
    assert fleet.given == [SLACK]  # then it owes an answer
    assert fleet.asked == [(0, step) for step in range(EACH)]
    assert counts(maker, "made_here", "late", "made_there", "helpers", "patience") == (6, EACH, 0, 0, SLACK)


def test_a_helper_that_was_late_serves_again_when_it_has_answered(helped):
    still = {(0, 0), (0, 1)}
    maker, _, pairs = helped(lambda place: place not in still)
    for step, (expected, made) in enumerate(pairs):
        equal(expected, made.take())
        if step == 2:
            still.clear()
    assert counts(maker, "made_here", "late", "made_there", "helpers") == (3, 2, 3, 1)


def test_a_slow_helper_loses_no_work_and_is_waited_for_as_long_as_it_usually_takes(helped, monkeypatch):
    """What is begun here is not waited for: the answer that comes first is taken."""
    from augment.service.client import SLACK

    late, begun = {(0, 0), (0, 1), (0, 2), (0, 3)}, threading.Event()

    def come(place):
        if place in late and begun.is_set():  # it comes when its batch has been begun here
            late.remove(place)
            begun.clear()
            time.sleep(0.1)
        return place not in late

    maker, fleet, pairs = helped(come)
    prepare = maker._here.prepare
    monkeypatch.setattr(maker._here, "prepare", lambda place: begun.set() or time.sleep(0.3) or prepare(place))
    for step, (expected, made) in enumerate(pairs):
        equal(expected, made.take())
        assert counts(maker, "made_there", "made_here") == (step + 1, 0)
    assert counts(maker, "in_vain", "late", "lost") == (4, 0, 0)
    first, _, *more = fleet.given  # the second, as the work begun first may still go on
    assert first == SLACK
    assert all(SLACK + 0.1 <= given <= SLACK + counts(maker, "takes")[0] for given in more)


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
        values["maker"]["code"] = "0123456789ab"
        assert f"the helper's is {stream.maker.code}, the trainer's 0123456789ab" in helper.admit(
            json.dumps({**values, "new": 1})
        )
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


def test_the_token_is_named_by_its_place_and_a_digest(monkeypatch, tmp_path):
    from augment.service.cluster import token_in_use

    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / ".ray" / "auth_token"
    assert token_in_use() == f"none: RAY_AUTH_TOKEN is not set, and {file} cannot be read"
    file.parent.mkdir()
    file.write_text("secret\n")
    digest = hashlib.sha256(b"secret").hexdigest()[:6]
    assert token_in_use() == f"that of {file}, digest {digest}"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "other"))
    (tmp_path / "other").write_text("another")
    assert token_in_use().startswith(f"that of {tmp_path / 'other'}, digest ")
    assert digest not in token_in_use()
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    assert token_in_use() == f"that of RAY_AUTH_TOKEN, digest {digest}"
