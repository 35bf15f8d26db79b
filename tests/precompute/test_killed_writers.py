"""Every prefix of the writer's system calls, replayed as what a kill or a power cut would leave; then a resume.

How they are recorded and replayed: crash_disk.py.
"""

import contextlib
import os
import random
import shutil
from copy import deepcopy
from pathlib import Path

import pytest
from crash_disk import Disk, Inode, Replay, outcomes, record

from precompute.base import errors
from precompute.base import program as programs
from precompute.base.boxfile import BoxCache
from precompute.base.files import replacing, sweep


@pytest.fixture
def quiet_boxes(capsys):
    def run(*arguments: object) -> None:
        from precompute.boxes import program

        with pytest.raises(SystemExit) as stopped:
            programs.main(program, [*map(str, arguments)])
        assert stopped.value.code == 0, capsys.readouterr().err
        capsys.readouterr()

    return run


def replay_everything(quiet_boxes, demo_root: Path, tmp_path: Path, shard: int, rebuild: bool, share: float) -> int:
    """All outcomes of all prefixes; a `share` of the different ones is also resumed. Returns how many there were."""
    top, rng = tmp_path / "out", random.Random(shard)
    (tmp_path / "log").mkdir()
    common = ["--dataset", "demo", "--root", str(demo_root), "--workers", "1"]
    wanted = [*common, "--shard", str(shard)]
    quiet_boxes(*wanted, "--out", tmp_path / "final.h5")
    final = (tmp_path / "final.h5").read_bytes()
    disk = Disk(str(top))
    old, flags = None, []
    top.mkdir()
    if rebuild:  # over an older file, of other settings
        quiet_boxes(*common, "--source", "spectral-residual", "--out", top / "x.h5")
        old = (top / "x.h5").read_bytes()
        disk.enter(str(top / "x.h5"), Inode(old, old))
        disk.lasting[str(top)] = dict(disk.folders[str(top)])
        flags = ["--rebuild"]
    calls = record("precompute.boxes", [*wanted, "--out", str(top / "x.h5"), *flags], tmp_path / "log" / "calls")
    assert (top / "x.h5").read_bytes() == final
    shards: dict[str, bytes] = {}  # every shard as it was when it was renamed
    for name, _, strings, _ in calls:
        if name == "rename" and strings[1].decode().startswith(str(top / ".x.h5.shards")):
            shards[os.path.relpath(strings[1].decode(), top)] = b""
    assert len(shards) == -(-96 // shard)
    replay, seen, before, resumed = Replay(disk), set(), deepcopy(disk), 0
    for call in calls:
        if not replay(*call):
            continue
        if call[0] == "rename" and (name := os.path.relpath(call[2][1].decode(), top)) in shards:
            inode = disk.at(call[2][1].decode())
            assert inode is not None
            shards[name] = inode.written
        for state, names, data in outcomes(disk, before, 3, rng):
            shutil.rmtree(top, ignore_errors=True)
            files = state.lay_out(top, state.folders if names == "folders" else state.lasting, data, rng)
            key = tuple(sorted((path, hash(body)) for path, body in files.items()))
            if key in seen:
                continue
            seen.add(key)
            # The output is the old file or the new one, whole, whatever is lost; a shard is whole or not taken.
            assert files.get("x.h5", old) in (old, final)
            for path, body in shards.items():
                with contextlib.suppress(errors.UserError):
                    BoxCache.open(top / path)
                    assert files[path] == body
            if rng.random() < share:
                resumed += 1
                quiet_boxes(*wanted, "--out", top / "x.h5", *(flags if files.get("x.h5") == old else []))
                assert (top / "x.h5").read_bytes() == final
                assert os.listdir(top) == ["x.h5"]
        before = deepcopy(disk)
    assert disk.folders[str(top)].keys() == {"x.h5"}  # the replay ends where the run did
    inode = disk.at(str(top / "x.h5"))
    assert inode is not None
    assert inode.synced == final
    assert disk.lasting[str(top)].get("x.h5") is inode
    assert resumed
    print(f"{len(calls)} calls, {len(seen)} different outcomes, {resumed} resumed")
    return len(seen)


@pytest.mark.parametrize("rebuild", [False, True], ids=["new", "over an old file"])
def test_prefixes_of_the_writers_calls(quiet_boxes, demo_root, tmp_path, rebuild):
    assert replay_everything(quiet_boxes, demo_root, tmp_path, shard=48, rebuild=rebuild, share=0.1) > 40


@pytest.mark.slow
@pytest.mark.parametrize("rebuild", [False, True], ids=["new", "over an old file"])
def test_all_prefixes_resumed(quiet_boxes, demo_root, tmp_path, rebuild):
    assert replay_everything(quiet_boxes, demo_root, tmp_path, shard=16, rebuild=rebuild, share=1) > 100


def test_sweeping_spares_what_is_being_written(tmp_path):
    target = tmp_path / "x.h5"
    (tmp_path / ".x.h5.left.tmp").write_bytes(b"of a killed run")
    with replacing(target) as temporary:
        temporary.write_bytes(b"new")
        assert sweep(target) == 1
        assert temporary.exists()
    assert target.read_bytes() == b"new"
    assert sweep(target) == 0
    assert os.listdir(tmp_path) == ["x.h5"]
