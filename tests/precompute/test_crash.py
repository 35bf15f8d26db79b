"""Every prefix of the writer's system calls, replayed as what a kill or a power cut would leave; then a resume.

The calls are recorded with strace. A small model of a file system keeps apart what is written and what is synced:

- killed: all calls so far took effect; the write under way may have got any part of its bytes out;
- power cut: bytes that were not synced are lost, torn or zeros, and names in folders that were not synced too.
"""

import contextlib
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from precompute import cli
from precompute.cache import BoxCache
from precompute.files import replacing, sweep

ROOT = Path(__file__).resolve().parents[2]
CALLS = "openat,creat,close,write,writev,pwrite64,ftruncate,truncate,fsync,fdatasync,rename,renameat,renameat2,unlink,"
CALLS += "unlinkat,mkdir,mkdirat,rmdir,link,linkat,symlink,symlinkat,mmap,copy_file_range,sendfile"
LINE = re.compile(r"(\w+)\((.*)\)\s+= (-?\d+)")
STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')


@dataclass
class Inode:
    written: bytes = b""
    synced: bytes = b""


@dataclass
class Disk:
    """Folders and files below the output's folder, as they are and as they would be after a power cut."""

    top: str
    folders: dict[str, dict[str, Inode | None]] = field(default_factory=dict)  # folder: name: file, None: a folder
    lasting: dict[str, dict[str, Inode | None]] = field(default_factory=dict)  # as of the last sync of each folder

    def __post_init__(self) -> None:
        self.folders[self.top] = {}
        self.lasting[self.top] = {}

    def enter(self, path: str, what: Inode | None) -> None:
        folder, name = os.path.split(path)
        self.folders[folder][name] = what
        if what is None:
            self.folders[path] = {}
            self.lasting[path] = {}

    def leave(self, path: str) -> Inode | None:
        folder, name = os.path.split(path)
        self.folders.pop(path, None)
        return self.folders[folder].pop(name)

    def at(self, path: str) -> Inode | None:
        folder, name = os.path.split(path)
        return self.folders.get(folder, {}).get(name)

    def lay_out(self, target: Path, names: dict, data: str, rng: random.Random) -> dict[str, bytes]:
        """Writes one outcome below `target`; returns the files by their path in it."""
        shown = {}

        def walk(folder: str, below: Path) -> None:
            below.mkdir(parents=True, exist_ok=True)
            for name, what in names.get(folder, {}).items():
                path = os.path.join(folder, name)
                if what is None:
                    walk(path, below / name)
                else:
                    body = survivor(what, data, rng)
                    (below / name).write_bytes(body)
                    shown[os.path.relpath(path, self.top)] = body

        walk(self.top, target)
        return shown


def survivor(inode: Inode, data: str, rng: random.Random) -> bytes:
    """What is left of a file's bytes."""
    if data == "written" or inode.written == inode.synced:
        return inode.written
    if data == "lost":
        return inode.synced
    if data == "torn":
        return inode.written[: rng.randrange(len(inode.written) + 1)]
    if data == "zeros":  # the length is there, the bytes are not
        return bytes(len(inode.written))
    page = [rng.random() < 0.5 for _ in range(0, len(inode.written), 512)]  # "pages": some of them are
    return b"".join(inode.written[512 * i : 512 * i + 512] if p else bytes(512) for i, p in enumerate(page))


