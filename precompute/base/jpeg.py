"""The segments of a JPEG file: what its header says, and whether its coded pixels reach their end.

A decoder of pixels tells neither. Zeros in place of the last part of a photograph decode to a grey or striped area in
every third file, without an error, and so does a scan that was cut before its end marker.
"""

import io
import re
import struct
from dataclasses import dataclass
from typing import NamedTuple

ORIENTATION = 0x0112  # the EXIF tag
MOST_SEGMENTS = 4096  # of a file; a long colour profile has some hundred. More would only cost time
MOST_JUNK = 1 << 16  # bytes before the first scan that belong to no segment: Pillow steps over them one by one
_NO_LENGTH = frozenset((0x01, *range(0xD0, 0xD8)))  # JPEG markers without a segment: TEM, RST0-7
_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SEQUENTIAL = (0xC0, 0xC1)
_BETWEEN_SCANS = frozenset((0xC4, 0xCC, 0xDA, 0xDB, 0xDC, 0xDD, *range(0xE0, 0xF0), 0xFE))
_MARKER = re.compile(rb"\xff[^\x00\xff]")
_AFTER_SCAN = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")  # what ends coded data; they hold FF00 and FFD0-FFD7
_NOT_FILL = re.compile(rb"[^\xff]")
# No code of a JPEG is all ones. libjpeg reads 8 bytes ahead, so so many lie behind the last one that it needs.
_ONES = b"\xff\x00" * 8
_LAST = 8
_RUN = 256  # zeros: more than any block of a picture has


@dataclass(frozen=True)
class JpegHeader:
    width: int
    height: int
    orientation: int


def read_jpeg_header(data: bytes) -> JpegHeader | None:
    """The header of a *plain* JPEG; None for every other file, also for a damaged JPEG.

    Strict on purpose: DALI stops where two bytes of junk stand between segments, while Pillow reads on.
    """
    if data[:2] != b"\xff\xd8":
        return None
    at, frame, orientation = 2, None, None
    for _ in range(MOST_SEGMENTS):
        found = _NOT_FILL.search(data, at)
        if found is None or found.start() == at:  # only fill bytes, or none that begins a marker
            return None
        at = found.start() - 1
        marker = data[at + 1]
        if marker in _NO_LENGTH or marker in (0x00, 0xD8, 0xD9):
            return None
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        body = data[at + 4 : at + 2 + length]
        if length < 2 or len(body) != length - 2:
            return None
        if marker == 0xDA:  # start of scan: the header is over
            return None if frame is None else JpegHeader(*frame, orientation or 1)
        if marker in _SOF:
            if frame is not None or marker > 0xC2 or not _is_plain_frame(body):
                return None
            frame = (int.from_bytes(body[3:5], "big"), int.from_bytes(body[1:3], "big"))
        elif marker == 0xE1 and body[:4] == b"Exif":
            turned = _exif_orientation(body)
            if orientation is not None or turned is None:  # two tags, or a broken one: decoders need not agree
                return None
            orientation = turned
        elif marker == 0xEE and body[:5] == b"Adobe" and len(body) < 12:  # cut: DALI refuses it
            return None
        at += 2 + length
    return None


class Coded(NamedTuple):
    """Where the coded pixels of a JPEG lie: bytes `start` to `end` (exclusive), 0 where there are none."""

    start: int = 0
    end: int = 0
    exact: bool = False  # one sequential scan with an end marker: its pixels must end where its data do
    fault: str | None = None


