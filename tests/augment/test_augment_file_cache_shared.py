"""Several processes on one file of decoded pictures, killed at any instant, and the program that makes such a file."""

import hashlib
import multiprocessing
import multiprocessing.connection
import os
import shutil
import signal
import time
import warnings
from dataclasses import dataclass

import pytest
from loading import SMALL, assert_equal, collect, open_with, views_of
from test_augment_file_cache import IMAGES, epochs, opened, pictures

from precompute.base.boxfile import BoxCache

# Every process is forked from one that has imported torch, and has done nothing else.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["pytest", "torch", "augment.stream.loader", "augment.backends.fused"])


def read(pipe, demo, cache, folder, seed, backend):
    """Opens the views, waits for a word, reads two epochs, and waits for another one."""
    warnings.simplefilter("error")
    options = {"policy": SMALL, "batch_size": 8, "backend": backend, "device": "cpu", "workers": 1, "seed": seed}
    root, boxes = demo
    with open_with(boxes, root, cache=cache, cache_dir=folder, say=lambda _: None, **options) as loader:
        pipe.send("open")
        pipe.recv()
        seen = digests(loader)
        pipe.send((loader.report()["decoded"], seen))
        pipe.recv()


def digests(loader, count=2):
    seen = {}
    for _ in range(count):
        for batch in loader:
            for i, source in enumerate(batch.sources.tolist()):
                pixels = b"".join(view[i].contiguous().numpy().tobytes() for view in batch.views)
                seen[f"{loader.epoch} {source}"] = hashlib.sha256(pixels).hexdigest()
    return seen


@dataclass
class Reader:
    """A process that does `read`, and the pipe to it."""

    process: multiprocessing.process.BaseProcess
    pipe: multiprocessing.connection.Connection

    def kill(self):
        self.process.kill()
        self.process.join()


@pytest.fixture
def start(demo):
    """`start(cache, folder, seed)`: a process that has opened the views."""
    running = []

    def begin(cache, folder, seed=0, backend="fused"):
        ours, theirs = FORKS.Pipe()
        process = FORKS.Process(target=read, args=(theirs, demo, cache, folder, seed, backend))
        process.start()
        theirs.close()
        running.append(Reader(process, ours))
        return running[-1]

    yield begin
    for reader in running:
        reader.kill()
        reader.process.close()
        reader.pipe.close()


@pytest.mark.parametrize("cache", ["disk", "shared"])
def test_four_processes_decode_every_picture_once(demo, tmp_path, start, cache):
    root, boxes = demo
    some = [start(cache, tmp_path, seed, "eager" if cache == "disk" else "fused") for seed in range(4)]
    assert [reader.pipe.recv() for reader in some] == ["open"] * 4
    for reader in some:
        reader.pipe.send("read")
    told = [reader.pipe.recv() for reader in some]
    assert sum(decoded for decoded, _ in told) == IMAGES
    for seed, (_, seen) in enumerate(told):
        options = {"policy": SMALL, "batch_size": 8, "device": "cpu", "workers": 1, "say": lambda _: None}
        with open_with(boxes, root, seed=seed, backend="eager" if cache == "disk" else "fused", **options) as loader:
            assert seen == digests(loader)
    assert len(pictures(tmp_path)) == 1
    for reader in some:
        reader.pipe.send("end")
        reader.process.join()
        assert reader.process.exitcode == 0
    assert len(pictures(tmp_path)) == (cache == "disk")


def test_killed_processes_leave_their_rows_to_others(demo, tmp_path, start):
    """At random instants of the first epoch, while another process decodes the same rows."""
    streamed = views_of(demo, backend="fused")
    with opened(demo, tmp_path, cache="shared", workers=1) as loader:
        for pause in (0.0, 0.005, 0.01, 0.02, 0.04):
            reader = start("shared", tmp_path)
            assert reader.pipe.recv() == "open"
            reader.pipe.send("read")
            time.sleep(pause)
            reader.kill()
        (path,) = pictures(tmp_path)
        seen = {}
        for epoch in range(2):
            for batch in loader:
                collect(seen, epoch, batch)
        assert loader.report()["decoded"] <= IMAGES
        assert_equal(streamed, seen)
        assert path.exists()
    assert not pictures(tmp_path)