def record(arguments: list[str], log: Path) -> list[tuple[str, list[str], list[bytes], int]]:
    """The calls (name, arguments, strings among them, result) of one run of precompute.boxes, in order."""
    code = "from precompute.boxes import program; from precompute.cli import main; main(program)"
    command = ["strace", "-ff", "-xx", "-s", "100000000", "-e", f"trace={CALLS}", "-o", str(log)]
    done = subprocess.run(
        [*command, sys.executable, "-c", code, *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    if done.returncode and "ptrace" in done.stderr:
        pytest.skip(f"strace may not trace here: {done.stderr.splitlines()[0]}")
    assert done.returncode == 0, done.stderr
    threads = []
    for file in log.parent.glob(f"{log.name}.*"):
        calls = []
        for line in file.read_text().splitlines():
            if match := LINE.match(line):
                strings = [bytes.fromhex(s.replace("\\x", "")) for s in STRING.findall(match[2])]
                calls.append((match[1], STRING.sub("S", match[2]).split(", "), strings, int(match[3])))
        threads.append(calls)
    return max(threads, key=lambda calls: sum(name == "fsync" for name, *_ in calls))  # the one that writes


class Replay:
    """Applies calls to a Disk."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        self.open: dict[int, str | Inode] = {}  # below the top: a folder's path or a file

    def path(self, text: bytes, folder: str = "AT_FDCWD") -> str | None:
        """An absolute path below the top, else None."""
        name = text.decode()
        if not name.startswith("/") and folder != "AT_FDCWD":
            base = self.open.get(int(folder))
            name = os.path.join(base, name) if isinstance(base, str) else name
        return name if name == self.disk.top or name.startswith(self.disk.top + "/") else None

    def __call__(self, name: str, arguments: list[str], strings: list[bytes], result: int) -> bool:
        """True where the call changed what is on the disk, or what of it lasts. AssertionError: an unknown kind."""
        if result < 0:
            return False
        disk = self.disk
        if name == "openat":
            return self._open(self.path(strings[0], arguments[0]), arguments[2], result)
        if name == "close":
            self.open.pop(int(arguments[0]), None)
            return False
        if name in ("write", "fsync", "fdatasync"):
            target = self.open.get(int(arguments[0]))
            if target is None:
                return False
            if name == "write":
                assert isinstance(target, Inode)
                target.written += strings[0][:result]
            elif isinstance(target, Inode):
                target.synced = target.written
            else:
                disk.lasting[target] = dict(disk.folders[target])
            return True
        if name == "mmap":
            fd = int(arguments[4]) if arguments[4].lstrip("-").isdigit() else -1
            assert not (fd in self.open and "MAP_SHARED" in arguments[3] and "PROT_WRITE" in arguments[2])
            return False
        path = self.path(strings[0], arguments[0] if name == "unlinkat" else "AT_FDCWD") if strings else None
        if path is None:
            assert name not in ("ftruncate", "pwrite64", "writev") or int(arguments[0]) not in self.open
            return False
        if name == "mkdir":
            disk.enter(path, None)
        elif name == "rename":
            other = self.path(strings[1])
            assert other is not None
            disk.enter(other, disk.leave(path))
        else:
            assert name in ("unlink", "unlinkat", "rmdir"), name
            disk.leave(path)
        return True

    def _open(self, path: str | None, flags: str, fd: int) -> bool:
        if path is None:
            self.open.pop(fd, None)
            return False
        if path in self.disk.folders:
            self.open[fd] = path
            return False
        inode, changed = self.disk.at(path), False
        if inode is None:
            assert "O_CREAT" in flags
            inode, changed = Inode(), True
            self.disk.enter(path, inode)
        elif "O_TRUNC" in flags and inode.written:
            inode.written, changed = b"", True
        self.open[fd] = inode
        return changed


def outcomes(disk: Disk, before: Disk, torn: int, rng: random.Random) -> Iterator[tuple[Disk, str, str]]:
    """(disk, names kept, fate of unsynced bytes) after a call, and `torn` times within it."""
    yield disk, "folders", "written"
    for data in ("written", "lost", "torn", "zeros", "pages"):
        yield disk, "lasting", data
        if data != "written":
            yield disk, "folders", data
    longer = [(folder, name) for folder, names in disk.folders.items() for name in names
              if isinstance(old := before.at(os.path.join(folder, name)), Inode)
              and isinstance(new := names[name], Inode) and len(new.written) > len(old.written)]  # fmt: skip
    for folder, name in longer:  # the write that just took place, cut anywhere
        whole, start = disk.at(os.path.join(folder, name)), before.at(os.path.join(folder, name))
        assert whole is not None
        assert start is not None
        for _ in range(torn):
            partly = deepcopy(disk)
            inode = partly.at(os.path.join(folder, name))
            assert inode is not None
            inode.written = whole.written[: rng.randrange(len(start.written), len(whole.written))]
            yield partly, "folders", "written"


@pytest.fixture
def quiet_boxes(capsys):
    def run(*arguments: object) -> None:
        from precompute.boxes import program

        with pytest.raises(SystemExit) as stopped:
            cli.main(program, [*map(str, arguments)])
        assert stopped.value.code == 0, capsys.readouterr().err
        capsys.readouterr()

    return run


def replay_everything(quiet_boxes, demo_root: Path, tmp_path: Path, shard: int, rebuild: bool, share: float) -> int:
    """All outcomes of all prefixes; a `share` of the different ones is also resumed. Returns how many there were."""
    if shutil.which("strace") is None:
        pytest.skip("no strace here")
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
    calls = record([*wanted, "--out", str(top / "x.h5"), *flags], tmp_path / "log" / "calls")
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
                with contextlib.suppress(cli.UserError):
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
