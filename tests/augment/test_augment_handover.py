"""What happens ahead of the training loop: runs of DALI begun early, and batches handed from stream to stream."""

import ctypes
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_augment_backends import birds, plan_of  # noqa: F401 - a fixture

from augment import Making, backends
from augment.backends import dali_runs
from augment.backends.torch_ops import decode
from augment.stream.handover import Handover, put
from augment.stream.producer import Made
from augment.views.policy import Policy

POLICY = Policy(size=32, blur_sigma=(0.1, 1.0))
MAKING = Making(device="cpu", workers=2).settled()


@pytest.fixture
def two_lanes(monkeypatch):
    """As on CUDA, where one pipeline decodes ahead."""
    pytest.importorskip("nvidia.dali")
    monkeypatch.setitem(dali_runs.LANES, "cpu", 2)


def batches(images, count: int):
    """Plans and files of a few batches of 8."""
    plans = [plan_of(POLICY, images, 8, start=8 * k) for k in range(count)]
    return [(plan, [images.read(i) for i in plan.images.tolist()]) for plan in plans]


def built(images, name: str = "dali"):
    return backends.build(name, POLICY, MAKING, batch=8)


def test_runs_begun_ahead_give_the_same_views(birds, two_lanes, monkeypatch):  # noqa: F811
    work = batches(birds, 4)
    with monkeypatch.context() as single:
        single.setitem(dali_runs.LANES, "cpu", 1)
        backend = built(birds)
        expected = [backend.render(*batch) for batch in work]
    backend = built(birds)
    backend.begin(*work[0])
    found = []
    for k in range(4):
        if k < 3:
            backend.begin(*work[k + 1])
        found.append(backend.render(*work[k]))
    backend.begin(*work[0])  # never asked for: what comes next is not mistaken for it
    backend.begin(*work[1])
    found += [backend.render(*work[2]), backend.render(*work[1])]
    for a, b in zip(found, [*expected, expected[2], expected[1]], strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    backend.close()


def test_a_run_that_failed_ahead_is_known_when_its_batch_is_asked_for(birds, two_lanes):  # noqa: F811
    (first, good), (second, files), third = batches(birds, 3)
    broken = [data[: len(data) // 3] + b"\xff" * 50 for data in files]
    backend = built(birds)
    backend.begin(first, good)
    backend.begin(second, broken)
    before = backend.render(first, good)
    backend.begin(*third)
    with pytest.raises(RuntimeError):
        backend.render(second, broken)
    backend.reset()
    again = backend.render(second, files)
    backend.render(*third)
    assert all(torch.equal(a, b) for a, b in zip(backend.render(first, good), before, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(backend.render(second, files), again, strict=True))
    backend.close()


@pytest.fixture
def fused(monkeypatch, birds, two_lanes):  # noqa: F811
    """A function (cached) to the fused backend of CUDA on a CPU; its views are the pictures its kernels would get."""
    from augment.backends import fused_cuda
    from augment.backends.decoded import DecodedCache

    def cut(images, crops, slot, out):  # whole pictures are kept
        for job, picture in zip(crops, pixels_of(images.address[slot], images.sides[slot]), strict=True):
            place = out.data_ptr() + int(job["out"].astype(np.int64))
            ctypes.memmove(place, picture.data_ptr(), picture.numel())

    monkeypatch.setattr(fused_cuda, "make_views", lambda policy, plan, x, *_: pixels_of(x.address, x.sides))
    monkeypatch.setattr(fused_cuda, "cut_crops", cut)

    def build(cached: bool):
        cache = DecodedCache(POLICY.replace(scene="zoom"), birds.pool, 1 << 30) if cached else None
        return fused_cuda.FusedCudaBackend(POLICY, MAKING, 8, cache)

    return build


def pixels_of(addresses: np.ndarray, sides: np.ndarray) -> list[torch.Tensor]:
    """Copies of the pixels there, uint8 [height, width, 3]."""
    pictures = []
    for address, (width, height) in zip(addresses.tolist(), sides.tolist(), strict=True):
        picture = torch.empty((height, width, 3), dtype=torch.uint8)
        ctypes.memmove(picture.data_ptr(), address, picture.numel())
        pictures.append(picture)
    return pictures


def assert_decoded(pictures, files):
    """Right pictures in the right places."""
    for picture, data in zip(pictures, files, strict=True):
        height, width = picture.shape[:2]
        assert torch.equal(picture, decode(data).permute(1, 2, 0)[:height, :width])


@pytest.mark.parametrize("cached", [False, True])
def test_the_fused_backends_decoder_runs_ahead(birds, fused, cached):  # noqa: F811
    backend, work = fused(cached), batches(birds, 3)
    for turn in range(2):
        backend.begin(*work[0])
        for k in range(3):
            backend.begin(*work[(k + 1) % 3])
            assert_decoded(backend.render(*work[k]), work[k][1])
        assert all(backend.holds(int(row)) == cached for row in work[0][0].images), turn
    backend.reset()
    assert len(backend.render(*work[1])) == len(work[1][1])
    backend.close()


def test_batches_of_kept_pictures_between_others_leave_those_that_were_begun(birds, fused):  # noqa: F811
    """As when an epoch that was left in its middle begins again: kept pictures first, then new ones, some of both."""
    backend = fused(cached=True)
    plans = [plan_of(POLICY, birds, 8, start=start) for start in (0, 6, 12, 14)]
    work = [(plan, [birds.read(i) for i in plan.images.tolist()]) for plan in plans]
    assert_decoded(backend.render(*work[0]), work[0][1])
    before = counted(backend._decoder._runs)
    backend.begin(*work[0])
    for k in range(4):
        if k < 3:
            backend.begin(*work[k + 1])
        assert_decoded(backend.render(*work[k]), work[k][1])
    assert before == [1, 1, 1], "each batch is decoded once"
    backend.close()


@pytest.mark.parametrize("name", ["dali", "fused"])
def test_after_a_reset_every_batch_is_still_decoded_once(birds, two_lanes, fused, name):  # noqa: F811
    backend = fused(cached=False) if name == "fused" else built(birds)
    work = batches(birds, 4)
    backend.begin(*work[0])
    backend.begin(*work[1])
    backend.reset()  # as after a bad file in the first batch, with the second one begun
    begun = counted(backend._runs if name == "dali" else backend._decoder._runs)
    backend.render(*work[0])
    for k in range(1, 4):
        if k < 3:
            backend.begin(*work[k + 1])
        backend.render(*work[k])
    assert len(begun) == 4
    backend.close()


def counted(runs: dali_runs.Runs) -> list[int]:
    """A list that gets a 1 for every run that begins."""
    begun, begin = [], runs.begin

    def count(*args):
        begun.append(1)
        begin(*args)

    runs.begin = count  # type: ignore[method-assign]
    return begun


def test_a_lanes_memory_is_released_before_its_next_run(monkeypatch):
    """What kernels read of the run that was finished last is kept by its own lane, until that lane runs again."""
    told = []

    class Lane:
        def __init__(self, device):
            self.name, self.rows, self.fed = sum(1 for t in told if t[0] == "lane"), 8, {}
            told.append(("lane", self.name))
            self.keep = lambda tensors: told.append(("keep", self.name, tensors))
            self.release = lambda: told.append(("release", self.name))
            self.pipe = SimpleNamespace(
                schedule_run=lambda: told.append(("run", self.name)), outputs=lambda: f"of {self.name}"
            )

    monkeypatch.setattr(dali_runs, "Lane", Lane)
    monkeypatch.setitem(dali_runs.LANES, "cpu", 2)
    runs = dali_runs.Runs(torch.device("cpu"), lambda rows: (None, rows))
    told.clear()
    runs.begin("a", 8, {})
    runs.begin("b", 8, {})
    assert runs.finish("a") == "of 0"
    runs.keep("views of a")
    runs.begin("c", 8, {})
    assert runs.finish("b") == "of 1"
    runs.keep("views of b")
    assert told == [
        ("release", 0), ("run", 0), ("release", 1), ("run", 1), ("keep", 0, "views of a"),
        ("release", 0), ("run", 0), ("keep", 1, "views of b"),
    ]  # fmt: skip


class Recorder:
    """Stands for torch.cuda where there is none: writes down what is asked of streams, in order."""

    def __init__(self) -> None:
        self.told: list[tuple] = []

    def stream(self, name: str):
        return SimpleNamespace(
            record_event=lambda: self.told.append((name, "record")) or f"event of {name}",
            wait_event=lambda event: self.told.append((name, "wait", event)),
        )

    def tensor(self, name: str):
        return SimpleNamespace(device="cuda", record_stream=lambda _: self.told.append((name, "is used there")))


def test_batches_are_handed_over_by_an_event_and_the_host_never_waits(monkeypatch):
    recorder = Recorder()
    making, training = recorder.stream("making"), recorder.stream("training")
    monkeypatch.setattr(torch.cuda, "Stream", lambda device, priority: making)
    monkeypatch.setattr(torch.cuda, "stream", lambda s: nullcontext(recorder.told.append(("within", s is making))))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: training)
    handover = Handover(torch.device("cuda"))
    views, numbers = (recorder.tensor("q"), recorder.tensor("k")), [recorder.tensor(n) for n in "rsbl"]
    with handover.producing():
        event = handover.give()
    names = ("rects", "sources", "backgrounds", "labels")
    batch = SimpleNamespace(views=views, **dict(zip(names, numbers, strict=True)))
    assert Made(batch, {}, event).take() is batch  # type: ignore[arg-type]
    assert recorder.told == [
        ("within", True),
        ("making", "record"),
        ("training", "wait", "event of making"),
        *((name, "is used there") for name in "qkrsbl"),
    ]


def test_on_a_cpu_nothing_is_handed_over():
    handover = Handover(torch.device("cpu"))
    numbers = torch.arange(3)
    with handover.producing():
        assert put(numbers, handover.device) is numbers
        assert handover.give() is None
    Handover.take(None, [numbers])
