"""Pictures in tar shards and zip files: every archive's members are listed once, and nothing is unpacked.

What is wrong with an archive or a member is a row with a fault. No number of an archive is believed before it was
compared with the archive's length.
"""

import json
import os
import re
import stat
import struct
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from precompute.base.markup import one_line
from precompute.base.members import LARGEST, RATIO, Archive, BadMember, Member, forget, opened, read_member
from precompute.datasets.rows import Row, is_picture, note_ignored, split_of, walk_pictures

_ARCHIVES = re.compile(r"\.(tar|zip|tgz|tar\.(gz|bz2|xz|zst))$", re.IGNORECASE)
_SQUEEZED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")  # gzip, bzip2, xz, zstd
_CUT = "its end is missing: the archive is cut"
_LONGEST_NAME = 1024  # bytes
_MOST_HEADER = 1 << 16  # bytes of a long name or of further fields
_LABELS = ("cls", "label", "class", "class_name")  # keys of a WebDataset's .json that may hold the class


class _Entry(NamedTuple):
    """A file in an archive; `name` "": the archive itself, which has a fault."""

    name: str
    offset: int = 0
    size: int = 0
    packed: int = 0
    crc: int | None = None
    fault: str = ""


def find_pictures(root: Path, notes: Counter[str]) -> list[Row]:
    """A row for every picture below `root`, or within it where it is an archive; sorted like `walk_pictures`.

    Archives in folders count only where no picture lies there as a file: many people keep the archive that they
    unpacked. A row has the label of its .cls or .json file, as a WebDataset has it, and else none.
    """
    forget()
    if root.is_file():
        return list(_inside(root, "", notes))
    found = list(walk_pictures(root, notes, wanted=lambda name: is_picture(name) or _is_archive(name)))
    shards = [row.path for row in found if not row.fault and _is_archive(row.path)]
    rows = [row for row in found if row.fault or not _is_archive(row.path)]
    if all(row.fault for row in rows):
        rows += [row for shard in shards for row in _inside(root, shard, notes)]
    elif shards:
        notes[f"archives beside pictures, not looked into (such as {one_line(shards[0])})"] += len(shards)
    return rows


def folders_of(row: Row) -> list[str]:
    """The folders that a picture lies in, from the root on, with its archive as one of them.

    The archive is a folder of its name (n01440764.tar, val.zip). A shard, which has a number at the end, is none, but
    it may say a split (imagenet-train-000123.tar).
    """
    if row.member is None or not (archive := row.member.archive):
        return row.path.split("/")[:-1]
    *above, name = archive.split("/")
    name = os.path.splitext(name)[0]
    if shard := re.fullmatch(r"(.*?)([-_.]?)\d+", name):
        splits = [split for word in re.findall("[a-z]+", shard[1].lower()) if (split := split_of(word))]
        if splits or shard[2] or not shard[1]:
            return [*above, *splits[-1:], *row.path[len(archive) + 1 :].split("/")[:-1]]
    return [*above, name, *row.path[len(archive) + 1 :].split("/")[:-1]]


def _is_archive(name: str) -> bool:
    return _ARCHIVES.search(name) is not None


def _inside(root: Path, archive: str, notes: Counter[str]) -> Iterator[Row]:
    """The rows of one archive (its path relative to the root; "": the root)."""
    path, prefix = os.path.join(root, archive) if archive else str(root), f"{archive}/" if archive else ""
    if any(map(_is_archive, archive.split("/")[:-1])):
        yield Row(archive, fault="it lies in a folder that is named like an archive: rename the folder")
        return
    found: dict[str, _Entry] = {}
    for entry in _entries(path):
        name = "/".join(part for part in entry.name.split("/") if part != ".")
        if not entry.name:
            yield Row(archive or root.name, fault=entry.fault)
        elif len(os.fsencode(name)) > _LONGEST_NAME:
            yield Row(prefix + one_line(name, 80), fault=f"its name has more than {_LONGEST_NAME} bytes")
        elif not any(part.startswith(".") and part != ".." for part in name.split("/")):  # else hidden
            found[name] = entry._replace(fault="its archive has two files of this name") if name in found else entry
    names = sorted(found, key=lambda name: os.fsencode(name).split(b"/"))
    labels = {name: _label(path, name, found) for name in names if is_picture(name)}
    ignored = Counter(os.path.splitext(name)[1] or "without an ending" for name in names if name not in labels)
    if any(labels.values()):  # a WebDataset
        ignored -= Counter({".cls": ignored[".cls"], ".json": ignored[".json"]})
        whole = {_key(name) for name in labels if _key(name) == os.path.splitext(name)[0]}
        if further := [name for name in labels if _key(name) in whole and _key(name) != os.path.splitext(name)[0]]:
            notes["further pictures of samples, not taken (KEY.mask.png beside KEY.jpg)"] += len(further)
            labels = {name: label for name, label in labels.items() if name not in {*further}}
    note_ignored(ignored, notes)
    for name, label in labels.items():
        entry = found[name]
        member = Member(archive, *entry[1:5])
        yield Row(prefix + name, label, fault=entry.fault, where=archive or root.name, member=member)


def _key(name: str) -> str:
    """The key of a file of a WebDataset: its name up to the first dot."""
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.split(".")[0]


def _label(path: str, name: str, found: dict[str, _Entry]) -> str | None:
    """The class that the .cls or .json file beside a picture says; None where there is none that says it."""
    for key in dict.fromkeys((os.path.splitext(name)[0], _key(name))):
        for ending in (".cls", ".json"):
            entry = found.get(key + ending)
            if entry is None or entry.fault or entry.size > _MOST_HEADER:
                continue
            try:
                value = read_member(path, *entry[1:5]).decode().strip()
                if ending == ".json":
                    about = json.loads(value)
                    value = next(about[label] for label in _LABELS if label in about) if type(about) is dict else None
            except (BadMember, ValueError, RecursionError, StopIteration):
                continue
            if type(value) in (int, str) and 0 < len(str(value)) <= 255 and str(value).isprintable():
                return str(value)
    return None


