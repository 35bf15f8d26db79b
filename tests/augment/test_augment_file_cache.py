"""Pictures kept in a file: decoded once in all, equal to the bit, whatever happens to who shares it."""

import os
import resource
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from loading import SMALL, assert_equal, open_with, views_of

from precompute.base.errors import BadValue, UserError

FILE = ("disk", "shared")
IMAGES = 48  # of the demo set's split train


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "kept"


def opened(demo, folder, cache="disk", **options):
    root, boxes = demo
    folder.mkdir(exist_ok=True)
    options = {"policy": SMALL, "batch_size": 8, "backend": "fused", "device": "cpu", "say": lambda _: None} | options
    return open_with(boxes, root, cache=cache, cache_dir=folder, **options)


def epochs(loader, count=1):
    """Decodes of each epoch."""
    seen = []
    for _ in range(count):
        for _ in loader:
            pass
        seen.append(loader.report()["decoded"])
    return seen


def pictures(folder):
    return sorted(folder.glob("*.pictures"))


@pytest.mark.parametrize("backend", ["fused", "eager"])
@pytest.mark.parametrize("cache", FILE)
@pytest.mark.parametrize("changes", [{}, {"scene": "crop"}, {"own": 0.5}, {"name": "rrc"}], ids=str)
def test_views_are_those_of_no_cache(demo, folder, backend, cache, changes):
    options = {"policy": SMALL.replace(crop_scale=None, **changes), "backend": backend, "batch_size": 8}
    folder.mkdir()
    streamed = views_of(demo, **options)
    for _ in range(2):  # where the file is new, and where it lies there
        assert_equal(streamed, views_of(demo, cache=cache, cache_dir=folder, **options))
        assert len(pictures(folder)) == (cache == "disk")
    side = {"cache_side": 64} | options
    assert_equal(views_of(demo, cache="ram", **side), views_of(demo, cache=cache, cache_dir=folder, **side))


def test_a_second_run_decodes_nothing(demo, folder):
    with opened(demo, folder) as loader:
        assert epochs(loader, 2) == [IMAGES, IMAGES]
    said: list[str] = []
    with opened(demo, folder, seed=1, policy=SMALL.replace(gray_p=0.1), say=said.append) as loader:
        assert epochs(loader) == [0]
    assert any(f"{IMAGES} of {IMAGES} pictures are there" in line for line in said)
    with opened(demo, folder, policy=SMALL.replace(size=40)) as loader:  # other pixels are kept: another file
        assert epochs(loader) == [IMAGES]
    assert len(pictures(folder)) == 2


def test_the_file_lies_beside_the_box_file_and_is_this_users(demo, tmp_path):
    root, boxes = demo
    mine = Path(shutil.copy(boxes, tmp_path / "mine.h5"))
    with open_with(mine, root, cache="disk", policy=SMALL, batch_size=8, device="cpu", say=lambda _: None) as loader:
        epochs(loader)
        (path,) = pictures(tmp_path)
        assert path.stat().st_mode & 0o777 == 0o600
        with pytest.raises(BadValue, match="cache_dir=None: must be a folder where `boxes` is an opened box file"):
            open_with(loader.images.parts[0][0], root, cache="disk", policy=SMALL, batch_size=8, device="cpu")


@pytest.mark.parametrize("cache", FILE)
def test_rows_beyond_the_budget_are_decoded_each_time(demo, folder, cache):
    streamed = views_of(demo, backend="fused")
    folder.mkdir()
    small = {"cache": cache, "cache_bytes": 500_000}
    assert_equal(streamed, views_of(demo, backend="fused", cache_dir=folder, **small))
    with opened(demo, folder, **small) as loader:
        _, second, third = epochs(loader, 3)
        assert 0 < third - second < IMAGES
        assert all(path.stat().st_size < 600_000 for path in pictures(folder))
    with opened(demo, folder, cache_bytes=0, cache=cache) as loader:
        assert epochs(loader, 2) == [IMAGES, 2 * IMAGES]
    if cache == "disk":  # a larger budget goes on where the smaller one ended
        with opened(demo, folder) as loader:
            assert epochs(loader) == [third - second]


def test_a_damaged_picture_is_decoded_again(demo, folder):
    streamed = views_of(demo, backend="fused")
    folder.mkdir()
    views_of(demo, backend="fused", cache="disk", cache_dir=folder)
    (path,) = pictures(folder)
    with path.open("r+b") as file:  # a bit of the last picture's pixels
        file.seek(-200, os.SEEK_END)
        byte = file.read(1)[0]
        file.seek(-200, os.SEEK_END)
        file.write(bytes([byte ^ 4]))
    said: list[str] = []
    with opened(demo, folder, say=said.append) as loader:
        assert epochs(loader) == [1]
    assert any("damaged pictures in it are decoded again" in line for line in said)
    assert_equal(streamed, views_of(demo, backend="fused", cache="disk", cache_dir=folder))
    with opened(demo, folder) as loader:
        assert epochs(loader) == [0]


