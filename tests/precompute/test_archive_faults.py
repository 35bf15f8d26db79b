"""Archives that are damaged or odd: each file of them is read or named with the reason, and nothing else happens."""

import contextlib
import re
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from archive_sets import FILES, add, jpeg, tar_of, zip_of

from precompute.base import pixels
from precompute.base.errors import UserError
from precompute.base.members import BadMember, Member, read_member
from precompute.datasets import read_dataset
from precompute.scan import read_picture


def listed(path: Path) -> tuple[list[str], dict[str, str]]:
    """Paths of the good pictures; the others with their faults."""
    listing = read_dataset("folder", path)
    for i in range(len(listing)):
        read_picture(listing, i)
    return listing.paths, {bad.path: bad.reason for bad in listing.quarantine}


def odd_tar(path: Path) -> Path:
    with tarfile.open(path, "w") as archive:
        add(archive, "./a/0.jpg", jpeg(0))
        add(archive, "../up.jpg", jpeg(1))
        add(archive, "/abs.jpg", jpeg(2))
        add(archive, "a/x/../../../up.jpg", jpeg(2))
        add(archive, "a/link.jpg", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd")
        add(archive, "a/hard.jpg", b"", type=tarfile.LNKTYPE, linkname="a/0.jpg")
        add(archive, "a/pipe.jpg", b"", type=tarfile.FIFOTYPE)
        add(archive, "a/holes.jpg", jpeg(3), pax_headers={"GNU.sparse.major": "1", "GNU.sparse.name": "a/holes.jpg"})
        add(archive, "a/twice.jpg", jpeg(4))
        add(archive, "a/twice.jpg", jpeg(5))
        add(archive, "a/._0.jpg", b"of macOS")
        add(archive, "a/not\udcff.jpg", jpeg(7))
        add(archive, f"b/{'long' * 60}.jpg", jpeg(6))
        add(archive, f"b/{'longer' * 900}.jpg", jpeg(8))
    return path


def test_odd_members_of_a_tar_are_left_out_by_name(tmp_path):
    good, bad = listed(odd_tar(tmp_path / "set.tar"))
    assert good == ["a/0.jpg", f"b/{'long' * 60}.jpg"]
    reasons = {
        "../up.jpg": "leaves the folder", "/abs.jpg": "leaves the folder", "a/x/../../../up.jpg": "leaves the folder",
        "a/link.jpg": "a link", "a/hard.jpg": "a link", "a/pipe.jpg": "not a plain file", "a/holes.jpg": "sparse",
        "a/twice.jpg": "two files of this name", "a/not\\xff.jpg": "not UTF-8",
    }  # fmt: skip
    assert {path for path in bad if "longer" not in path} == set(reasons)
    for path, reason in reasons.items():
        assert reason in bad[path], path
        assert str(tmp_path) not in bad[path]  # box files do not depend on where the set lies
    assert len(bad) == len(reasons) + 1


def test_odd_members_of_a_zip_are_left_out_by_name(tmp_path):
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("a/0.jpg", "../up.jpg", "a/twice.jpg", "a/locked.jpg", "a/moved.jpg", "a/bomb.jpg"):
            archive.writestr(name, jpeg(1))
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a/twice.jpg", jpeg(2))
        archive.writestr("a/lzma.jpg", jpeg(3), zipfile.ZIP_LZMA)
        link = zipfile.ZipInfo("a/link.jpg")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("a/large.jpg", jpeg(4), zipfile.ZIP_DEFLATED)
    data = bytearray(path.read_bytes())

    def entry(name: bytes) -> int:  # of the directory
        return [found.start() - 46 for found in re.finditer(re.escape(name), data)][-1]

    data[entry(b"a/locked.jpg") + 8] |= 1
    data[entry(b"a/moved.jpg") + 42] ^= 4
    struct.pack_into("<II", data, entry(b"a/bomb.jpg") + 20, 2**31, 2**31)
    struct.pack_into("<I", data, entry(b"a/large.jpg") + 24, 2**32 - 2)
    path.write_bytes(data)
    good, bad = listed(path)
    assert good == ["a/0.jpg"]
    reasons = {
        "../up.jpg": "leaves the folder", "a/twice.jpg": "two files", "a/locked.jpg": "encrypted",
        "a/moved.jpg": "another place", "a/bomb.jpg": "more than", "a/lzma.jpg": "method 14", "a/link.jpg": "a link",
        "a/large.jpg": "cannot be",
    }  # fmt: skip
    assert set(bad) == set(reasons)
    for name, reason in reasons.items():
        assert reason in bad[name], name


def test_a_cut_shard_keeps_what_is_whole_and_the_others(tmp_path):
    for number in range(3):
        tar_of(tmp_path / f"train-{number}.tar", [(f"{number}{name}", data) for name, data in FILES])
    whole = (tmp_path / "train-1.tar").read_bytes()
    third = whole.index(FILES[2][1])
    for length, left in ((third + 100, 2), (third - 512, 2), (third - 1124, 1), (0, 0)):
        (tmp_path / "train-1.tar").write_bytes(whole[:length])
        good, bad = listed(tmp_path)
        assert len([path for path in good if path.startswith("train-1")]) == left
        assert len(good) == 8 + left
        assert "train-1.tar" in bad
    (tmp_path / "train-1.tar").write_bytes(whole[: third - 512] + bytes([1] * 512) + whole[third:])
    assert "damaged at byte" in listed(tmp_path)[1]["train-1.tar"]


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("set.zip", b"PK\3\4" + bytes(5000), "its directory cannot be read"),
        ("set.zip", b"", "its directory cannot be read"),
        ("set.tar", bytes(range(256)) * 8, "no tar file"),
        ("set.tar", b"", "no tar file"),
        ("set.tar", b"\x1f\x8b" + bytes(600), "compressed as a whole"),
        ("set.tar.gz", b"\x1f\x8b" + bytes(600), "compressed as a whole"),
        ("set.tar", bytes(10240), "nothing at all"),
    ],
)
def test_no_archive_at_all_is_one_line(tmp_path, name, data, reason):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=reason):
        read_dataset("folder", tmp_path / name)
    if reason != "nothing at all":
        with pytest.raises(UserError, match=reason):
            read_dataset("folder", tmp_path)


