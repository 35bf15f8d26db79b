"""Files that are read a batch at a time: the bytes of one by one; what is special about a file is left to that."""

import dataclasses
import hashlib
import os
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from augment.backends import native
from augment.backends.recycled import Blocks
from augment.backends.threads import share_out
from augment.stream.files import FileReader
from augment.stream.imageset import ImageSet
from precompute.base.errors import BadFile
from tests.augment.loading import assert_equal, views_of


@pytest.fixture
def reader():
    with ThreadPoolExecutor(2) as threads:
        yield FileReader(native.load(), lambda work: share_out(threads, 2, work, [()] * 2))


def damage(path, kind):
    data = bytearray(path.read_bytes())
    if kind == "missing":
        return path.unlink()
    if kind == "longer":
        data += b"\0"
    elif kind == "shorter":
        del data[-1]
    elif kind == "never written":
        middle = len(data) // 2
        data[middle : middle + 70] = bytes(70)
    else:
        data[-1] ^= 1  # no end marker
    path.write_bytes(data)


def test_batches_are_read_as_single_files_are(demo, reader, tmp_path):
    root, boxes = demo
    shutil.copytree(root, tmp_path / "set")
    images = ImageSet.open(boxes, tmp_path / "set", say=lambda _: None)
    rows = np.random.default_rng(0).permutation(len(images))[:40]
    plain = [bool(images.parts[0][0].plain[row]) for row in rows]
    whole = images.read_many(rows, reader)
    assert [data is not None for data in whole] == plain
    for row, data in zip(rows.tolist(), whole, strict=True):
        assert data is None or data == images.read(row)
    bad = rows[np.flatnonzero(plain)[:5]].tolist()
    for row, kind in zip(bad, ("missing", "longer", "shorter", "never written", "no end"), strict=True):
        damage(tmp_path / "set" / images.path(row), kind)
        with pytest.raises(BadFile):
            images.read(row)
    again = images.read_many(rows, reader)
    lost = {row for row, was, now in zip(rows.tolist(), whole, again, strict=True) if was is not None and now is None}
    assert lost == set(bad)


def test_a_file_without_marks_is_judged_by_its_hash(demo, reader, tmp_path):
    """Zeros may be a picture's own: such a file is sound where its contents are those of the box file."""
    root, boxes = demo
    images = ImageSet.open(boxes, root, say=lambda _: None)
    row = int(np.flatnonzero(images.parts[0][0].plain)[0])
    data = images.read(row)
    cache = images.parts[0][0]
    odd = data[:-2] + b"\0" * 70 + data[-2:]
    (tmp_path / images.path(row)).parent.mkdir(parents=True)
    (tmp_path / images.path(row)).write_bytes(odd)
    sizes, hashes = cache.file_sizes.copy(), cache.hashes.copy()
    sizes[row], hashes[row] = len(odd), np.frombuffer(hashlib.sha256(odd).digest()[:16], np.uint8)
    same = dataclasses.replace(cache, file_sizes=sizes, hashes=hashes)
    assert reader.read(same, os.fspath(tmp_path), np.array([row])) == [odd]
    hashes[row, 0] ^= 1
    assert reader.read(same, os.fspath(tmp_path), np.array([row])) == [None]


def test_memory_is_used_again_when_nobody_holds_it(demo, reader):
    images = ImageSet.open(demo[1], demo[0], say=lambda _: None)
    rows = np.flatnonzero(images.parts[0][0].plain)[:8]
    first = images.read_many(rows, reader)
    held = bytes(first[0])
    second = images.read_many(rows[::-1], reader)
    assert len(reader._blocks._blocks) == 2
    assert first[0] == held, "memory that somebody holds is not written to"
    del first, second
    assert images.read_many(rows, reader)[0] == held
    assert len(reader._blocks._blocks) == 2


def test_memory_grows_with_what_is_held_at_a_time():
    """Not with every batch that is larger than those before."""
    blocks = Blocks()
    for room in (100, 200, 1000, 500, 4000):
        assert len(blocks.take(room)) >= room
    assert len(blocks._blocks) == 1
    held = blocks.take(300)
    assert len(blocks.take(300)) >= 300
    assert sorted(map(len, blocks._blocks)) == [337, len(held)]


@pytest.mark.parametrize("backend", ["fused", "dali"])
def test_views_are_those_of_files_read_one_by_one(demo, monkeypatch, backend):
    if backend == "dali":
        pytest.importorskip("nvidia.dali")
    calls, read = [], FileReader.read
    monkeypatch.setattr(FileReader, "read", lambda self, *given: calls.append(given) or read(self, *given))
    many = views_of(demo, backend=backend)
    assert calls
    monkeypatch.setattr("augment.stream.maker.BatchMaker._at_once", lambda self: None)
    assert_equal(many, views_of(demo, backend=backend))
