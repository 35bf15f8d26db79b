"""Whether the coded pixels of a file reach their end: what a decoder that has enough pixels does not look at.

Zeros in place of the last part of a file (a sparse copy, a full disk) decode as pixels in most formats. In compressed
data a long run of them at the end is no accident. Uncompressed pixels (BMP, PPM, some TIFF) cannot tell: zeros there
are as good as black.
"""

import io
import struct
import zlib
from collections.abc import Iterable
from typing import Any

from precompute.base.jpeg import ScanFile

ZEROS = bytes(16)  # at the end of compressed data: never by chance
_PACKED = (5, 7, 8, 32773, 32946, 34925, 50000)  # compressions of TIFF that end in no zeros; fax has fill bits
_CUT = "cut: its coded pixels end in zeros"


def opened(data: bytes) -> io.BytesIO:
    """The file for Pillow, and then for `fault_of`."""
    return ScanFile(data) if data.startswith(b"\xff\xd8") else io.BytesIO(data)


def fault_of(picture: Any, file: io.BytesIO) -> str | None:
    """Why the file of a picture that Pillow has loaded from it is not whole; None where nothing is wrong."""
    if isinstance(file, ScanFile):
        return file.fault
    data = file.getvalue()
    check = {"PNG": _png, "GIF": _gif, "WEBP": _webp}.get(picture.format)
    if check is not None:
        return check(data)
    if picture.format == "TIFF":
        tags = picture.tag_v2
        spans = [zip(tags.get(at, ()), tags.get(count, ()), strict=False) for at, count in ((273, 279), (324, 325))]
        return _tiff(data, tags.get(259, 1), [span for pairs in spans for span in pairs])
    return _CUT if picture.format in ("AVIF", "JPEG2000") and data.endswith(ZEROS) else None


def _png(data: bytes) -> str | None:
    view, at = memoryview(data), 8
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        critical = not kind[0] & 0x20
        if end <= len(data) and critical and zlib.crc32(view[at + 4 : end - 4]) != int.from_bytes(view[end - 4 : end]):
            return f"damaged: the checksum of its chunk {kind.decode('latin-1')} is wrong"
        if kind == b"IEND":
            return None
        at = end
    return "cut: its last chunk IEND is missing"


def _gif(data: bytes) -> str | None:
    """Looks at the blocks up to the end of the first picture, the only one that is used."""
    at = 13 + _colours(data[10])
    while data[at] == 0x21:  # an extension
        at = _behind_blocks(data, at + 2)
    at = _behind_blocks(data, at + 11 + _colours(data[at + 9]))
    rest = data[at:].lstrip(b"\0")[:1]
    if at > len(data) or rest not in (b"", b";", b"!", b","):
        return "cut: no block follows its first picture"
    return "cut: nothing but zeros follows its first picture" if not rest and at + 1 < len(data) else None


def _colours(flags: int) -> int:
    """Bytes of a GIF's table of colours."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _behind_blocks(data: bytes, at: int) -> int:
    while at < len(data) and data[at]:
        at += 1 + data[at]
    return at + 1


def _webp(data: bytes) -> str | None:
    at, end = 12, 8 + int.from_bytes(data[4:8], "little")
    if end > len(data) + 1:  # some writers leave the last byte of padding out
        return f"cut: {len(data)} of {end} bytes"
    while at + 8 <= end:
        kind, stop = data[at : at + 4], at + 8 + int.from_bytes(data[at + 4 : at + 8], "little")
        if not kind.isascii() or b"\0" in kind or stop > end:
            return "cut: a chunk of it is damaged"
        if kind in (b"VP8 ", b"VP8L", b"ANMF") and data[at + 8 : stop].endswith(ZEROS):
            return _CUT
        at = stop + (stop & 1)
    return None


def _tiff(data: bytes, compression: int, strips: Iterable[tuple[int, int]]) -> str | None:
    for start, count in strips:
        if start + count > len(data):
            return "cut: a strip of it lies behind its end"
        if compression in _PACKED and data[start : start + count].endswith(ZEROS):
            return _CUT
    return None