def test_a_cut_file_loses_what_was_cut(demo, folder):
    with opened(demo, folder) as loader:
        epochs(loader)
    (path,) = pictures(folder)
    os.truncate(path, path.stat().st_size // 2)
    with opened(demo, folder) as loader:
        assert 0 < epochs(loader)[0] < IMAGES
    os.truncate(path, 3)  # not even its head
    with opened(demo, folder) as loader:
        assert epochs(loader) == [IMAGES]


def test_a_torn_head_is_made_anew_and_a_foreign_file_refused(demo, folder):
    with opened(demo, folder) as loader:
        epochs(loader)
        (path,) = pictures(folder)
        whole = path.read_bytes()
        with path.open("r+b") as file:
            file.write(whole[:40] + b"x")
        with pytest.raises(UserError, match="another process uses it"):
            opened(demo, folder)
    with opened(demo, folder) as loader:
        assert epochs(loader) == [IMAGES]
    path.write_bytes(b"something else of the user's" + whole[:5000])
    with pytest.raises(UserError, match="no file of decoded pictures"):
        opened(demo, folder)
    assert path.read_bytes().startswith(b"something else")
    path.chmod(0o620)
    with pytest.raises(UserError, match="others may read it"):
        opened(demo, folder)
    path.unlink()
    path.symlink_to(folder / "elsewhere")
    with pytest.raises(UserError, match=r"Name another folder by cache_dir"):
        opened(demo, folder)
    assert not (folder / "elsewhere").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_file_of_another_user_is_refused(demo, folder):
    with opened(demo, folder) as loader:
        epochs(loader)
    (path,) = pictures(folder)
    os.chown(path, 65534, 65534)
    with pytest.raises(UserError, match="belongs to somebody else"):
        opened(demo, folder)


@pytest.mark.parametrize("cache", FILE)
def test_no_room_is_an_error_with_a_remedy_and_nothing_is_lost(demo, folder, cache):
    with opened(demo, folder, cache=cache, cache_bytes=500_000) as loader:
        kept = epochs(loader, 2)
        (path,) = pictures(folder)
        before = path.stat().st_size
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (before + 8192, limits[1]))
        try:
            with pytest.raises(
                UserError, match=r"no room for .* GB of decoded pictures \(File too large\).*cache_bytes"
            ):
                opened(demo, folder, cache=cache)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert path.stat().st_size == before
        assert epochs(loader)[0] - kept[1] == kept[1] - kept[0]
    assert len(pictures(folder)) == (cache == "disk")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")
@pytest.mark.parametrize("cache", FILE)
def test_a_small_file_system_is_an_error_before_anything_is_written(demo, folder, cache):
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        remedy = "shm-size" if cache == "shared" else "Free some"
        with pytest.raises(UserError, match=rf"no room for .* GB.*\(No space left on device\).*{remedy}.*cache_bytes"):
            opened(demo, folder, cache=cache, cache_bytes=1 << 40)
        assert not pictures(folder)
        with opened(demo, folder, cache=cache, cache_bytes=500_000) as loader:
            epochs(loader)
        said: list[str] = []
        with opened(demo, folder, cache="disk", say=said.append) as loader:  # half of what is free
            epochs(loader)
        assert any("the others decoded in every epoch" in line for line in said)
    finally:
        subprocess.run(["umount", folder], check=True)


def test_what_cannot_be_is_refused(demo, folder):
    root, boxes = demo
    for options, words in (
        ({"cache": "ram", "cache_dir": "x"}, "left out without cache disk or shared"),
        ({"cache": "disk", "cache_dir": 3}, "the path of a folder"),
        ({"cache": "disk", "backend": "kornia"}, "fused or eager"),
        ({"cache": "shared", "cache_dir": folder / "none"}, "no such folder"),
        ({"cache": "disk", "cache_dir": boxes / "x"}, "Name another folder"),
        ({"cache": "gpu"}, "must be ram, disk, shared or off"),
    ):
        with pytest.raises(UserError, match=words):
            open_with(boxes, root, policy=SMALL, batch_size=8, device="cpu", say=lambda _: None, **options)


def descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.parametrize("cycles", [20, pytest.param(500, marks=pytest.mark.slow)])
def test_attaching_and_detaching_leaves_nothing(demo, cycles, tmp_path):
    root, boxes = demo
    options = {"policy": SMALL, "batch_size": 8, "device": "cpu", "workers": 1}
    options |= {"cache": "shared", "cache_dir": tmp_path}  # tests beside this one have files in /dev/shm
    for i in range(cycles + 1):
        if i == 1:
            open_files = descriptors()
        if i == 10:
            pages = resident()
        with open_with(boxes, root, say=lambda _: None, seed=i, **options) as loader:
            if i % 10 == 0:
                next(iter(loader))
            with open_with(boxes, root, say=lambda _: None, **options):
                assert len(list(tmp_path.iterdir())) == 1
    assert not list(tmp_path.iterdir())
    assert descriptors() == open_files
    assert resident() - pages < 60 << 20
    assert torch.get_num_threads() > 0
