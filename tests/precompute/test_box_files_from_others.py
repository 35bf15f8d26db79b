"""A box file from somebody else: done, or one line with its name and the remedy; no other file is read."""

import dataclasses
import time
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from archive_sets import files_below, zip_of
from box_files_by_hand import inspected, malformed, outcome, sealed

from precompute.base.boxcheck import BadBoxes, leaves_root
from precompute.base.boxfile import BoxCache, write
from precompute.base.errors import UserError


@pytest.mark.parametrize("seed", range(40))
def test_any_malformed_file_is_done_or_refused_in_one_line(demo_boxes, demo_root, tmp_path, seed):
    file = tmp_path / "theirs.h5"
    file.write_bytes(malformed(demo_boxes, seed, demo_boxes))
    outcome(file, demo_root)


@pytest.fixture(scope="module")
def shards(demo_root, tmp_path_factory) -> tuple[Path, Path]:
    """The demo set's pictures as a deflated zip, and its box file."""
    from precompute.boxes import make_boxes

    folder = tmp_path_factory.mktemp("shards")
    root = zip_of(folder / "set.zip", files_below(demo_root / "images"), zipfile.ZIP_DEFLATED)
    make_boxes("folder", root=str(root), out=str(folder / "set.h5"), say=lambda line: None)
    return folder / "set.h5", root


@pytest.mark.parametrize("seed", range(1000, 1040))
def test_any_malformed_file_of_an_archive_is_done_or_refused_in_one_line(shards, tmp_path, seed):
    file = tmp_path / "theirs.h5"
    file.write_bytes(malformed(shards[0], seed, shards[0]))
    outcome(file, shards[1])


def by_hand(good: Path, to: Path, change) -> Path:
    """`good` after `change(h5)`, with a right checksum."""
    to.write_bytes(good.read_bytes())
    with h5py.File(to, "r+") as h5:
        change(h5)
    to.write_bytes(sealed(to.read_bytes()))
    return to


def set_row(name: str, value):
    def change(h5) -> None:
        values = h5["columns"][name][()]
        values[1] = value
        h5["columns"][name][...] = values

    return change


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("widths", -3, "the width of .* is -3, not from 1"),
        ("widths", 0, "the width of .* is 0, not from 1"),
        ("heights", -(2**31), "the height of .* is -2147483648"),
        ("heights", 2**31 - 1, "the height of .* is 2147483647"),
        ("banners", -1, "the banner of .* is -1"),
        ("file_sizes", 2**62 + 1, "the size in bytes of"),
        ("labels", -2, "the label of .* is -2, not from -1 to 15"),
        ("labels", 16, "the label of .* is 16, not from -1 to 15"),
        ("splits", 2, "the split of .* is 2, not from 0 to 1"),
        ("sources", 9, "the source of .* is 9"),
        ("scores", 1.5, r"the score of .* is 1\.5, not from 0 to 1"),
        ("scores", np.nan, "the score of .* is not of finite numbers"),
        ("boxes", (-0.1, 0, 1, 1), "the box of .* is -0.1 0 1 1, not x0 < x1"),
        ("boxes", (0.5, 0, 0.5, 1), "the box of .* is 0.5 0 0.5 1"),
        ("boxes", (0, 0, 1, 1.01), "the box of .* is 0 0 1 1.01"),
        ("paths", b"../../outside.jpg", "the path '../../outside.jpg' leaves the folder"),
        ("paths", b"/etc/passwd", "the path '/etc/passwd' leaves the folder"),
        ("paths", b"a\\..\\..\\x.jpg", "leaves the folder"),
        ("paths", b"C:\\x.jpg", "leaves the folder"),
        ("paths", b"a\0b.jpg", "is no file's name"),
        ("paths", b"", "is no file's name"),
        ("paths", b"a\xff.jpg", "is not UTF-8"),
    ],
)
def test_a_number_or_path_that_cannot_be_is_named(demo_boxes, demo_root, tmp_path, name, value, said):
    file = by_hand(demo_boxes, tmp_path / "theirs.h5", set_row(name, value))
    with pytest.raises(UserError, match=rf"theirs\.h5: .*{said}.*make it again with") as caught:
        BoxCache.open(file)
    assert "\n" not in str(caught.value)
    status, out, err = inspected(file, demo_root)
    assert (status, out, err.count("\n")) == (1, "", 1)


