"""How batches go from the producing thread to the training loop on CUDA: streams of their own, and no waiting host.

Views are made on a stream of high priority beside the one that trains. In one stream they would queue behind the
training step's kernels, which the host launches far ahead, and the decoder behind them.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor


def put(values: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on `device`, without waiting for what its stream does; on a CPU the tensor itself.

    By way of pinned memory: a copy from pageable memory would wait.
    """
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values


class Handover:
    """The producing side's stream; on a CPU there is none and nothing happens."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream: Any = torch.cuda.Stream(device, priority=-1) if device.type == "cuda" else None

    def producing(self) -> AbstractContextManager:
        """Within it, torch works on the stream that makes views."""
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def put(self, values: Tensor) -> Tensor:
        """`put` on the producing side's device."""
        return put(values, self.device)

    def give(self) -> Any:
        """An event behind all that has been asked of the stream so far; None on a CPU."""
        return None if self._stream is None else self._stream.record_event()

    @staticmethod
    def take(event: Any, tensors: Sequence[Tensor]) -> None:
        """Lets the caller's current stream wait for `event` before it goes on, and the memory of `tensors` wait for it.

        Without `record_stream` the allocator would give their memory to the next batch as soon as the caller drops
        them, while its kernels are still to run.
        """
        if event is None:
            return
        stream = torch.cuda.current_stream(tensors[0].device)
        stream.wait_event(event)
        for tensor in tensors:
            tensor.record_stream(stream)
