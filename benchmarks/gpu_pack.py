"""Packs what a GPU machine lacks that reaches no package registry: DALI and what it needs, in parts that travel.

python -m benchmarks.gpu_pack                  # two parts in .gpu, of what is imported there, for one GPU's chip
python -m benchmarks.gpu_pack --full           # whole packages and Kornia, in four: where the small pack fails
python -m benchmarks.gpu_pack --check .gpu     # unpacks it, imports DALI from there and decodes a picture

There, with all parts in one folder: `cat part-* | tar xJ -C SITE`, and SITE in PYTHONPATH. The packages are for another
Python than this one (`--python`); to check them that one is needed here, with NumPy and best with the torch of there
(`--interpreter`).

The small pack has no device code for other chips: it is set to zero, as most of DALI's bytes are that. The headers
around it stay, by which a driver finds the code of its own chip. That a driver is content with it is seen only there.
"""

import json
import os
import shlex
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.program import parse
from precompute.base.errors import BadValue, UserError
from precompute.base.options import option
from precompute.base.program import main

NEEDED = (
    "nvidia-dali-cuda130==2.4.0", "astunparse", "gast<=0.7.0", "six<=1.17", "optree", "typing_extensions", "makefun",
    "packaging", "nvidia-nvimgcodec-cu13<0.10", "nvidia-nvjpeg",
)  # fmt: skip
FURTHER = (  # of the full pack
    "nvidia-nvjpeg2k-cu13", "nvidia-nvtiff-cu13", "nvidia-libnvcomp-cu13==5.3.0.16", "libcst~=1.8", "nvtx", "kornia",
    "kornia-rs",
)  # fmt: skip
GLIBC = (35, 34, 31, 28, 27, 24, 17)  # minor versions whose wheels run there
LEFT_OUT = ("nvidia/dali/include", "nvidia/libnvcomp/bin", "nvidia/nvimgcodec/tools")
# Decoders of other formats than JPEG and PNG; whole packages have them.
FORMATS = "nvidia/nvimgcodec/extensions/lib*tiff*_ext.so*", "nvidia/nvimgcodec/extensions/libnvjpeg2k_ext.so*"
# A package file of that name would hide the CUDA packages of the machine itself.
HIDING = "nvidia/__init__.py"
PART = "part-"
CODE = b".nv_fatbin", b"__nv_relfatbin"  # sections of device code
CONTAINER, ELF = 0xBA55ED50, 2  # a container's mark; the kind of an entry that is machine code (1: PTX)

TRY = """
import json, sys
import numpy as np
from nvidia.dali import fn, pipeline_def, types

@pipeline_def(batch_size=1, num_threads=1, device_id=None)
def graph():
    return fn.decoders.image(fn.external_source(name="encoded", dtype=types.UINT8, ndim=1), device="cpu")

pipe = graph()
pipe.build()
pipe.feed_input("encoded", [np.fromfile(sys.argv[1], np.uint8)])
decoded = pipe.run()[0]
pixels = np.array(decoded.at(0))
import nvidia.dali
found = {"dali": nvidia.dali.__version__, "from": nvidia.dali.__path__[0]}
found |= {"shape": pixels.shape, "sum": int(pixels.sum())}
try:
    import torch
except ImportError:
    pass
else:
    assert (torch.from_dlpack(decoded[0]).numpy() == pixels).all(), "torch sees other pixels"
    found["torch"] = torch.__version__
print(json.dumps(found))
"""


@dataclass(frozen=True)
class GpuPackSettings:
    """The program's settings and their only defaults."""

    out: str = option(".gpu", "folder of the parts; what is in it of an earlier pack is removed")
    full: bool = option(False, "whole packages, and Kornia")
    capability: int = option(90, "compute capability of the GPU whose code is kept: 90 is an H100 or H200")
    python: str = option("3.12", "version of Python there")
    wheels: str | None = option(None, "folder of packages that are there already; default: pip fetches them")
    part_mib: int = option(50, "most MiB of a part")
    check: str | None = option(None, "folder of parts to unpack and try instead")
    interpreter: str = option("python3.12", "the Python to try them with, which has NumPy")

    def __post_init__(self) -> None:
        if self.part_mib < 1:
            raise BadValue("part_mib", self.part_mib, "at least 1")