@pytest.mark.parametrize("size", [-512, -(2**40), 2**40])
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
def test_sizes_that_cannot_be_end_the_list_and_never_hang(tmp_path, size, kind):
    info = tarfile.TarInfo("b/odd.jpg")
    info.size, info.type = max(size, 0), kind
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = (b"\xff" if size < 0 else b"\x80") + (size % 2**88).to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    whole = tar_of(tmp_path / "set.tar", FILES).read_bytes()
    second = whole.index(FILES[1][1]) - 512
    (tmp_path / "set.tar").write_bytes(whole[:second] + header + whole[second:])
    good, bad = listed(tmp_path / "set.tar")
    assert good == ["a/0.jpg"]
    assert "set.tar" in bad


@pytest.mark.parametrize("kind", ["tar", "gnu", "zip", "deflated"])
def test_random_damage_never_is_more_than_a_reason(tmp_path, kind):
    path = tmp_path / ("set.tar" if kind in ("tar", "gnu") else "set.zip")
    if path.suffix == ".tar":
        odd = [(f"c/{'n' * 150}.jpg", jpeg(9)), ("a/0.cls", b"7"), ("a/1.json", b'{"label": 3}')]
        tar_of(path, [*FILES, *odd], tarfile.GNU_FORMAT if kind == "gnu" else tarfile.PAX_FORMAT)
    else:
        zip_of(path, FILES, zipfile.ZIP_DEFLATED if kind == "deflated" else zipfile.ZIP_STORED)
    whole, rng, refused = path.read_bytes(), np.random.default_rng(5), 0
    headers = [found.start() for found in re.finditer(b"ustar|PK\1\2|PK\3\4", whole)]
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(rng.integers(1, 4)):
            start = rng.choice(headers) - 257 * (path.suffix == ".tar")
            at = start + rng.integers(512 if path.suffix == ".tar" else 60)
            data[min(at, len(data) - 1)] = rng.choice([0, 255, 128, 48, 55, rng.integers(256)])
            if path.suffix == ".tar" and rng.random() < 0.8:  # with a right checksum
                data[start + 148 : start + 156] = b" " * 8
                data[start + 148 : start + 156] = b"%06o\0 " % sum(data[start : start + 512])
        path.write_bytes(data[: rng.integers(len(data))] if rng.random() < 0.2 else data)
        try:
            listing = read_dataset("folder", path)
        except UserError:
            refused += 1
            continue
        for i in range(len(listing)):
            with contextlib.suppress(pixels.BadImage):
                assert len(read_picture(listing, i)) <= len(whole)
    assert refused < 300


