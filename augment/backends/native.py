"""Builds the C++ beside it at its first use and calls it. Needs a compiler, and no build system.

The library's name in the user's cache folder is a hash of sources, headers, compiler, flags and CPU. So it is built
once per kind of machine, also where machines of several kinds share a home folder. A library is code: it is loaded only
from a folder that the user owns and nobody else can write to. Where there is none, it is built for this process alone,
in a new private folder.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np

from precompute.base.files import replacing
from precompute.base.private import is_private, own_folder, private_folder

SOURCES = tuple(
    Path(__file__).with_name(name) for name in ("crops.cpp", "views.cpp", "jpeg.cpp", "files.cpp", "tables.cpp")
)
HEADERS = tuple(sorted(Path(__file__).parent.glob("*.hpp")))
FLAGS = ("-O3", "-march=native", "-std=c++17", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")

# The struct View of views.hpp (Crop is `augment.backends.layout.CROP`).
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


class PictureBatch(ctypes.Structure):
    """The struct PictureBatch of crops.hpp."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("pixels", "widths", "heights", "first", "crops")),
        *((name, ctypes.c_int32) for name in ("count", "next", "left")),
    )


class NotBuilt(Exception):
    """There is no compiler, or it failed; the text is the reason."""


def load(say: Callable[[str], None] = lambda _: None) -> ctypes.CDLL:
    """The library, built now or found in the cache. Raises NotBuilt."""
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        raise NotBuilt("there is no C++ compiler (g++ or clang++)")
    try:
        version = subprocess.run([compiler, "--version"], capture_output=True, text=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise NotBuilt(f"{compiler} does not run: {error}") from error
    texts = (path.read_text() for path in SOURCES + HEADERS)
    key = hashlib.sha256("\n".join((*texts, *FLAGS, version, processor())).encode()).hexdigest()[:16]
    name = f"pixels-{key}.so"
    folder, reason = private_folder(), "cannot be written to, or is not yours alone"
    if folder is not None:
        try:
            return _open(_built(compiler, folder / name, say))
        except OSError as error:  # a disk that is full, or from which nothing may be run
            reason = f"cannot be used ({error})"
    say(f"note: the cache folder {reason} (see XDG_CACHE_HOME): the pixel kernel is built for this process alone")
    try:
        return _open(_built(compiler, own_folder() / name, say))
    except OSError as error:
        raise NotBuilt(f"neither the cache folder nor the temporary folder can be used: {error}") from error


_POINTER, _INTEGER = ctypes.c_void_p, ctypes.c_int32
# What the library exports: its arguments, and what it returns.
FUNCTIONS = {
    "crops": ([_POINTER, _INTEGER, _INTEGER, _INTEGER, _POINTER], _INTEGER),
    "crops_of": ([_POINTER], None),
    "views": ([_INTEGER, _POINTER, _INTEGER, _INTEGER, _POINTER, _POINTER, _INTEGER], None),
    "jpeg_open": ([_POINTER], _INTEGER),
    "jpeg_crops": ([_POINTER, _POINTER], None),
    "read_files": ([_POINTER], None),
    "measure_tables": ([_POINTER], None),
    "fill_tables": ([_POINTER], _INTEGER),
}


@functools.cache
def _open(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    for name, (arguments, result) in FUNCTIONS.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, result
    return library


def _built(compiler: str, path: Path, say: Callable[[str], None]) -> Path:
    """`path`, a library in a private folder; built where it is missing or not the user's. Raises NotBuilt, OSError."""
    if is_private(path):
        return path
    say(f"building the pixel kernel once, in a few seconds: {path}")
    with replacing(path) as temporary:
        command = [compiler, *FLAGS, *map(str, SOURCES), "-o", str(temporary)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        except subprocess.SubprocessError as error:
            raise NotBuilt(f"{compiler} failed: {error}") from error
        if done.returncode:
            raise NotBuilt(f"{compiler} failed: {done.stderr.strip().splitlines()[:1]}")
    path.chmod(0o700)
    return path


def processor() -> str:
    """The CPU's model and features, on which -march=native depends, line by line."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
