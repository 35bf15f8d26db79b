"""Files that several processes of one user have open at once, with locks that end with the process that holds them."""

import fcntl
import os
import struct
import time
from contextlib import suppress
from pathlib import Path

from precompute.base.errors import UserError

SETUP = 0  # the byte that a process locks while it joins or leaves
USERS = range(1, 65)  # the bytes that are locked by users: a file without a locked one is used by nobody
_WAIT = 30.0  # seconds for others to join or leave


class RecordLocks:
    """Record locks of an open file description: no other use of the file in this process drops them.

    A locked byte is a number, and need not be in the file.
    """

    def __init__(self, file: int) -> None:
        self._file = file

    def take(self, byte: int, *, shared: bool = False) -> bool:
        """False where another holds it. One that is held already becomes shared, or no longer so."""
        try:
            self._set(fcntl.F_RDLCK if shared else fcntl.F_WRLCK, byte)
        except (BlockingIOError, PermissionError):
            return False
        return True

    def drop(self, byte: int) -> None:
        """The end of `take`."""
        self._set(fcntl.F_UNLCK, byte)

    def _set(self, kind: int, byte: int) -> None:
        fcntl.fcntl(self._file, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", kind, os.SEEK_SET, byte, 1, 0))


def private_prefix() -> str:
    """How the names of this user's files in a folder of everybody's begin."""
    return f"saliencyswap-{os.geteuid()}-"


class SharedFile:
    """An open file, made where it is missing, that only this user can read. `SETUP` is locked when it is returned."""

    def __init__(self, path: Path) -> None:
        """Raises UserError where it is somebody else's, or a stopped process holds it, and OSError."""
        self.path = path
        while True:
            self.file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            self.locks = RecordLocks(self.file)
            try:
                about = os.fstat(self.file)
                if about.st_uid != os.geteuid() or about.st_mode & 0o077:
                    raise UserError(f"{path}: belongs to somebody else, or others may read it. Remove it")
                self.setup()
                if os.fstat(self.file).st_nlink:
                    return
            except BaseException:
                os.close(self.file)
                raise
            os.close(self.file)  # its last user has just removed it

    def setup(self) -> None:
        """Locks `SETUP`, before the file is left. Raises UserError where another holds it for long."""
        until = time.monotonic() + _WAIT
        while not self.locks.take(SETUP):
            if time.monotonic() > until:
                raise UserError(f"{self.path}: a stopped process holds it. End that, or remove the file")
            time.sleep(0.005)


def sweep(folder: Path, besides: Path | None = None) -> int:
    """Removes the files of this user whose users were all killed, but for one; returns how many."""
    removed = 0
    for path in set(folder.glob(f"{private_prefix()}*")) - {besides}:
        with suppress(OSError):
            file = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                locks = RecordLocks(file)
                if locks.take(SETUP) and all(map(locks.take, USERS)):
                    path.unlink()
                    removed += 1
            finally:
                os.close(file)
    return removed
