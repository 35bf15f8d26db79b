"""The header of a JPEG file, read to tell whether every decoder will give the same pixels."""

import struct
from dataclasses import dataclass

ORIENTATION = 0x0112  # the EXIF tag
_NO_LENGTH = frozenset((0x01, *range(0xD0, 0xD8)))  # JPEG markers without a segment: TEM, RST0-7
_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


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
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
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
