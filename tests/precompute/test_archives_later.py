"""Archives that are changed, away, or read again after an interruption."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from archive_sets import FILES, files_below, tar_of

from precompute.base.errors import BadFile, UserError
from precompute.boxes import make_boxes
from precompute.datasets import read_dataset
from precompute.scan import read_picture


def test_a_changed_archive_is_noticed(tmp_path):
    archive, out = tar_of(tmp_path / "set.tar", FILES), str(tmp_path / "set.h5")
    cache = make_boxes("folder", root=str(archive), out=out, say=lambda line: None)
    data = archive.read_bytes()
    archive.write_bytes(data.replace(FILES[1][1][50:90], bytes(40)))
    with pytest.raises(BadFile, match="changed since"):
        cache.read(archive, 1, "hash")
    archive.write_bytes(data[: data.index(FILES[3][1]) + 9])
    make_boxes("folder", root=str(archive), out=str(tmp_path / "other.h5"), say=lambda line: None)
    for check in (lambda: cache.read(archive, 3), lambda: cache.check_size(archive, 3)):
        with pytest.raises(BadFile, match="archive ends before it does"):
            check()
    with pytest.raises(UserError, match="pictures have changed since"):
        make_boxes("folder", root=str(archive), out=out, say=lambda line: None)
    tar_of(archive, reversed(FILES))  # the same pictures in other places
    with pytest.raises(UserError, match="4 changed"):
        make_boxes("folder", root=str(archive), out=out, say=lambda line: None)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"offsets": -2}, "place in its archive"), ({"offsets": 2**62 + 1}, "place in its archive"),
        ({"packed": -1}, "packed size"), ({"packed": 1}, "packed size"), ({"packed": 2**40}, "packed size"),
        ({"offsets": -1, "packed": 9999}, "packed size"), ({"file_sizes": 2**40}, "within an archive"),
    ],
)  # fmt: skip
def test_a_box_file_may_not_lead_elsewhere(tmp_path, changes, fault):
    from dataclasses import replace

    archive = tar_of(tmp_path / "set.tar", FILES)
    cache = make_boxes("folder", root=str(archive), out=str(tmp_path / "set.h5"), say=lambda line: None)
    columns = {name: getattr(cache, name).copy() for name in changes}
    for name, value in changes.items():
        columns[name][2] = value
    with pytest.raises(ValueError) as raised:
        replace(cache, **columns)
    assert fault in getattr(raised.value, "for_user", "")
    with pytest.raises(ValueError, match="belong together"):
        replace(cache, packed=None)


def test_an_archive_that_is_away_is_waited_for(tmp_path, monkeypatch):
    from precompute.base import away, members
    from precompute.base.away import Patient

    monkeypatch.setattr(away, "LIMIT", 0.4)
    tar_of(tmp_path / "set.tar", FILES)
    (tmp_path / "shards").mkdir()
    tar_of(tmp_path / "shards" / "train-0.tar", FILES)
    said: list[str] = []
    for root, path in ((tmp_path / "set.tar", "a/0.jpg"), (tmp_path / "shards", "train-0.tar/a/0.jpg")):
        patient = Patient(root, said.append)
        gone = root.with_name("gone")
        root.rename(gone)
        members.forget()

        def read(root: Path = root, path: str = path) -> bytes:
            (root if root.name == "set.tar" else root / "train-0.tar").stat()
            return b"read"

        with pytest.raises(UserError, match="is gone"):
            patient.read(path, read)
        gone.rename(root)
        assert patient.read(path, read) == b"read"
    assert sum("waiting" in line for line in said) == 2
    (tmp_path / "shards" / "train-0.tar").unlink()  # a shard that is missing in a folder that is there is missing
    shutil.copy(tmp_path / "set.tar", tmp_path / "shards" / "train-1.tar")
    with pytest.raises(FileNotFoundError):
        Patient(tmp_path / "shards", said.append).read("train-0.tar/a/0.jpg", read)
    assert sum("waiting" in line for line in said) == 2


def test_a_descriptor_of_a_file_system_that_was_mounted_anew_is_opened_again(tmp_path, monkeypatch):
    import errno
    import os

    from precompute.base import members
    from precompute.base.away import Patient

    archive = tar_of(tmp_path / "set.tar", FILES)
    cache = make_boxes("folder", root=str(archive), out=str(tmp_path / "set.h5"), say=lambda line: None)
    stale, pread = members.opened(str(archive)).number, os.pread

    def read(number: int, count: int, offset: int) -> bytes:
        if number == stale and members.opened.cache_info().currsize:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return pread(number, count, offset)

    monkeypatch.setattr(os, "pread", read)
    with pytest.raises(BadFile, match="Stale"):
        cache.read(archive, 2)
    assert not members.opened.cache_info().currsize
    monkeypatch.setattr(os, "pread", pread)
    assert Patient(archive, print).read(cache.path(2), lambda: cache.read(archive, 2)) == FILES[2][1]


def test_an_interrupted_pass_goes_on_and_other_archives_never_meet_its_parts(tmp_path):
    from precompute.scan import Scan, ScanSettings
    from precompute.shards import fingerprint, merge

    archive = tar_of(tmp_path / "set.tar", FILES)
    listing = read_dataset("folder", archive)
    scan = Scan(listing, ScanSettings(truth=False, detector=None), workers=1)
    both = merge(listing, [scan.run(0, 2), scan.run(2, 4)], {})
    whole = scan.run(0, 4)
    assert both.offsets is not None
    assert np.array_equal(both.offsets, whole.offsets)
    before = fingerprint(listing)
    assert fingerprint(read_dataset("folder", archive)) == before
    tar_of(archive, FILES)  # the same bytes at another time
    same, later = fingerprint(read_dataset("folder", archive))
    assert same == before[0]
    assert later != before[1]


def test_files_below_and_open_descriptors_are_bounded(tmp_path):
    from precompute.base import members

    for number in range(members.KEPT + 20):
        tar_of(tmp_path / f"s-{number:04d}.tar", FILES[:1])
    assert len(files_below(tmp_path)) == members.KEPT + 20
    listing = read_dataset("folder", tmp_path)
    assert len(listing) == members.KEPT + 20
    assert members.opened.cache_info().currsize == members.KEPT
    assert {read_picture(listing, i) for i in range(len(listing))} == {FILES[0][1]}
    members.forget()  # each is closed with its last reader
    assert members.opened.cache_info().currsize == 0


def test_the_end_of_a_program_is_quiet_whatever_is_still_open(tmp_path):
    archive = tar_of(tmp_path / "set.tar", FILES)
    program = """if True:
        import ctypes, sys
        from precompute.base import members
        members.opened(sys.argv[1])
        # As something that outlives the interpreter does: its module is emptied before the archive is closed.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(members))
    """
    done = subprocess.run(
        [sys.executable, "-c", program, archive], cwd=Path(__file__).parents[2], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
