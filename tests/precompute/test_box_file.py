"""The box file: equal contents give equal bytes, and nothing damaged is ever read."""

import dataclasses
import errno
import hashlib
import os
import resource
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest

from precompute.base.boxfile import BoxCache, Quarantined, write
from precompute.base.errors import BadFile, UserError


def make(n: int = 5, seed: int = 0, **changes) -> BoxCache:
    rng = np.random.default_rng(seed)
    values = {
        "dataset": "cub",
        "class_names": ("001.Weißkehl", "002.b"),
        "split_names": ("train", "test"),
        "source_names": ("gt", "geodesic", "whole"),
        "paths": np.array([f"images/ü {i}.jpg".encode() for i in range(n)], dtype="S32"),
        "file_sizes": rng.integers(1, 1 << 40, n),
        "hashes": rng.integers(0, 256, (n, 16)).astype(np.uint8),
        "widths": rng.integers(1, 9999, n).astype(np.int32),
        "heights": rng.integers(1, 9999, n).astype(np.int32),
        "banners": np.zeros(n, np.int16),
        "labels": rng.integers(-1, 2, n).astype(np.int32),
        "splits": (np.arange(n) % 2).astype(np.uint8),
        "boxes": np.sort(rng.random((n, 2, 2)), 1).reshape(n, 4).astype(np.float32),
        "sources": np.zeros(n, np.uint8),
        "scores": np.ones(n, np.float32),
        "plain": rng.random(n) < 0.9,
        "quarantine": (Quarantined("images/bad.jpg", "empty file (0 bytes)"),),
        "provenance": {"config": {"dataset": "cub", "gamma": 0.05}, "fingerprint": "ab"},
    }
    return BoxCache(**(values | changes))


def same(a: BoxCache, b: BoxCache) -> None:
    for f in dataclasses.fields(BoxCache):
        left, right = getattr(a, f.name), getattr(b, f.name)
        if isinstance(left, np.ndarray):
            np.testing.assert_array_equal(left, right, err_msg=f.name)
            assert left.dtype == right.dtype, f.name
        else:
            assert left == right, f.name


@pytest.mark.parametrize("truths", [True, False])
@pytest.mark.parametrize("n", [0, 1, 5])
def test_round_trip(tmp_path, n, truths):
    cache = make(n, truths=np.full((n, 4), np.nan, np.float32) if truths else None)
    write(tmp_path / "new folder" / "x.h5", cache)
    again = BoxCache.open(tmp_path / "new folder" / "x.h5")
    same(cache, again)
    assert len(again) == n
    assert [again.path(i) for i in range(n)] == [f"images/ü {i}.jpg" for i in range(n)]


def test_any_hdf5_reader_takes_it(tmp_path):
    write(tmp_path / "x.h5", make())
    with h5py.File(tmp_path / "x.h5") as h5:
        assert h5.attrs["schema"] == 1
        boxes = h5["columns/boxes"]
        assert isinstance(boxes, h5py.Dataset)
        assert boxes.shape == (5, 4)
        assert boxes.chunks is None  # contiguous
    assert (tmp_path / "x.h5").read_bytes()[:512].startswith(b"saliencyswap boxes, schema 1, ")


