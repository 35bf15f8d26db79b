"""The pack for a GPU machine: what is cleared and left out, and that its parts are the tree that went in."""

import struct
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from benchmarks import gpu_pack
from precompute.base.errors import UserError


def entry(kind: int, chip: int, code: bytes) -> bytes:
    """An entry of a container, as CUDA 13's compiler writes it."""
    head = struct.pack("<HHIQ", kind, 0x101, 64, len(code)) + bytes(12) + struct.pack("<I", chip)
    return head.ljust(64, b"\x07") + code


def container(*entries: bytes) -> bytes:
    body = b"".join(entries)
    return struct.pack("<IHHQ", gpu_pack.CONTAINER, 1, 16, len(body)) + body


def library(path: Path, content: bytes) -> Path:
    """An ELF file whose section .nv_fatbin has that content."""
    names = b"\0.nv_fatbin\0.shstrtab\0"
    start = 64
    table = start + len(content) + len(names)
    head = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + bytes(24) + struct.pack("<Q", table) + bytes(10)
    head += struct.pack("<HHH", 64, 3, 2)

    def section(name: int, at: int, size: int) -> bytes:
        return struct.pack("<IIQQQQ", name, 1, 0, 0, at, size).ljust(64, b"\0")

    sections = bytes(64) + section(1, start, len(content)) + section(12, start + len(content), len(names))
    path.write_bytes(head.ljust(64, b"\0") + content + names + sections)
    return path


def test_code_of_other_chips_is_cleared(tmp_path: Path) -> None:
    ours, theirs, text = entry(2, 90, b"hopper" * 4), entry(2, 80, b"ampere" * 4), entry(1, 120, b"source" * 4)
    alone = container(entry(2, 80, b"nothing for the chip itself"))
    path = library(tmp_path / "lib.so", container(theirs, ours, text) + bytes(24) + alone)
    before = path.read_bytes()
    assert gpu_pack.clear(path, 90) == Counter({"sm_80": 24, "ptx_120": 24})
    wanted = before.replace(b"ampere", bytes(6)).replace(b"source", bytes(6))
    assert path.read_bytes() == wanted
    assert gpu_pack.clear(library(tmp_path / "odd.so", b""), 90) == Counter()
    (tmp_path / "text.so").write_text("INPUT(libother.so)")
    assert gpu_pack.clear(tmp_path / "text.so", 90) == Counter()
    with pytest.raises(UserError, match="use --full"):
        gpu_pack.clear(library(tmp_path / "new.so", container(ours, bytes(64))), 90)


def test_dalis_own_libraries_are_understood() -> None:
    dali = pytest.importorskip("nvidia.dali")
    data = bytearray(Path(dali.__path__[0], "libdali_kernels.so").read_bytes())
    ((start, size),) = gpu_pack.sections(data, gpu_pack.CODE[0])
    found = list(gpu_pack.containers(data, start, start + size))
    assert all(any(kind == gpu_pack.ELF and chip == 90 for kind, chip, *_ in entries) for entries in found)
    assert sum(end - begin for entries in found for *_, begin, end in entries) > 0.9 * size


def test_parts_are_the_tree_without_what_serves_others(tmp_path: Path) -> None:
    site = tmp_path / "site"
    ours, theirs = "a/x.cpython-312-x86_64-linux-gnu.so", "a/x.cpython-311-x86_64-linux-gnu.so"
    for name in (ours, theirs, "nvidia/__init__.py", "nvidia/dali/include/deep/er.h", "nvidia/dali/__init__.py"):
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_bytes(name.encode() * 1000)
    gpu_pack.strip(site, "3.12")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/part-7").write_text("of an earlier pack")
    parts = gpu_pack.write_parts(site, tmp_path / "out", 256)
    assert len(parts) > 1
    assert sorted((tmp_path / "out").iterdir()) == sorted(parts)
    assert max(part.stat().st_size for part in parts) <= 256
    (tmp_path / "there").mkdir()
    whole = b"".join(part.read_bytes() for part in parts)
    subprocess.run(["tar", "xJ", "-C", str(tmp_path / "there")], input=whole, check=True)
    files = [str(path.relative_to(tmp_path / "there")) for path in (tmp_path / "there").rglob("*") if path.is_file()]
    assert sorted(files) == sorted([ours, "nvidia/dali/__init__.py"])


def test_what_is_no_pack_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no part-"):
        gpu_pack.program(["--check", str(tmp_path)])