def find_coded(data: bytes) -> Coded:
    """Walks over segments and scans to the end marker, as tolerant of junk between segments as libjpeg is."""
    at, start, junk, scans, frame, tables = 2, 0, 0, 0, None, b""
    for _ in range(MOST_SEGMENTS):
        found = _AFTER_SCAN.search(data, at) if scans else _MARKER.search(data, at, at + MOST_JUNK + 2)
        where = found.start() if found else len(data)
        junk += 0 if scans else where - at
        if junk > MOST_JUNK:
            return Coded(fault=f"the header is damaged: more than {MOST_JUNK} bytes in it belong to no segment")
        if found is None:
            return Coded(start, where, False, _cut(data) if scans else None)
        marker = data[where + 1]
        if marker == 0xD9:
            exact = scans == 1 and frame in _SEQUENTIAL
            return Coded(start, where, exact, _hole(data[start:where], tables) if exact else None)
        if scans and marker not in _BETWEEN_SCANS:
            return Coded(start, where, fault=f"its coded pixels are cut: marker FF{marker:02X} stands before their end")
        at = where + 2
        if marker in _NO_LENGTH:
            continue
        body, at = at + 2, at + max(2, int.from_bytes(data[at : at + 2], "big"))
        frame = marker if marker in _SOF else frame
        if marker == 0xC4:
            tables += data[body:at]
        elif marker == 0xDA:
            start, scans = start or at, scans + 1
    return Coded(fault=f"more than {MOST_SEGMENTS} segments")


def _cut(data: bytes) -> str:
    """What is wrong with a file without an end marker. libjpeg decodes one that lacks nothing else only by luck."""
    zeros = len(data) - len(data.rstrip(b"\0"))
    return (f"its last {zeros} bytes are zeros, and " if zeros > 1 else "") + "its end marker is missing"


def _hole(coded: bytes, tables: bytes) -> str | None:
    """Whether zeros stand in place of coded pixels: a run of them that Huffman's `tables` (DHT) do not explain.

    The first symbol of a table has the code of zeros alone. Flat areas are such runs where it ends a block (0) in all
    tables of AC; another one would mean the same strong pattern in block after block.
    """
    at, first = 0, []
    while at + 17 < len(tables):
        if tables[at] >= 0x10:  # of AC
            first.append(tables[at + 17])
        at += 17 + sum(tables[at + 1 : at + 17])
    hole = coded.find(bytes(_RUN)) if any(first) else -1
    return f"more than {_RUN} zeros in a row stand in place of coded pixels" if hole >= 0 else None


class ScanFile(io.BytesIO):
    """The bytes of a JPEG for Pillow, which shows by what it reads of them whether its pixels end where its data do.

    Where the coded data are `exact`, ones stand in place of the end marker: at the marker libjpeg would fill up the
    missing pixels, but of ones it soon asks for more than there are, which Pillow calls a truncated file.
    """

    def __init__(self, data: bytes) -> None:
        self.coded = coded = find_coded(data)
        super().__init__(data[: coded.end] + _ONES if coded.exact else data)
        self._last = max(coded.start, coded.end - _LAST) if coded.exact else 0
        self._needed_all = not coded.exact

    def read(self, size: int | None = -1) -> bytes:
        """As BytesIO's, and never the last bytes together with others."""
        at = self.tell()
        if at < self._last:
            size = min(len(self.getbuffer()) if size is None or size < 0 else size, self._last - at)
        else:
            self._needed_all = True
        return super().read(size)

    @property
    def fault(self) -> str | None:
        """Why the file is not whole, once its picture is loaded."""
        more = "its pixels end before its coded data do: a part of them was overwritten or left out"
        return self.coded.fault or (None if self._needed_all else more)


def _is_plain_frame(body: bytes) -> bool:
    """8 bits, 1 or 3 components, a size."""
    return len(body) >= 6 and body[0] == 8 and body[5] in (1, 3) and body[1:3] != b"\0\0" and body[3:5] != b"\0\0"


def _exif_orientation(body: bytes) -> int | None:
    """1-8 from an APP1 segment's body (1 where the tag is absent); None where block or tag is broken."""
    tiff = body[6:]
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if body[:6] != b"Exif\0\0" or order is None:
        return None
    try:
        (start,) = struct.unpack_from(order + "I", tiff, 4)
        (entries,) = struct.unpack_from(order + "H", tiff, start)
        for i in range(entries):
            tag, kind, count, value = struct.unpack_from(order + "HHIH", tiff, start + 2 + 12 * i)
            if tag == ORIENTATION:
                if kind != 3 or count != 1:
                    return None
                return value if 1 <= value <= 8 else 1  # 0 is common in real sets; all decoders leave it upright
    except struct.error:
        return None
    return 1
