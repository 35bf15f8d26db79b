"""An image folder that is away for a moment, or for good, in mid-run and in mid-pass."""

import contextlib
import errno
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from augment import Making, Policy, open_views
from precompute.base import away
from precompute.base.away import Patient
from precompute.base.boxfile import BoxCache
from precompute.base.errors import UserError

POLICY = Policy(size=32)


@pytest.fixture
def root(demo_root: Path, tmp_path: Path) -> Path:
    shutil.copytree(demo_root, tmp_path / "set")
    return tmp_path / "set"


@pytest.fixture
def said() -> list[str]:
    return []


def is_away(folder: Path, seconds: float) -> threading.Thread:
    """Renames the folder now, and back after some seconds."""
    elsewhere = folder.with_name(folder.name + "-away")
    folder.rename(elsewhere)

    def back() -> None:
        time.sleep(seconds)
        elsewhere.rename(folder)

    thread = threading.Thread(target=back)
    thread.start()
    return thread


def views(boxes: Path, root: Path, say: Callable, **options: Any):
    making = Making(device="cpu", backend="eager", workers=2, say=say, **options)
    return open_views(boxes, root, policy=POLICY, batch_size=8, making=making)


@pytest.mark.parametrize("part", ["", "images"])  # the root itself, and a folder in it that is mounted
@pytest.mark.parametrize("on_bad", ["replace", "fail"])
def test_views_wait_for_a_folder_and_stay_equal(demo_boxes, root, said, part, on_bad):
    with views(demo_boxes, root, lambda line: None) as loader:
        expected = [batch.views for batch in loader]
    with views(demo_boxes, root, said.append, on_bad=on_bad) as loader:
        moment = is_away(root / part, 0.7)
        seen = [batch.views for batch in loader]
        moment.join()
        assert loader.report()["replaced"] == 0
    for ours, theirs in zip(seen, expected, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert sum("is away: waiting" in line for line in said) == 1
    assert sum("is back after" in line for line in said) == 1


def test_a_root_that_stays_away_is_one_error_and_no_list_of_bad_files(demo_boxes, root, said, monkeypatch):
    monkeypatch.setattr(away, "LIMIT", 0.5)
    for empty in (False, True):  # also where the point of the mount is left, with nothing in it
        with views(demo_boxes, root, said.append) as loader:
            root.rename(root.with_name("gone"))
            if empty:
                root.mkdir()
            with pytest.raises(UserError, match="the image folder is gone"):
                list(loader)
            assert not loader.report()["bad_files"]
        shutil.rmtree(root, ignore_errors=True)
        root.with_name("gone").rename(root)


def test_a_file_that_is_missing_is_not_waited_for(demo_boxes, root, said):
    cache = BoxCache.open(demo_boxes)
    path = cache.path(int(cache.indices("train")[0]))
    (root / path).unlink()
    started = time.monotonic()
    with views(demo_boxes, root, said.append) as loader:
        list(loader)
        assert list(loader.report()["bad_files"]) == [path]
    assert not any("waiting" in line for line in said)
    assert time.monotonic() - started < 30


def test_a_loader_that_waits_can_be_closed(demo_boxes, root, said):
    loader = views(demo_boxes, root, said.append)
    root.rename(root.with_name("gone"))

    def wait() -> None:
        with contextlib.suppress(UserError, RuntimeError):
            next(iter(loader))

    threading.Thread(target=wait, daemon=True).start()
    while not said or "waiting" not in said[-1]:
        time.sleep(0.02)
    started = time.monotonic()
    loader.close()
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.ETIMEDOUT])
def test_errors_of_a_network_are_tried_again(tmp_path, said, number):
    (tmp_path / "a.jpg").write_bytes(b"content")
    failures = [OSError(number, os.strerror(number))] * 2

    def read() -> bytes:
        if failures:
            raise failures.pop()
        return (tmp_path / "a.jpg").read_bytes()

    assert Patient(tmp_path, said.append).read("a.jpg", read) == b"content"
    failures = [OSError(number, os.strerror(number))] * 9
    with pytest.raises(OSError, match=os.strerror(number)):
        Patient(tmp_path, said.append).read("a.jpg", read)
    assert len(failures) == 9 - away.TRIES


def test_folders_that_are_gone_for_good_are_waited_for_once(tmp_path, said, monkeypatch):
    """Not once for each of a thousand: the waits in vain have one limit together."""
    monkeypatch.setattr(away, "LIMIT", 0.5)
    (tmp_path / "there.txt").touch()
    folder, started = Patient(tmp_path, said.append), time.monotonic()
    for number in range(200):
        path = f"class{number}/a.jpg"
        with pytest.raises(FileNotFoundError):
            folder.read(path, (tmp_path / path).read_bytes)
    assert time.monotonic() - started < 5
    assert len(said) == 2


def test_a_pass_waits_too_and_writes_the_same_file(root, tmp_path, capfd):
    from precompute.boxes import make_boxes
    from precompute.datasets import read_dataset
    from precompute.scan import Scan, ScanSettings

    listing = read_dataset("demo", str(root))
    moment = is_away(root / "images", 0.7)
    table = Scan(listing, ScanSettings(truth=True, detector=None), workers=2).run(0, len(listing))
    moment.join()
    assert not table.quarantine
    assert capfd.readouterr().err.count("is away: waiting") == 1
    whole = make_boxes("demo", root=str(root), out=str(tmp_path / "whole.h5"), say=lambda line: None)
    assert (whole.hashes == table.hashes).all()
    assert (whole.boxes == table.boxes).all()


def test_a_pass_whose_root_stays_away_fails_and_quarantines_nothing(root, monkeypatch):
    from precompute.datasets import read_dataset
    from precompute.scan import Scan, ScanSettings

    monkeypatch.setattr(away, "LIMIT", 0.3)
    listing = read_dataset("demo", str(root))
    root.rename(root.with_name("gone"))
    with pytest.raises(UserError, match="the image folder is gone"):
        Scan(listing, ScanSettings(truth=True, detector=None), workers=2).run(0, len(listing))
