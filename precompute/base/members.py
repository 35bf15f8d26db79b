"""Pictures inside of tar and zip archives, read in place: one call at a known offset, and nothing is unpacked.

The path of such a picture is ARCHIVE/NAME-INSIDE, or NAME-INSIDE alone where the root itself is the archive.
"""

import errno
import os
import re
import stat
import zlib
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

LARGEST = 1 << 30  # bytes of a member: no larger one is read, whatever the archive says of it
RATIO = 1032  # deflate packs no better: 258 bytes in two bits
KEPT = 256  # descriptors that stay open

_ARCHIVE = re.compile(r".*?\.(?:tar|zip)(?=/)", re.IGNORECASE | re.DOTALL)


class BadMember(Exception):
    """A member that cannot be read; the text is the reason."""


class Member(NamedTuple):
    """Where a picture's bytes lie."""

    archive: str  # relative to the root; "": the root itself
    offset: int  # of its first byte in the archive
    size: int  # bytes, unpacked
    packed: int = 0  # bytes in the archive where they are deflated; 0: they lie there as they are
    crc: int | None = None  # CRC-32 of the unpacked bytes, where the archive has one


class Archive:
    """An archive that is open for reading; any number of threads and forked processes may read at once."""

    number = -1

    def __init__(self, path: str) -> None:
        """Raises OSError, also for what is no regular file: a pipe might block for ever."""
        self.number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        status = os.fstat(self.number)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", path)
        self.size = status.st_size

    # When the last reader is done, so never under a reader's hands. At the end of a program `os` may be gone already.
    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        if self.number >= 0:
            close(self.number)

    def read(self, offset: int, count: int) -> bytes:
        """`count` bytes from `offset` on, or as many as there are."""
        count = min(count, self.size - offset)
        if count <= 0 or offset < 0:
            return b""
        data = os.pread(self.number, count, offset)
        while len(data) < count and (more := os.pread(self.number, count - len(data), offset + len(data))):
            data += more
        return data


opened = lru_cache(KEPT)(Archive)  # by path
forget = opened.cache_clear  # for archives that may have been replaced meanwhile


def named_like_archive(path: str) -> bool:
    """Whether a path of PATH/NAME-INSIDE could be that of an archive."""
    return path.lower().endswith((".tar", ".zip"))


def holder(root: str | os.PathLike[str], path: str) -> str | None:
    """The archive that the picture `path` (relative to the root) lies in; None where it can only be a file."""
    if os.path.isfile(root):
        return os.fspath(root)
    found = _ARCHIVE.match(path)
    return os.path.join(root, found[0]) if found else None


def read_member(archive: str, offset: int, size: int, packed: int = 0, crc: int | None = None) -> bytes:
    """The `size` bytes of a member (see `Member`). Raises OSError, and BadMember where they are not there."""
    if size > LARGEST or packed > LARGEST:
        raise BadMember(f"its archive says {max(size, packed)} bytes, more than {LARGEST}")
    try:
        data = opened(archive).read(offset, packed or size)
    except OSError:
        forget()  # a descriptor of a file system that was mounted anew would stay stale
        raise
    if len(data) < (packed or size):
        raise BadMember("its archive ends before it does: the archive is cut, or another one")
    if packed:
        unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            data = unpacker.decompress(data, size + 1)
        except zlib.error as error:
            raise BadMember(f"its packed bytes are damaged ({error})") from None
        if len(data) != size or not unpacker.eof or unpacker.unused_data:
            raise BadMember(f"it does not unpack to the {size} bytes that its archive says")
    if crc is not None and zlib.crc32(data) != crc:
        raise BadMember("damaged: its archive has another checksum for it")
    return data
