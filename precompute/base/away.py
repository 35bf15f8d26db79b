"""Reading below a folder that may be away for a while: a network file system is mounted anew, its server restarts.

A file that is missing in a folder that is there is missing. Where the folder itself is gone, no file of it is judged
before the folder was waited for.
"""

import errno
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from precompute.base.errors import UserError
from precompute.base.members import named_like_archive

T = TypeVar("T")
LIMIT = 60.0  # seconds that folders are waited for, all waits in vain together; one that came back renews them
LOOK_EVERY = 0.2  # seconds
TRIES = 4  # of a file whose folder is there, with pauses of 0.1, 0.2 and 0.4 s: a disk's bad sector stays bad
_NETWORK = ("EIO", "ESTALE", "ETIMEDOUT", "ENOTCONN", "EHOSTDOWN", "EHOSTUNREACH", "ECONNRESET", "EREMOTEIO", "EAGAIN")
_PASSING = {getattr(errno, name) for name in _NETWORK if hasattr(errno, name)}  # some are of Linux alone


class Patient:
    """Reads files below `root`, and waits where it is away. One serves all threads."""

    def __init__(self, root: Path | str, say: Callable[[str], None]) -> None:
        self.root = os.fspath(root)
        self._say = say
        self._left = LIMIT
        self._waiting = threading.Lock()
        self._closed = threading.Event()

    def close(self) -> None:
        """Ends all waiting; from now on nothing is waited for."""
        self._closed.set()

    def read(self, path: str, read: Callable[[], T]) -> T:
        """What `read` returns, which reads the file `path` (relative to the root).

        Where it raises an OSError, or an error that follows from one, it is called again if that may pass. Raises its
        last error, and UserError where the root is away for too long.
        """
        for tries in range(1, TRIES + 1):
            try:
                return read()
            except Exception as error:
                cause = error if isinstance(error, OSError) else error.__cause__
                if not isinstance(cause, OSError):
                    raise
                if (folder := self._away(path)) is not None:
                    self._wait(folder)
                elif cause.errno in _PASSING and tries < TRIES:
                    self._closed.wait(0.05 * 2**tries)
                elif tries > 1 or cause.errno != errno.ENOENT:  # else the folder may have come back just now
                    raise
        return read()

    def _away(self, path: str) -> str | None:
        """The uppermost folder of the file that is not there, from the root on; an empty root is one not mounted.

        An archive is a file: in a folder that is there it is there, or missing. One that is the root is waited for.
        """
        folder = self.root
        for part in ("", *os.path.dirname(path).split("/")):
            folder = os.path.join(folder, part) if part else folder
            if folder != self.root and named_like_archive(folder) and not os.path.isdir(folder):
                return None
            if not self._here(folder):
                return folder
            if os.path.isfile(folder):
                return None
        return None

    def _wait(self, folder: str) -> None:
        """Returns when the folder is back, or was waited for in vain. UserError where that was the root."""
        with self._waiting:  # the other threads wait with the first one
            if self._left > 0 and not self._here(folder) and not self._closed.is_set():
                self._say(f"{folder} is away: waiting for it, for up to {self._left:.0f} s")
                started = time.monotonic()
                while not self._here(folder) and not self._closed.wait(LOOK_EVERY):
                    if time.monotonic() - started > self._left:
                        break
                waited = time.monotonic() - started
                back = self._here(folder)
                self._left = LIMIT if back else self._left - waited
                self._say(f"{folder} {'is back' if back else 'is still away'} after {waited:.1f} s")
        if folder == self.root and not self._here(folder):
            raise UserError(f"{folder}: the image folder is gone. Mount it again, or put it back, and go on")

    def _here(self, folder: str) -> bool:
        try:
            if folder != self.root or os.path.isfile(folder):
                return os.path.exists(folder)
            with os.scandir(folder) as entries:
                return any(entries)
        except OSError:
            return False