def test_equal_contents_give_equal_bytes(tmp_path):
    write(tmp_path / "a.h5", make())
    time.sleep(1.1)  # HDF5's time stamps count seconds
    write(tmp_path / "b.h5", make())
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_every_flipped_bit_and_every_cut_is_noticed(tmp_path):
    write(tmp_path / "x.h5", make())
    data = (tmp_path / "x.h5").read_bytes()
    rng = np.random.default_rng(0)
    path = tmp_path / "damaged.h5"
    for at in [*range(0, 512), *rng.integers(512, len(data), 150).tolist(), len(data) - 1]:
        damaged = bytearray(data)
        damaged[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"damaged\.h5: (damaged|not a box file|written in schema)"):
            BoxCache.open(path)
    for length in [0, 1, 511, 512, 513, *rng.integers(514, len(data), 30).tolist(), len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(UserError, match=r"(end is missing|not a box file).*make it again with"):
            BoxCache.open(path)
    path.write_bytes(data + b"\0")
    with pytest.raises(UserError, match="damaged"):
        BoxCache.open(path)


def test_errors_name_the_file_and_the_remedy(tmp_path):
    with pytest.raises(UserError, match=r"none\.h5: no such file.*precompute\.boxes"):
        BoxCache.open(tmp_path / "none.h5")
    with pytest.raises(UserError, match="directory"):
        BoxCache.open(tmp_path)
    with h5py.File(tmp_path / "other.h5", "w") as h5:
        h5["x"] = 1
    with pytest.raises(UserError, match="HDF5 of another kind"):
        BoxCache.open(tmp_path / "other.h5")
    write(tmp_path / "x.h5", make())
    data = (tmp_path / "x.h5").read_bytes()
    (tmp_path / "x.h5").write_bytes(data.replace(b"schema 1,", b"schema 7,"))
    with pytest.raises(UserError, match=r"schema 7, this version reads schema 1.*--rebuild"):
        BoxCache.open(tmp_path / "x.h5")


def test_splits():
    cache = make()
    assert cache.indices("train").tolist() == [0, 2, 4]
    assert cache.indices("test").dtype == np.int64
    assert cache.indices(None).tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(UserError, match="no split 'tets'; it has: train, test"):
        cache.indices("tets")


def test_parts_of_a_split_hold_out_a_third_of_each_class():
    cache = make(600)
    fit, dev = cache.indices("train/fit"), cache.indices("train/dev")
    assert sorted([*fit, *dev]) == cache.indices("train").tolist()
    for label in (-1, 0, 1):
        both = [int((cache.labels[rows] == label).sum()) for rows in (fit, dev)]
        assert both[1] == sum(both) // 3
    assert make(4).indices("test/dev").tolist() == []
    for wrong in ("train/", "train/test", "/fit", "tets/fit"):
        with pytest.raises(UserError, match="NAME/fit"):
            cache.indices(wrong)


def test_read_notices_a_changed_file(tmp_path):
    data = b"contents"
    digest = np.frombuffer(hashlib.sha256(data).digest()[:16], np.uint8)
    cache = make(1, file_sizes=np.array([len(data)]), hashes=digest[None])
    file = tmp_path / cache.path(0)
    file.parent.mkdir()
    file.write_bytes(data)
    assert cache.read(tmp_path, 0, check="hash") == data
    file.write_bytes(b"Contents")
    assert cache.read(tmp_path, 0) == b"Contents"
    with pytest.raises(BadFile, match="same size, other contents") as caught:
        cache.read(tmp_path, 0, check="hash")
    assert caught.value.path == "images/ü 0.jpg"
    file.write_bytes(b"longer than it was")
    assert cache.read(tmp_path, 0, check="none") == b"longer than it was"
    with pytest.raises(BadFile, match="18 bytes, not 8"):
        cache.read(tmp_path, 0)
    file.unlink()
    with pytest.raises(BadFile, match="No such file"):
        cache.read(tmp_path, 0)


@pytest.mark.parametrize("size", [0, 7, 9])
def test_a_changed_size_is_noticed_without_reading(tmp_path, size):
    """Of the picture that changed, and of no other: the one before and the one behind it are as they were."""
    cache = make(3, file_sizes=np.array([7, 8, 9]))
    for i in range(3):
        file = tmp_path / cache.path(i)
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"7 bytes" + b"." * i)
        cache.check_size(tmp_path, i)
    (tmp_path / cache.path(1)).write_bytes(b"x" * size)
    cache.check_size(tmp_path, 0)
    cache.check_size(tmp_path, 2)
    with pytest.raises(BadFile, match=rf"changed since the boxes were made: {size} bytes, not 8") as caught:
        cache.check_size(tmp_path, 1)
    assert caught.value.path == "images/ü 1.jpg"
    (tmp_path / cache.path(1)).unlink()
    with pytest.raises(BadFile, match=r"images/ü 1\.jpg: cannot be read below .*No such file"):
        cache.check_size(tmp_path, 1)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", range(4))
def test_boxes_that_are_no_numbers_are_neither_written_nor_read(tmp_path, value, side):
    boxes = make().boxes.copy()
    boxes[2, side] = value
    with pytest.raises(ValueError, match="column boxes: not of finite numbers"):
        make(boxes=boxes)
    cache = make()
    cache.boxes[2:4, side] = value  # behind its back: as a version before wrote it
    write(tmp_path / "x.h5", cache)
    with pytest.raises(UserError, match=r"x\.h5: the box of images/ü 2\.jpg is not of finite numbers \(2 in all\)"):
        BoxCache.open(tmp_path / "x.h5")


def test_wrong_columns_are_refused():
    with pytest.raises(ValueError, match="column boxes: float64"):
        make(boxes=np.zeros((5, 4)))
    with pytest.raises(ValueError, match="column labels"):
        make(labels=np.zeros(4, np.int32))
    with pytest.raises(ValueError, match="column truth"):
        make(truths=np.zeros((4, 4), np.float32))


FULL_DISK = """
import resource, signal, sys
sys.path[:0] = [{root!r}, {tests!r}]
from test_box_file import make
from precompute.base.boxfile import write
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
cache = make(20000, seed=1)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    write({path!r}, cache)
except OSError as error:
    print(error.errno, error.filename)
"""


def test_full_disk_names_the_file_and_keeps_the_old_one(tmp_path):
    path = tmp_path / "x.h5"
    write(path, make())
    tests = os.path.dirname(__file__)
    code = FULL_DISK.format(root=os.path.dirname(os.path.dirname(tests)), tests=tests, path=str(path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == [str(errno.EFBIG), str(path)], done.stderr
    same(BoxCache.open(path), make())
    assert os.listdir(tmp_path) == ["x.h5"]


def test_a_million_rows_load_at_once(tmp_path):
    """ImageNet's 1,281,167 rows with all checks. The limit is generous, for these machines are noisy: aim ≤ 0.5 s."""
    n = 1_281_167
    paths = np.char.add(np.char.add(b"train/n01440764/n01440764_", np.arange(n).astype("S7")), b".JPEG")
    write(tmp_path / "big.h5", make(n, paths=paths.astype("S38"), quarantine=()))
    assert (tmp_path / "big.h5").stat().st_size < 140e6
    BoxCache.open(tmp_path / "big.h5")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    cache = BoxCache.open(tmp_path / "big.h5")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_utime - before < 1.0
    assert len(cache) == n
