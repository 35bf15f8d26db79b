"""The handover of batches from the producing thread to the training loop on CUDA; the host never waits.

Views are made on a CUDA stream of their own, with high priority. In the training loop's stream they, and the decoder
after them, would queue behind the training step's kernels, which the host launches far ahead.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor


def put(values: Tensor, device: torch.device) -> Tensor:
    """Copies a tensor of the host to `device` without waiting for its stream; on a CPU returns the tensor itself.

    The copy goes through pinned memory: one from pageable memory would wait.
    """
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values


class Handover:
    """The stream of the producing side. On a CPU there is no stream, and nothing happens."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream: Any = torch.cuda.Stream(device, priority=-1) if device.type == "cuda" else None

    def producing(self) -> AbstractContextManager:
        """A context in which torch works on the stream that makes views."""
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def give(self) -> Any:
        """An event behind all work that the stream has been given so far; None on a CPU."""
        return None if self._stream is None else self._stream.record_event()

    @staticmethod
    def take(event: Any, tensors: Sequence[Tensor]) -> None:
        """Makes the caller's current stream wait for `event`, and ties the memory of `tensors` to that stream.

        Without `record_stream` the allocator would give their memory to the next batch as soon as the caller drops
        them, though the caller's kernels have yet to run.
        """
        if event is None:
            return
        stream = torch.cuda.current_stream(tensors[0].device)
        stream.wait_event(event)
        for tensor in tensors:
            tensor.record_stream(stream)
