"""A folder of pictures as the archives that people make of it."""

import io
import json
import tarfile
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image


def jpeg(i: int = 0, side: int = 40) -> bytes:
    memory = io.BytesIO()
    noise = np.random.default_rng(i).integers(0, 256, (side, side, 3), np.uint8)
    Image.fromarray(noise).save(memory, "JPEG", quality=90)
    return memory.getvalue()


FILES = [(f"{kind}/{i}.jpg", jpeg(i)) for i, kind in enumerate(("a", "a", "b", "b"))]


def add(archive: tarfile.TarFile, name: str, data: bytes, **fields: object) -> None:
    """A member with these bytes; `fields` are those of `tarfile.TarInfo`."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    archive.addfile(info, io.BytesIO(data))


def files_below(root: Path) -> list[tuple[str, bytes]]:
    """Names relative to `root` and contents, sorted."""
    return [(p.relative_to(root).as_posix(), p.read_bytes()) for p in sorted(root.rglob("*")) if p.is_file()]


def tar_of(path: Path, files: Iterable[tuple[str, bytes]], kind: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=kind) as archive:
        for name, data in files:
            add(archive, name, data)
    return path


def add_to(path: Path, files: Iterable[tuple[str, bytes]]) -> None:
    """More members at the end of a tar file."""
    with tarfile.open(path, "a") as archive:
        for name, data in files:
            add(archive, name, data)


def zip_of(path: Path, files: Iterable[tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files:
            archive.writestr(name, data)
    return path


def webdataset(root: Path, name: str, samples: Sequence[tuple[str, bytes, object]], per_shard: int = 5) -> None:
    """Shards root/NAME-0000.tar of samples (key, JPEG, class); every other class lies in a .json, as both are found."""
    root.mkdir(parents=True, exist_ok=True)
    for shard in range(0, len(samples), per_shard):
        with tarfile.open(root / f"{name}-{shard // per_shard:04d}.tar", "w") as archive:
            for i, (key, data, label) in enumerate(samples[shard : shard + per_shard]):
                add(archive, f"{key}.jpg", data)
                text = json.dumps({"key": key, "label": label}) if i % 2 else f"{label}\n"
                add(archive, f"{key}.{'json' if i % 2 else 'cls'}", text.encode())
                add(archive, f"{key}.txt", b"a caption")
