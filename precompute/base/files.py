"""Files that are either the old one or the new one, whole: never half of one."""

import contextlib
import errno
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None


_LEAVES = re.compile(r"(^|[/\\])\.\.([/\\]|$)|^[/\\]|^[A-Za-z]:[/\\]|//")  # also as Windows reads it


def leaves_root(path: str) -> bool:
    """Whether a path, relative to a folder, is absolute or leads out of it, on this system or on another.

    "//" is an absolute path that something was put before.
    """
    return _LEAVES.search(path) is not None


@contextlib.contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Yields a temporary path in the same folder; on a clean exit it is synced and renamed over `path`.

    On any exception the temporary file is removed and `path` is left as it was. The folder is made when missing.
    A SIGKILL in between leaves the old file and a `.NAME.*.tmp` beside it (`sweep` removes such leftovers).
    Raises OSError with the file's name where the folder cannot be written or the disk is full, and at once where
    `path` is a folder or a device: /dev/null would be gone for everybody.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "a file's name is needed, and this is a folder", str(path))
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "no plain file, so it will not be replaced", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle, temporary = _begin(path)
    except OSError as error:  # it would name the temporary
        raise OSError(error.errno, error.strerror, str(path)) from error
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)  # mkstemp makes it private to its owner
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)
        os.close(handle)
    _sync_folder(path.parent)


def sweep(path: Path | str) -> int:
    """Removes temporaries that killed runs left beside `path`; returns how many. One that is being written stays."""
    path = Path(path)
    removed = 0
    for leftover in path.parent.glob(f".{path.name}.*.tmp"):
        with contextlib.suppress(OSError), open(leftover, "rb") as file:
            if lock(file.fileno()):
                leftover.unlink(missing_ok=True)
                removed += 1
    return removed


def _begin(path: Path) -> tuple[int, Path]:
    """A new temporary beside `path`, and a descriptor that holds its lock: for as long as it is open, sweeps let it be.

    The lock ends with the process, however that ends.
    """
    while True:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        lock(handle)
        if os.path.exists(name):  # no sweep came between the two
            return handle, Path(name)
        os.close(handle)


def lock(handle: int) -> bool:
    """True where this process now holds the file's lock, or files cannot be locked here."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # some network file systems
        return True
    return True


def _sync_folder(folder: Path) -> None:
    """Makes the rename itself survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