def _entries(path: str) -> Iterator[_Entry]:
    """The files of an archive. OSErrors are faults, too."""
    try:
        file = opened(path)
        start = file.read(0, 6)
        if start.startswith(_SQUEEZED):
            yield _Entry(
                "", fault="compressed as a whole, so nothing can be read in place: store it as plain tar or zip"
            )
        elif start.startswith((b"PK\3\4", b"PK\5\6")) or path.lower().endswith(".zip"):
            yield from _zip(path, file)
        else:
            yield from _tar(file)
    except OSError as error:
        yield _Entry("", fault=f"this archive cannot be read: {error.strerror or error}")


def _tar(file: Archive) -> Iterator[_Entry]:
    """The headers of a tar file, one after the other.

    The standard library's own walk would end without a word at a damaged header, go in circles where a size is
    negative, and read whatever a long name's size says; so only its parser of one header is used.
    """
    place, long, fields = 0, "", {}
    while True:
        block = file.read(place, 512)
        if len(block) == 512 and not any(block):
            return
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
            size, data = int(fields.get("size", info.size)), place + 512
            if size < 0:
                raise ValueError
            if info.type in (b"L", b"K", b"x", b"X", b"g"):  # what follows is of the next file, or of all
                text = file.read(data, min(size, _MOST_HEADER + 1))
                if not len(text) == size <= _MOST_HEADER:
                    raise ValueError
                long = text.rstrip(b"\0").decode("utf-8", "surrogateescape") if info.type == b"L" else long
                fields = _pax(text) if info.type in b"xX" else fields
                place = data + -(-size // 512) * 512
                continue
        except (tarfile.HeaderError, ValueError):
            whole = "no tar file, or a damaged one" if place == 0 else f"damaged at byte {place}"
            yield _Entry("", fault=_CUT if place and len(block) < 512 else f"{whole}: nothing is read from there on")
            return
        sparse = info.type == b"S" or any(key.startswith("GNU.sparse") for key in fields)
        more = info.type == b"S" and block[482]
        while more:  # further headers of a sparse file
            block, data = file.read(data, 512), data + 512
            more = len(block) == 512 and block[504]
        name = fields.get("GNU.sparse.name") or fields.get("path") or long or info.name
        if info.issym() or info.islnk():
            fault = "a link, which is not followed within archives: put the picture itself there"
        elif sparse:
            fault = "stored as a sparse file: store it as a plain one"
        elif not info.isreg():
            fault = "not a plain file"
        else:
            fault = _fault(size, size, data, file)
        if name and not info.isdir():
            yield _Entry(name, data, size, fault=fault)
        held = size if info.isreg() or info.type not in tarfile.SUPPORTED_TYPES else 0
        place, long, fields = data + -(-held // 512) * 512, "", {}


def _pax(text: bytes) -> dict[str, str]:
    """The fields of an extended header: LENGTH KEY=VALUE and a line break each. Raises ValueError."""
    fields, place = {}, 0
    while place < len(text) and text[place]:
        digits = text[place : place + 8].split(b" ")[0]
        end = place + int(digits)
        if not place + len(digits) + 2 < end <= len(text):
            raise ValueError
        key, _, value = text[place + len(digits) + 1 : end - 1].decode("utf-8", "surrogateescape").partition("=")
        fields[key], place = value, end
    return fields


def _zip(path: str, file: Archive) -> Iterator[_Entry]:
    """The files that a zip's directory, at its end, names."""
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except OSError:
        raise
    except Exception as error:  # zipfile has a dozen kinds for damaged ones
        yield _Entry("", fault=f"a damaged or cut zip file: its directory cannot be read ({one_line(str(error))})")
        return
    for info in infos:
        if info.filename.endswith("/"):  # is_dir() fails for an empty name
            continue
        at = info.header_offset
        head = file.read(at, 30 + _LONGEST_NAME)
        length, further = struct.unpack("<HH", head[26:30]) if head.startswith(b"PK\3\4") and len(head) > 30 else (0, 0)
        data, packed = at + 30 + length + further, info.compress_size if info.compress_type == 8 else 0
        name = head[30 : 30 + length].decode("utf-8" if info.flag_bits & 0x800 else "cp437", "replace")
        if info.flag_bits & 1:
            fault = "encrypted: make an archive without a password"
        elif info.compress_type not in (0, 8):
            fault = f"compressed by method {info.compress_type} of zip: only stored and deflated files are read"
        elif stat.S_ISLNK(info.external_attr >> 16):
            fault = "a link, which is not followed within archives: put the picture itself there"
        elif name != info.orig_filename[:_LONGEST_NAME]:
            fault = "damaged: the archive's directory leads to another place or name"
        elif info.file_size > RATIO * packed if info.compress_type else info.file_size != info.compress_size:
            fault = f"its size of {info.file_size} bytes cannot be, as {info.compress_size} are in the archive"
        else:
            fault = _fault(info.file_size, info.compress_size, data, file)
        yield _Entry(info.filename or "?", data, info.file_size, packed, info.CRC, fault)


def _fault(size: int, packed: int, data: int, file: Archive) -> str:
    """What is wrong with a member's sizes: in bytes unpacked and in the archive, from byte `data` on."""
    if size > LARGEST:
        return f"{size} bytes, more than {LARGEST}"
    return _CUT if data + packed > file.size else ""
