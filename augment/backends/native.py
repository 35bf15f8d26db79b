"""Builds `crops.cpp` and `views.cpp` at their first use and calls them. Needs a compiler, and no build system.

The library's name in the user's cache folder is a hash of sources, headers, compiler, flags and CPU. So it is built
once per kind of machine, also where machines of several kinds share a home folder.
"""

import atexit
import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from precompute.base.files import replacing

SOURCES = tuple(Path(__file__).with_name(name) for name in ("crops.cpp", "views.cpp"))
HEADERS = tuple(sorted(Path(__file__).parent.glob("*.hpp")))
FLAGS = ("-O3", "-march=native", "-std=c++17", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")

# The struct View of views.cpp (Crop is `augment.backends.layout.CROP`).
VIEW = np.dtype(
    [
        *((name, "u8") for name in ("scene", "patch", "out")),
        ("rect", "i4", 4),
        *((name, "i4") for name in ("flip", "gray", "jittered", "radius")),
        ("order", "i4", 4),
        ("jitter", "f4", 4),
        ("matrix", "f4", (3, 3)),
        ("offset", "f4", (3, 3)),
        ("sigma", "f4"),
        ("unused", "f4"),
    ]
)


class NotBuilt(Exception):
    """There is no compiler, or it failed; the text is the reason."""


def load(say: Callable[[str], None] = lambda _: None) -> ctypes.CDLL:
    """The library, built now or found in the cache. Raises NotBuilt."""
    return _open(_library(say))


@functools.cache
def _open(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    pointer, integer = ctypes.c_void_p, ctypes.c_int32
    library.crops.argtypes = [pointer, ctypes.c_int64, integer, pointer]
    library.views.argtypes = [integer, pointer, integer, integer, pointer, pointer, integer]
    library.crops.restype = library.views.restype = None
    return library


def _library(say: Callable[[str], None]) -> Path:
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        raise NotBuilt("there is no C++ compiler (g++ or clang++)")
    try:
        version = subprocess.run([compiler, "--version"], capture_output=True, text=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise NotBuilt(f"{compiler} does not run: {error}") from error
    texts = (path.read_text() for path in SOURCES + HEADERS)
    key = hashlib.sha256("\n".join((*texts, *FLAGS, version, processor())).encode()).hexdigest()[:16]
    for folder in _folders():
        path = folder / f"pixels-{key}.so"
        try:
            if _is_ours(path):
                return path
            say(f"building the pixel kernel once, in a few seconds: {path}")
            with replacing(path) as temporary:
                command = [compiler, *FLAGS, *map(str, SOURCES), "-o", str(temporary)]
                done = subprocess.run(command, capture_output=True, text=True, timeout=120)
                if done.returncode:
                    raise NotBuilt(f"{compiler} failed: {done.stderr.strip().splitlines()[:1]}")
            path.chmod(0o755)
            return path
        except OSError:  # a folder that cannot be written: the next one
            continue
        except subprocess.SubprocessError as error:
            raise NotBuilt(f"{compiler} failed: {error}") from error
    raise NotBuilt("neither the cache folder nor the temporary folder can be written")


def _folders() -> Iterator[Path]:
    """The user's cache folder; else a new one that nobody else can write, for this process only.

    Code is loaded from there, so it must belong to the user alone.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "saliencyswap"
    with contextlib.suppress(OSError):
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        if home.stat().st_uid == os.getuid():
            home.chmod(home.stat().st_mode & ~0o022)
            yield home
    private = tempfile.mkdtemp(prefix="saliencyswap-")
    atexit.register(shutil.rmtree, private, ignore_errors=True)
    yield Path(private)


def _is_ours(path: Path) -> bool:
    """Whether a file is there, belongs to this user and cannot be written by others."""
    try:
        about = path.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISREG(about.st_mode) and about.st_uid == os.getuid() and not about.st_mode & 0o022


def processor() -> str:
    """The CPU's model and features, on which -march=native depends, line by line."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
