"""Folders for what is loaded as code: the user owns them, and nobody else can write to them."""

import atexit
import functools
import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path


def private_folder() -> Path | None:
    """The user's cache folder, `$XDG_CACHE_HOME/saliencyswap` or `~/.cache/saliencyswap`, made where it is missing.

    None where it cannot be made or written to, or is not this user's alone. One of the user's that others could write
    to is closed and emptied first: what is in it may be anybody's.
    """
    given, home = os.environ.get("XDG_CACHE_HOME", ""), os.path.expanduser("~")
    above = given if os.path.isabs(given) else os.path.join(home, ".cache")
    if not os.path.isabs(above):  # nobody's home
        return None
    folder = Path(os.path.realpath(above)) / "saliencyswap"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if _owned(folder) and not is_private(folder, stat.S_ISDIR):
            folder.chmod(0o700)
            for child in folder.iterdir():
                shutil.rmtree(child) if child.is_dir() and not child.is_symlink() else child.unlink()
    except OSError:
        return None
    return folder if is_private(folder, stat.S_ISDIR) and os.access(folder, os.W_OK | os.X_OK) else None


@functools.cache
def own_folder() -> Path:
    """A new folder of this process, which nobody can have made before; removed at its end. Raises OSError."""
    folder = tempfile.mkdtemp(prefix="saliencyswap-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def let_torch_keep_code_private() -> None:
    """Before torch.compile: what it compiles is kept in a private folder, unless the user names one.

    Its own choice is a folder in the temporary folder whose name others know, and code is loaded from there.
    """
    if "TORCHINDUCTOR_CACHE_DIR" not in os.environ:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str((private_folder() or own_folder()) / "torchinductor")


def is_private(path: Path, kind: Callable[[int], bool] = stat.S_ISREG) -> bool:
    """Whether `path` is there, of this kind, no link, this user's, and nobody else may write to it.

    False where files have no owners (Windows).
    """
    try:
        mode = path.lstat().st_mode
        return kind(mode) and not mode & (stat.S_IWGRP | stat.S_IWOTH) and _owned(path)
    except OSError:
        return False


def _owned(path: Path) -> bool:
    """Whether this user owns `path` itself; a link is not followed."""
    return hasattr(os, "geteuid") and not path.is_symlink() and path.lstat().st_uid == os.geteuid()