def program(argv: list[str] | None = None) -> int:
    """Packs or checks; exit status 0 done, 1 failed, 2 usage."""
    settings = parse(GpuPackSettings, "benchmarks.gpu_pack", __doc__, argv)
    print(json.dumps(check(settings) if settings.check else pack(settings)))
    return 0


def pack(settings: GpuPackSettings) -> dict[str, object]:
    """Makes the parts; their names and bytes, and how many bytes of device code were cleared."""
    with tempfile.TemporaryDirectory() as work:
        site, wheels = Path(work, "site"), Path(settings.wheels or Path(work, "wheels"))
        if settings.wheels is None:
            fetch(settings, wheels)
        for wheel in sorted(wheels.glob("*.whl")):  # of a folder that has more, what is not asked for is packed too
            with zipfile.ZipFile(wheel) as packed:
                packed.extractall(site)
        strip(site, settings.python)
        cleared: Counter[str] = Counter()
        if not settings.full:
            for library in [path for pattern in FORMATS for path in site.glob(pattern)]:
                library.unlink()
            for library in sorted(site.rglob("*.so*")):
                cleared += clear(library, settings.capability)
        parts = write_parts(site, Path(settings.out), settings.part_mib << 20)
    sizes = {part.name: part.stat().st_size for part in parts}
    return {"parts": sizes, "mib": round(sum(sizes.values()) / 2**20, 1), "cleared": dict(cleared)}


def fetch(settings: GpuPackSettings, to: Path) -> None:
    """Has pip fetch the packages for the other machine's Python."""
    tags = [*(f"manylinux_2_{minor}_x86_64" for minor in GLIBC), "manylinux2014_x86_64", "manylinux1_x86_64"]
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", str(to)]
    command += ["--python-version", settings.python, "--implementation", "cp"]
    command += [word for tag in tags for word in ("--platform", tag)]
    if subprocess.run([*command, *NEEDED, *(FURTHER if settings.full else ())]).returncode:
        raise UserError("pip could not fetch the packages: see above; or give a folder that has them by --wheels")


