"""A small model of a file system and the system calls of a program, to lay out what a kill or a power cut would leave.

The calls are recorded with strace. What is written and what is synced are kept apart:

- killed: all calls so far took effect; the write under way may have got any part of its bytes out;
- power cut: bytes that were not synced are lost, torn or zeros, and names in folders that were not synced too.
"""

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

ROOT = Path(__file__).resolve().parents[1]
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

    def contents(self, names: dict, data: str, rng: random.Random) -> dict[str, bytes | None]:
        """One outcome: what files hold by their path below the top; None for a folder."""
        shown: dict[str, bytes | None] = {}

        def walk(folder: str) -> None:
            for name, what in names.get(folder, {}).items():
                path = os.path.join(folder, name)
                shown[os.path.relpath(path, self.top)] = None if what is None else survivor(what, data, rng)
                if what is None:
                    walk(path)

        walk(self.top)
        return shown

    def lay_out(self, target: Path, names: dict, data: str, rng: random.Random) -> dict[str, bytes]:
        """Writes one outcome below `target`; returns the files by their path in it."""
        shown = self.contents(names, data, rng)
        lay_out(target, shown)
        return {path: body for path, body in shown.items() if body is not None}


def lay_out(target: Path, contents: dict[str, bytes | None]) -> None:
    """Writes what `Disk.contents` gives below `target`."""
    target.mkdir(parents=True, exist_ok=True)
    for path, body in contents.items():
        if body is None:
            (target / path).mkdir(exist_ok=True)
        else:
            (target / path).write_bytes(body)


def survivor(inode: Inode, data: str, rng: random.Random) -> bytes:
    """What is left of a file's bytes. What was appended after a sync is at risk, what was synced is not."""
    if data == "written" or inode.written == inode.synced:
        return inode.written
    safe = inode.synced if inode.written.startswith(inode.synced) else b""
    new = inode.written[len(safe) :]
    if data == "lost":
        return inode.synced
    if data == "torn":
        return safe + new[: rng.randrange(len(new) + 1)]
    if data == "zeros":  # the length is there, the bytes are not
        return safe + bytes(len(new))
    page = [rng.random() < 0.5 for _ in range(0, len(new), 512)]  # "pages": some of them are
    return safe + b"".join(new[512 * i : 512 * i + 512] if p else bytes(512) for i, p in enumerate(page))


def record(module: str, arguments: list[str], log: Path) -> list[tuple[str, list[str], list[bytes], int]]:
    """The calls (name, arguments, strings among them, result) of one run of a program, in order."""
    if shutil.which("strace") is None:
        pytest.skip("no strace here")
    code = f"from {module} import program; from precompute.base.program import main; main(program)"
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
        elif name in ("rename", "link"):
            other = self.path(strings[1])
            assert other is not None
            if name == "link":
                disk.enter(other, disk.at(path))
            elif disk.at(path) is not disk.at(other):  # two names of one file stay both
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
              and isinstance(new := names[name], Inode) and len(new.written) > len(old.written)
              and new.written.startswith(old.written)]  # fmt: skip
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
