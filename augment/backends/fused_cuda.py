"""The fused backend on CUDA: DALI decodes on the device, Triton kernels do everything else."""

import importlib
import itertools
from collections import deque
from collections.abc import Sequence
from ctypes import CDLL
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from augment.backends import native
from augment.backends.addressed import Addressed, KeptOnDevice
from augment.backends.dali import Decoder, within_parts
from augment.backends.dali_runs import LANES
from augment.backends.decoded import DecodedCache, Picture
from augment.backends.decoding import USUAL, Decoding
from augment.backends.protocol import Backend
from augment.backends.tables import BLUR_TILE, Rooms, Tables, compiled, in_numpy, of_views
from augment.request import Making
from augment.views.plan import Plan
from augment.views.policy import Policy

# Rows and columns of pixels that the threads of another program have at a time.
ROWS, COLUMNS = 16, 32
CHUNK = {"ROWS": ROWS, "COLUMNS": COLUMNS}
_ALIGNED = 16  # bytes: what Triton's wide loads ask for
_KINDS = (torch.uint8, torch.int32, torch.int64, torch.float16, torch.float32)
_TYPES = {torch.empty(0, dtype=kind).numpy().dtype: kind for kind in _KINDS}
# Of every launch: a product and its sum become one operation. Triton's default changes with its version, and with it
# the views' last bits.
FUSION = {"enable_fp_fusion": True}


@dataclass(frozen=True, eq=False)
class _Begun:
    """A plan whose images are being decoded."""

    plan: Plan
    local: Plan  # its ROIs counted from what is decoded
    new: list[int]  # its images that are decoded; may be none
    parts: tuple[np.ndarray, ...] = ()  # of these images, where only parts are


class FusedCudaBackend(Backend):
    """Decoded pictures stay where DALI put them; the kernels take them by address."""

    name, buffers = "fused", True

    def __init__(
        self,
        policy: Policy,
        making: Making,
        batch: int,
        cache: DecodedCache | None = None,
        decoding: Decoding = USUAL,
    ) -> None:
        self.policy, self.dtype, self.device = policy, making.dtype, torch.device(making.device)
        self._library = _compiled(making)
        self._kept = None if cache is None else KeptOnDevice(cache, self.device)
        self._decoder = Decoder(self.device, making.workers or 1, batch + 2 * policy.group, decoding)
        self._decoder.regions = decoding.region and cache is None  # a cache keeps what later views read, too
        self._begun: deque[_Begun] = deque(maxlen=LANES["cuda"])  # as many as the decoder works on at once

    def begin(self, plan: Plan, files: Sequence[bytes]) -> None:
        """See `augment.backends.protocol.Backend`."""
        entry = self._entry(plan)
        self._begun.append(entry)
        if new := entry.new:
            self._decoder.begin(entry, [files[slot] for slot in new], *entry.parts)

    def render(self, plan: Plan, files: Sequence[bytes]) -> tuple[Tensor, ...]:
        """See `augment.backends.protocol.Backend`."""
        # Since `begin`, the cache may have got some of the images. All that were begun must be finished, so the
        # decoder's key is the entry with their list, not the plan.
        entry = next((entry for entry in self._begun if entry.plan is plan), None)
        if entry is None:
            entry = self._entry(plan)
        else:
            self._begun.remove(entry)
        new = entry.new
        decoded = self._decoder.listed([files[slot] for slot in new], entry, *entry.parts) if new else None
        try:
            images = None if decoded is None else Addressed.whole(decoded)
            pictures, memory = self._pictures(plan, new, images)
            views = make_views(self.policy, entry.local, pictures, self.device, self.dtype, self._library)
            del memory  # the kernels that read it are in the stream
            return views
        finally:  # also after an error: the crops that the cache keeps may have yet to be cut
            if decoded is not None:
                self._decoder.keep(decoded)

    def _entry(self, plan: Plan) -> "_Begun":
        if self._decoder.regions:
            local, parts = within_parts(plan, not self.policy.kind.pastes)
            return _Begun(plan, local, list(range(len(parts))), (parts,))
        return _Begun(plan, plan, self._missing(plan))

    def _pictures(self, plan: Plan, new: Sequence[int], images: Addressed | None) -> tuple[Addressed, Tensor | None]:
        """The plan's pictures, those at `new` out of `images`, and memory that some of them lie in."""
        if self._kept is None:
            assert images is not None
            return images, None
        made, memory = (None, None) if images is None else self.keep(plan.images[new], images)
        return self._kept.pictures(plan.images, new, made), memory

    def keep(self, rows: np.ndarray, images: Addressed) -> tuple[Addressed, Tensor]:
        """The cache's pictures of different rows, cut from their whole images: see `KeptOnDevice.add`."""
        assert self._kept is not None
        return self._kept.add(rows, images, cut_crops)

    def _missing(self, plan: Plan) -> list[int]:
        """The plan's images that must be decoded."""
        return list(range(len(plan.images))) if self._kept is None else self._kept.missing(plan.images)

    def holds(self, row: int) -> bool:
        """See `augment.backends.protocol.Backend`."""
        return self._kept is not None and row in self._kept

    def reset(self) -> None:
        """Frees the decoder's threads and memory; the next batch builds a new one."""
        self._begun.clear()
        self._decoder.close()

    close = reset


