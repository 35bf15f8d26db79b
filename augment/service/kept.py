"""Where decoded pictures are kept: in this process, or in a file that trainings and later runs share."""

import functools
import hashlib
import json
import re
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from augment.backends import native
from augment.backends.decoded import DecodedCache, default_budget
from augment.request import FILE_CACHES, Making, Source
from augment.service.stream import this_maker
from augment.stream.imageset import ImageSet
from augment.views.schedule import Schedule
from precompute.base.boxfile import BoxCache
from precompute.base.errors import BadValue, UserError
from precompute.base.locks import private_prefix, sweep
from precompute.base.program import count

MEMORY = Path("/dev/shm")
# What kept pixels depend on, besides the pictures and the policy.
_SOURCES = (
    "augment/backends/*.[ch]pp", "augment/views/geometry.py", "precompute/base/pixels.py",
    *(f"augment/backends/{name}.py" for name in ("decoded", "decoded_file", "eager", "fused", "jpeg", "torch_ops")),
)  # fmt: skip


def decoded_cache(
    images: ImageSet, schedule: Schedule, making: Making, backend: str, source: Source
) -> DecodedCache | None:
    """The cache of `making` for a backend, which says how much of the images fits; None for off.

    Raises BadValue for one on another device, UserError as `FileCache`.
    """
    if making.cache == "off":
        return None
    device = torch.device(making.device)
    right = ("gpu",) if device.type == "cuda" else ("ram", *FILE_CACHES)
    if making.cache not in right:
        raise BadValue("cache", making.cache, f"{', '.join(right)} or off for views on {device}")
    if making.cache in FILE_CACHES:
        return _in_a_file(images, schedule, making, backend, source)
    budget = default_budget(device) if making.cache_bytes is None else making.cache_bytes
    kept = DecodedCache(schedule.policy, images.pool, budget, making.cache_side)
    _say(kept, schedule.rows, making)
    return kept


def _in_a_file(images: ImageSet, schedule: Schedule, making: Making, backend: str, source: Source) -> DecodedCache:
    from augment.backends import decoded_file

    if backend not in ("fused", "eager"):  # as `backends.build` says it, before a file is made
        raise BadValue("backend", backend, "fused or eager to keep decoded pictures", "Or use cache off")
    rows = schedule.rows if schedule.backgrounds is None else schedule.backgrounds
    rows = np.union1d(schedule.rows, rows)
    lasting, policy = making.cache == "disk", schedule.policy
    plain = DecodedCache(policy, images.pool, 0, making.cache_side)
    about = _about(images, rows, plain, backend, making)
    folder = _folder(making, source)
    if lasting:
        name = re.sub(r"[^\w.-]", "_", images.parts[0][0].dataset)[:64]
        path, free = folder / f"{name}-{about}{decoded_file.ENDING}", functools.partial(_free, folder)
    else:
        path, free = folder / f"{private_prefix()}{about}{decoded_file.ENDING}", _free_memory
        swept = sweep(folder, besides=path)
        if swept:
            making.say(f"{folder}: removed {count(swept, 'file')} that killed trainings had left")
    remedy = "Limit them by cache_bytes (--cache-bytes) or cache_side (--cache-side)"
    more = (
        "Free some, or name another folder by cache_dir (--cache-dir)"
        if lasting
        else ("Give it more (docker run --shm-size), or name another folder by cache_dir (--shared-dir)")
    )
    try:
        kept = decoded_file.FileCache(
            policy, images.pool, rows, path, about, lasting=lasting, budget=making.cache_bytes, spare=free(),
            side=making.cache_side, remedy=f"{more}. {remedy}", say=making.say,
        )  # fmt: skip
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}. Name another folder by cache_dir (--cache-dir)") from error
    _say(kept, rows, making)
    making.say(f"{path}: {len(kept)} of {min(kept.count, len(rows))} pictures are there")
    return kept


def memory_of(making: Making) -> Path:
    """The folder of what trainings on this machine share: memory, or what `cache_dir` names for cache "shared"."""
    return MEMORY if making.cache != "shared" or making.cache_dir is None else Path(making.cache_dir)


def _folder(making: Making, source: Source) -> Path:
    if making.cache == "shared":
        folder = memory_of(making)
    elif making.cache_dir is not None:
        folder = Path(making.cache_dir)
    elif isinstance(source.boxes, BoxCache):
        raise BadValue("cache_dir", None, "a folder where `boxes` is an opened box file, which has no folder")
    else:
        folder = Path(source.boxes).resolve().parent
    if making.cache == "disk":
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{folder}: {error.strerror}. Name another folder by cache_dir (--cache-dir)") from error
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder. Name another one by cache_dir (--shared-dir)")
    return folder


def _free(folder: Path) -> int:
    return shutil.disk_usage(folder).free // 2


def _free_memory() -> int:
    return default_budget(torch.device("cpu"))


def _about(images: ImageSet, rows: np.ndarray, plain: DecodedCache, backend: str, making: Making) -> str:
    """A digest of all that the kept pixels are a function of."""
    if backend == "fused":
        try:
            native.load(making.say)
        except native.NotBuilt:
            backend = "eager"
    digest = hashlib.sha256(json.dumps(asdict(this_maker(backend, _SOURCES)), sort_keys=True).encode())
    digest.update(images.digest(rows).encode())
    digest.update(plain.layout(rows))
    return digest.hexdigest()[:16]


def _say(kept: DecodedCache, rows: np.ndarray, making: Making) -> None:
    needed = kept.needed(rows)
    share = min(kept.budget / max(needed, 1), 1.0)
    rest = "" if share == 1 else f": about {share:.0%} of the images are kept, the others decoded in every epoch"
    making.say(f"decoded pictures take {needed / 1e9:.3g} GB of the {kept.budget / 1e9:.3g} GB for them{rest}")