def strip(site: Path, python: str) -> None:
    """Removes what serves other Pythons, headers and tools."""
    ours = f".cpython-{python.replace('.', '')}-"
    for library in site.rglob("*.cpython-3*.so"):
        if ours not in library.name:
            library.unlink()
    for folder in LEFT_OUT:
        for path in sorted(site.glob(f"{folder}/**/*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
    (site / HIDING).unlink(missing_ok=True)


def clear(library: Path, capability: int) -> Counter[str]:
    """Sets the device code of other chips in a shared library to zero; the bytes by chip."""
    data, cleared = bytearray(library.read_bytes()), Counter[str]()
    for start, size in [found for name in CODE for found in sections(data, name)]:
        for entries in containers(data, start, start + size):
            # Where nothing is compiled for the chip itself, what the driver would take is not guessed.
            if not any(kind == ELF and chip == capability for kind, chip, _, _ in entries):
                continue
            for kind, chip, begin, end in entries:
                if kind != ELF or chip != capability:
                    data[begin:end] = bytes(end - begin)
                    cleared[f"{'sm' if kind == ELF else 'ptx'}_{chip}"] += end - begin
    if cleared:
        library.write_bytes(data)
    return cleared


def sections(data: bytearray, name: bytes) -> Iterator[tuple[int, int]]:
    """Start and size of the sections of that name in an ELF file of 64 bits; none in another file."""
    if data[:6] != b"\x7fELF\x02\x01":
        return
    (table,), (entry, count, names) = struct.unpack_from("<Q", data, 40), struct.unpack_from("<HHH", data, 58)
    headers = [struct.unpack_from("<IIQQQQ", data, table + i * entry) for i in range(count)]
    for number, _, _, _, start, size in headers:
        at = headers[names][4] + number
        if data[at : at + len(name) + 1] == name + b"\0":
            yield start, size


def containers(data: bytearray, start: int, end: int) -> Iterator[list[tuple[int, int, int, int]]]:
    """The containers of device code: of each entry the kind, the chip, and where its code begins and ends."""
    mark = struct.pack("<I", CONTAINER)
    while (start := data.find(mark, start, end)) >= 0:
        _, _, header, size = struct.unpack_from("<IHHQ", data, start)
        at, last = start + header, start + header + size
        entries = []
        while at < last:
            kind, _, header, size = struct.unpack_from("<HHIQ", data, at)
            (chip,) = struct.unpack_from("<I", data, at + 28)
            if not header or at + header + size > last:
                raise UserError("device code in a form that is not known here: use --full")
            entries.append((kind, chip, at + header, at + header + size))
            at += header + size
        yield entries
        start = last


def write_parts(site: Path, out: Path, most: int) -> list[Path]:
    """`site` as a tar of xz, cut into parts of at most so many bytes."""
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob(f"{PART}*"):
        old.unlink()
    command = f"tar cf - --sort=name --owner=0 --group=0 -C {shlex.quote(str(site))} . | xz -T0 -6"
    made: list[Path] = []
    with subprocess.Popen(["bash", "-o", "pipefail", "-c", command], stdout=subprocess.PIPE) as stream:
        assert stream.stdout is not None
        while piece := stream.stdout.read(most):
            made.append(out / f"{PART}{len(made)}")
            made[-1].write_bytes(piece)
    if stream.returncode:
        raise UserError(f"tar or xz failed with status {stream.returncode}: see above")
    return made


def check(settings: GpuPackSettings) -> dict[str, object]:
    """Unpacks the parts and decodes a picture with what is in them, beside the interpreter's torch where it has one."""
    import numpy as np
    from PIL import Image

    assert settings.check is not None
    parts = sorted(Path(settings.check).glob(f"{PART}*"))
    if not parts:
        raise UserError(f"{settings.check}: no {PART}* in it; make them without --check first")
    with tempfile.TemporaryDirectory() as work:
        site, picture = Path(work, "site"), Path(work, "picture.jpg")
        site.mkdir()
        with subprocess.Popen(["tar", "xJ", "-C", str(site)], stdin=subprocess.PIPE) as unpack:
            assert unpack.stdin is not None
            for part in parts:
                unpack.stdin.write(part.read_bytes())
        y, x = np.mgrid[:48, :64]
        Image.fromarray(np.stack((x * 4, y * 5, x + y), -1).astype(np.uint8)).save(picture, quality=95)
        if (python := shutil.which(settings.interpreter)) is None:
            raise UserError(f"{settings.interpreter} is not installed here: name by --interpreter one that has NumPy")
        environment = os.environ | {"PYTHONPATH": str(site)}
        done = subprocess.run([python, "-c", TRY, str(picture)], env=environment, capture_output=True, text=True)
        if done.returncode or unpack.returncode:
            raise UserError(f"{settings.interpreter} cannot use what is in {settings.check}: {done.stderr[-1500:]}")
        found = json.loads(done.stdout.splitlines()[-1])
        expected = int(np.asarray(Image.open(picture)).astype(np.int64).sum())
        if not found["from"].startswith(str(site)):
            raise UserError(f"{found['from']} was imported, which is not in the pack: take an interpreter without DALI")
        off = abs(found["sum"] - expected) / (64 * 48 * 3)
        if found["shape"] != [48, 64, 3] or off > 1:
            raise UserError(f"the picture was decoded to {found['shape']}, {off:.2f} levels off")
        mib = round(sum(part.stat().st_size for part in parts) / 2**20, 1)
        versions = {name: found.get(name) for name in ("dali", "torch")}
        return versions | {"levels_off": round(off, 3), "parts": len(parts), "mib": mib}


if __name__ == "__main__":
    main(program)
