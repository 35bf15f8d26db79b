"""Memory that is used again as soon as nobody holds it."""

import itertools
import math
import sys
import threading
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

ALIGNED = 64  # bytes: views.cpp writes whole lines of the processor's cache


class Blocks:
    """Blocks of memory. One is free when only this list refers to it, by its reference count.

    Fresh pages would cost as much as filling them.
    """

    def __init__(self, keep: int = 16) -> None:
        self._keep = keep
        self._blocks: list[np.ndarray] = []
        self._lock = threading.Lock()  # two threads that saw the same block free would both take it

    def take(self, room: int) -> np.ndarray:
        """uint8 of at least `room` bytes, whose contents are arbitrary. Who keeps a part of it keeps all of it."""
        with self._lock:
            # A generator, as in `_references_when_free`: other loops may hold one reference more or less.
            free = list(b for b in self._blocks if sys.getrefcount(b) <= _REFERENCES)  # noqa: C400
            block = min((b for b in free if len(b) >= room), key=len, default=None)
            if block is None:
                # In place of one that is too small: memory grows with what is held at a time, not with every batch that
                # is larger than those before. Room to spare costs nothing: pages are given when they are written to.
                small = min(free, key=len, default=None)
                kept = [b for b in self._blocks if b is not small]
                block = np.empty(room + room // 8, np.uint8)
                self._blocks = [*kept[-self._keep + 1 :], block]
            return block


class Recycled:
    """Memory for tensors."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype, self._blocks = dtype, Blocks()

    def take(self, shape: tuple[int, int, int, int]) -> Tensor:
        """A tensor of shape [N, H, W, 3], seen as [N, 3, H, W]; its contents are arbitrary."""
        count = math.prod(shape) * self._dtype.itemsize
        block = self._blocks.take(count + ALIGNED)
        start = -block.ctypes.data % ALIGNED
        # The tensor's storage holds a reference to the block, whatever views of it are passed around.
        return torch.from_numpy(block)[start : start + count].view(self._dtype).view(shape).permute(0, 3, 1, 2)


class Given:
    """Memory for the views of one batch that lies ready: `tensors`, one a view, [N, 3, H, W] with channels last."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._next = itertools.cycle(tensors)

    def take(self, shape: tuple[int, int, int, int]) -> Tensor:
        """The next view's tensor, the first one's after the last; its shape is `shape`."""
        return next(self._next)


def _references_when_free() -> int:
    """The value of `sys.getrefcount` in the loop of `Blocks.take` for a block that only the list refers to."""
    blocks = [np.empty(1, np.uint8)]
    return next(sys.getrefcount(b) for b in blocks)


_REFERENCES = _references_when_free()