def test_a_process_killed_in_the_middle_of_writing_has_written_nothing(demo, tmp_path, monkeypatch):
    """The pixels of a row are half there, its number is not: the row is decoded by the next."""
    streamed = views_of(demo, backend="fused")
    process = FORKS.Process(target=killed_while_writing, args=(demo, tmp_path))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    (path,) = pictures(tmp_path)
    with opened(demo, tmp_path) as loader:
        assert epochs(loader) == [IMAGES - 20]
    assert_equal(streamed, views_of(demo, backend="fused", cache="disk", cache_dir=tmp_path))
    assert path.exists()


def killed_while_writing(demo, folder):
    from augment.backends.decoded_file import FileCache

    write, writes = FileCache._write, []

    def half(self, *parts, at):
        writes.append(at)
        if len(writes) == 41:  # pixels and number of twenty rows are written
            write(self, parts[0][: len(parts[0]) // 2].copy(), at=at)
            os.kill(os.getpid(), signal.SIGKILL)
        write(self, *parts, at=at)

    FileCache._write = half
    with opened(demo, folder) as loader:
        epochs(loader)


def test_a_stopped_process_holds_nobody_up_for_ever(demo, tmp_path, monkeypatch):
    from augment.backends import fused

    monkeypatch.setattr(fused, "_PATIENCE", 0.2)
    streamed = views_of(demo, backend="fused")
    with opened(demo, tmp_path) as holder:
        cache = holder._maker.backend._cache
        row = int(holder.schedule.rows[0])
        assert cache.begin(row)  # and never ends
        assert_equal(streamed, views_of(demo, backend="fused", cache="disk", cache_dir=tmp_path))
        cache.end(row)
        assert row not in cache
        assert len(cache) == IMAGES - 1


def test_what_killed_trainings_left_is_swept(demo, tmp_path, start):
    reader = start("shared", tmp_path)
    assert reader.pipe.recv() == "open"
    (orphan,) = pictures(tmp_path)
    said: list[str] = []
    other = {"cache": "shared", "policy": SMALL.replace(size=40), "say": said.append}
    with opened(demo, tmp_path, **other):  # it lives
        assert orphan.exists()
    reader.kill()
    with opened(demo, tmp_path, **other):
        assert not orphan.exists()
    assert any("removed 1 file" in line for line in said)
    assert not pictures(tmp_path)


def test_the_program_makes_the_file_that_trainings_read(demo, tmp_path, run_here):
    root, boxes = demo
    broken = tmp_path / "images"
    shutil.copytree(root, broken)
    path = BoxCache.open(boxes).path(int(BoxCache.open(boxes).indices("train")[3]))
    data = bytearray((broken / path).read_bytes())
    data[len(data) // 2 :] = b"\xff\xff" * ((len(data) - len(data) // 2) // 2 + 1)
    folder = tmp_path / "kept"
    flags = ("--boxes", boxes, "--cache-dir", folder, "--size", 32, "--scene", "whole", "--own", 0)
    (broken / path).write_bytes(data[:-5])
    done = run_here("augment.pack", *flags, "--root", broken)
    assert done.returncode == 0, done.stderr
    assert f"{IMAGES - 1} pictures decoded, 1 bad files left out" in done.stdout
    assert path in done.stderr
    done = run_here("augment.pack", *flags, "--root", root)
    assert done.returncode == 0, done.stderr
    assert "1 pictures decoded" in done.stdout
    with opened(demo, folder, policy=SMALL) as loader:
        assert epochs(loader) == [0]
    done = run_here("augment.pack", *flags, "--root", broken, "--split", "all", "--on-bad", "fail")
    assert done.returncode == 1
    assert path in done.stderr