def test_the_mark_of_a_plain_file_is_a_bool(demo_boxes, tmp_path):
    def change(h5) -> None:
        values = h5["columns/plain"][()]
        values.view(np.uint8)[3] = 7
        h5["columns/plain"].id.write(h5py.h5s.ALL, h5py.h5s.ALL, values)

    with pytest.raises(UserError, match=r"mark for plain files of .* is 7"):
        BoxCache.open(by_hand(demo_boxes, tmp_path / "x.h5", change))


def outside(h5, name: str, other: Path) -> None:
    values = h5["columns"][name][()]
    del h5["columns"][name]
    h5["columns"].create_dataset(name, values.shape, values.dtype, external=[(str(other), 0, values.nbytes)])


def virtual(h5, name: str, other: Path) -> None:
    layout = h5py.VirtualLayout(h5["columns"][name].shape, h5["columns"][name].dtype)
    layout[...] = h5py.VirtualSource(str(other), f"columns/{name}", layout.shape)
    del h5["columns"][name]
    h5["columns"].create_virtual_dataset(name, layout)


def linked(h5, name: str, other: Path) -> None:
    del h5["columns"][name]
    h5["columns"][name] = h5py.ExternalLink(str(other), f"columns/{name}")


def all_linked(h5, _: str, other: Path) -> None:
    del h5["columns"]
    h5["columns"] = h5py.ExternalLink(str(other), "columns")


@pytest.mark.parametrize("name", ["paths", "boxes", "plain"])
@pytest.mark.parametrize("way", [outside, virtual, linked, all_linked])
def test_values_in_other_files_are_not_read(demo_boxes, tmp_path, way, name):
    file = by_hand(demo_boxes, tmp_path / "x.h5", lambda h5: way(h5, name, demo_boxes))
    with h5py.File(file) as h5:
        assert len(h5[f"columns/{name}"]) == 96  # HDF5 itself follows it
    with pytest.raises(UserError, match=r"x\.h5: not as precompute\.boxes writes it .*make it again"):
        BoxCache.open(file)


@pytest.mark.parametrize("rows", [2**33, 2**50])
def test_more_rows_than_any_memory_are_refused_at_once(demo_boxes, tmp_path, rows):
    def change(h5) -> None:
        for name in sorted(h5["columns"]):
            shape, dtype = h5["columns"][name].shape, h5["columns"][name].dtype
            del h5["columns"][name]
            h5["columns"].create_dataset(name, (rows, *shape[1:]), dtype)

    file = by_hand(demo_boxes, tmp_path / "x.h5", change)
    assert file.stat().st_size < 100_000
    before = time.process_time()
    with pytest.raises(UserError, match="which are not all in the file"):
        BoxCache.open(file)
    assert time.process_time() - before < 1


def test_a_size_that_no_memory_holds_asks_for_none(demo_boxes, demo_root, tmp_path):
    cache = BoxCache.open(demo_boxes)
    cache = dataclasses.replace(cache, file_sizes=np.full(len(cache), 2**62))
    assert len(cache.read(demo_root, 0, check="none")) > 1000


def test_an_empty_file_is_said_to_be_empty(demo_boxes, demo_root, tmp_path):
    cache = BoxCache.open(demo_boxes)
    none = {
        f.name: value[:0] for f in dataclasses.fields(cache) if isinstance(value := getattr(cache, f.name), np.ndarray)
    }
    write(tmp_path / "x.h5", dataclasses.replace(cache, **none))
    status, _, err = inspected(tmp_path / "x.h5", demo_root)
    assert (status, "holds no pictures" in err) == (1, True)


@pytest.mark.parametrize(
    "path", ["a..b.jpg", "..a/x.jpg", "a/b../x.jpg", "a\\b.jpg", "a:b.jpg", "ab:/x.jpg", ".../x.jpg"]
)
def test_odd_names_of_files_in_the_folder_are_good(demo_boxes, path):
    assert not leaves_root(path)
    cache = BoxCache.open(demo_boxes)
    paths = cache.paths.copy()
    paths[5] = path.encode()
    assert dataclasses.replace(cache, paths=paths).path(5) == path


def test_a_cache_made_in_memory_is_checked_too(demo_boxes):
    cache = BoxCache.open(demo_boxes)
    with pytest.raises(BadBoxes, match=r"column widths: -1, not from 1 .*row 0, 96 in all"):
        dataclasses.replace(cache, widths=np.full_like(cache.widths, -1))


def test_a_link_inside_the_folder_is_the_users_own(demo_boxes, demo_root, tmp_path):
    cache = BoxCache.open(demo_boxes)
    (tmp_path / "root").symlink_to(demo_root)
    assert cache.read(tmp_path / "root", 0, "hash")