def test_a_member_without_a_name_is_passed_over(tmp_path):
    path = zip_of(tmp_path / "set.zip", [*FILES, ("x", b"")])
    data = bytearray(path.read_bytes())
    struct.pack_into("<HH", data, data.rindex(b"PK\1\2") + 28, 0, 1)  # its name is now an extra field
    path.write_bytes(data)
    assert listed(path) == ([name for name, _ in FILES], {})


def test_a_deflated_member_never_unpacks_to_more_than_it_says(tmp_path):
    files = [("a/0.jpg", bytes(10**6))]
    listing = read_dataset("folder", zip_of(tmp_path / "set.zip", files, zipfile.ZIP_DEFLATED))
    archive, offset, size, packed, crc = listing.members[0] or Member("", 0, 0)
    path = str(tmp_path / "set.zip")
    assert archive == ""
    assert read_member(path, offset, size, packed, crc) == files[0][1]
    for wrong in ((offset, size - 1, packed), (offset, size + 1, packed), (offset + 1, size, packed),
                  (offset, size, packed - 1), (offset, 2**31, packed), (2**62, size, packed),
                  (offset, size, packed, 1)):  # fmt: skip
        with pytest.raises(BadMember):
            read_member(path, *wrong)


def test_archives_beside_pictures_are_not_read_twice(tmp_path):
    tar_of(tmp_path / "images.tar", FILES)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "0.jpg").write_bytes(jpeg(0))
    listing = read_dataset("folder", tmp_path)
    assert listing.paths == ["a/0.jpg"]
    assert any("archives beside pictures" in note for note in listing.notes)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("train-000.tar", "val-000.tar"), {("train", "a"), ("train", "b"), ("val", "a"), ("val", "b")}),
        (("x/in-train-000123.tar", "x/in-valid-000001.tar"), {(s, c) for s in ("train", "val") for c in "ab"}),
        (("train.zip", "test.zip"), {("train", "a"), ("train", "b"), ("test", "a"), ("test", "b")}),
        (("train000.tar", "train001.tar"), {("train", "a"), ("train", "b")}),
        (("birds-000.tar", "birds-001.tar"), {("train", "a"), ("train", "b")}),
        (("n01440764.tar", "n01443537.tar"), {("train", "n01440764"), ("train", "n01443537")}),
        (("train/n01440764.tar", "val/n01440764.tar"), {("train", "n01440764"), ("val", "n01440764")}),
    ],
)  # fmt: skip
def test_splits_and_classes_of_shards(tmp_path, names, expected):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        files = [(Path(inside).name, data) for inside, data in FILES] if "n014" in name else FILES
        (zip_of if name.endswith("zip") else tar_of)(tmp_path / name, files)
    listing = read_dataset("folder", tmp_path)
    found = zip(listing.splits, listing.labels, strict=True)
    assert {(listing.split_names[split], listing.class_names[label]) for split, label in found} == expected
    assert len(listing) == 8


def test_labels_from_a_table_meet_pictures_in_shards(tmp_path):
    tar_of(tmp_path / "shard-0.tar", FILES)
    (tmp_path / "labels.csv").write_text(
        "path,label\n" + "".join(f"{name},kind{i}\n" for i, (name, _) in enumerate(FILES))
    )
    listing = read_dataset("folder", tmp_path, labels=str(tmp_path / "labels.csv"))
    assert listing.class_names == ("kind0", "kind1", "kind2", "kind3")