def _compiled(making: Making) -> CDLL | None:
    """The C++ that makes the kernels' tables; None, which is said, where it cannot be built."""
    try:
        return native.load(making.say)
    except native.NotBuilt as error:
        making.say(f"the kernels' tables are made by NumPy, which is slower: {error}")
        return None


class Parcel:
    """Flat arrays on their way to the device, in one piece of memory, for one copy; each begins at a multiple of 16.

    The copy goes through pinned memory, which torch reuses only when the copy is over. A copy from pageable memory
    would wait for the kernels before it.
    """

    def __init__(self, device: torch.device, rooms: Rooms) -> None:
        """`rooms`: of each array the dtype and the bytes."""
        self._device, self._kinds = device, [(name, _TYPES[np.dtype(kind)]) for name, (kind, _) in rooms.items()]
        self._words = [-(-size // _ALIGNED) * (_ALIGNED // 4) for _, size in rooms.values()]
        self._packed = torch.empty(4 * sum(self._words), dtype=torch.uint8, pin_memory=device.type == "cuda")
        starts = itertools.accumulate((4 * words for words in self._words), initial=0)
        self.starts = dict(zip(rooms, starts, strict=False))

    def addresses(self) -> dict[str, int]:
        """Where each array is to be written."""
        base = self._packed.data_ptr()
        return {name: base + start for name, start in self.starts.items()}

    def fill(self, **arrays: np.ndarray) -> None:
        """Writes arrays to their places."""
        host = self._packed.numpy()
        for name, array in arrays.items():
            start = self.starts[name]
            host[start : start + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)

    def sent(self) -> dict[str, Tensor]:
        """The arrays on the device."""
        # One cut for all: each operation of torch costs as much as a dozen lines of Python.
        there = self._packed.to(self._device, non_blocking=True).view(torch.int32).split_with_sizes(self._words)
        return {
            name: part if kind is torch.int32 else part.view(kind)
            for (name, kind), part in zip(self._kinds, there, strict=True)
        }


def put(device: torch.device, **arrays: np.ndarray) -> dict[str, Tensor]:
    """Copies NumPy arrays to the device as flat tensors, padded to multiples of 16 bytes: see `Parcel`."""
    parcel = Parcel(device, {name: (array.dtype.type, array.nbytes) for name, array in arrays.items()})
    parcel.fill(**arrays)
    return parcel.sent()


def cut_crops(pictures: Addressed, crops: np.ndarray, slot: np.ndarray, out: Tensor) -> None:
    """Cuts `crops` (layout.CROP, ROIs in pixels of the image) of the pictures `slot` to places counted from `out`.

    Raises ValueError where a crop leaves its picture.
    """
    if not len(crops):
        return
    jobs = put(out.device, jobs=pictures.jobs(crops, slot, out.data_ptr()).view(np.int32))["jobs"]
    _cut(jobs, out, len(crops), int(crops["width"].max()), int(crops["height"].max()))


def _cut(jobs: Tensor, out: Tensor, count: int, widest: int, highest: int) -> None:
    kernels: Any = importlib.import_module("augment.backends.triton_kernels")
    # Pictures are found from `out`, whose address is a multiple of 16, so that there is one kernel for all batches.
    grid = _tiles(widest, COLUMNS), _tiles(highest, ROWS), count
    kernels.crop_kernel[grid](jobs, jobs.view(torch.int64), out, **CHUNK, **FUSION)


def make_views(
    policy: Policy,
    plan: Plan,
    pictures: Addressed | Sequence[Picture],
    device: torch.device,
    dtype: torch.dtype,
    library: CDLL | None = None,
) -> tuple[Tensor, ...]:
    """Views from decoded images on `device`, one picture for each of the plan's images.

    `library`: of `native.load`, which makes the kernels' tables; None: NumPy does. On CUDA the kernels may not have run
    when this returns: the images must live until they have (see `dali_runs.Lane`).
    """
    if not isinstance(pictures, Addressed):
        pictures = Addressed.of(pictures)
    cuts = torch.empty(0)

    def room(size: int) -> int:
        nonlocal cuts
        cuts = torch.empty(size, dtype=torch.uint8, device=device)
        return cuts.data_ptr()

    more = _constants(policy, plan)
    if library is not None and pictures.scale is None:
        parcels: list[Parcel] = []

        def memory(rooms: Rooms) -> dict[str, int]:
            parcels.append(Parcel(device, rooms | {name: (x.dtype.type, x.nbytes) for name, x in more.items()}))
            return parcels[0].addresses()

        made = compiled(library, policy, plan, pictures, room, memory)
        parcels[0].fill(**more)
        given = parcels[0].sent()
    else:
        made, arrays = in_numpy(policy, plan, pictures, room)
        given = put(device, **arrays, **more)
    if made.crops:
        _cut(given["crops"], cuts, made.crops, made.widest, made.highest)
    return _finished(policy, plan, made, given, cuts, dtype)


def finish_views(
    policy: Policy, plan: Plan, cuts: Tensor, scenes: np.ndarray, patches: np.ndarray, dtype: torch.dtype
) -> tuple[Tensor, ...]:
    """Views from crops (uint8, flat, on the device); `scenes` and `patches`, int64 [B, V], are places in `cuts`."""
    made, arrays = of_views(policy, plan, scenes, patches)
    given = put(cuts.device, **arrays, **_constants(policy, plan))
    return _finished(policy, plan, made, given, cuts, dtype)


def _constants(policy: Policy, plan: Plan) -> dict[str, np.ndarray]:
    """What the kernels need besides tables."""
    return {"levels": _levels(policy.mean, policy.std)} | ({} if plan.alpha is None else {"alpha": plan.alpha})


def _finished(
    policy: Policy, plan: Plan, made: Tables, given: dict[str, Tensor], cuts: Tensor, dtype: torch.dtype
) -> tuple[Tensor, ...]:
    """Launches what follows the crops."""
    kernels: Any = importlib.import_module("augment.backends.triton_kernels")
    size, shape, device, jobs = plan.size, plan.background_slot.shape, cuts.device, given["jobs"]
    count = made.plain + made.blurred
    sums = torch.zeros((count, 3), dtype=torch.int64, device=device)
    out = torch.empty((count, size, size, 3), dtype=dtype, device=device)
    linear, columns = policy.colour == "linear", _tiles(size, COLUMNS)
    canvas = jobs, jobs.view(torch.float32), jobs.view(torch.int64), cuts, given.get("alpha"), sums
    kernels.mean_kernel[columns, count](*canvas, size, LINEAR=linear, **CHUNK, **FUSION)
    to = given["levels"], out, size
    if made.plain:
        kernels.view_kernel[columns, made.plain](given["plain"], *canvas, *to, LINEAR=linear, **CHUNK, **FUSION)
    if made.blurred:
        side = _tiles(size, BLUR_TILE - 2 * made.reach if made.chunks == 1 else BLUR_TILE)
        kernels.blur_kernel[side, side, made.blurred](
            given["blurred"], given["weights"], *canvas, *to, LINEAR=linear, CHUNKS=made.chunks, TILE=BLUR_TILE,
            num_warps=8, **FUSION,
        )  # fmt: skip
    return tuple(view.permute(0, 3, 1, 2) for view in out.view(*shape[::-1], size, size, 3))


@cache
def _levels(mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """Factors of levels from 0 to 1 that normalise them, and what is added: float32 [6]."""
    scale = np.float32(255) * (1 / (255 * np.array(std))).astype(np.float32)
    return np.concatenate((scale, (-np.array(mean) / std).astype(np.float32)))


def _tiles(pixels: int, side: int) -> int:
    return -(-pixels // side)
