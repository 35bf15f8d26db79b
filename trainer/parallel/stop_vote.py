"""How all ranks come to stop, and to save, at the same step."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from precompute.base.ranks import Process


class StopVote:
    """Lets all ranks stop at the same step, soon after any of them was asked to, without a sync with the device.

    Every few steps each rank hands its flags to an all-reduce on the CPU that runs beside the steps; the result is read
    when the next is handed in. A stop request takes effect within 2 · EVERY steps. The decision that a checkpoint is
    due, which ranks time separately, is agreed on in the same vote.
    """

    EVERY = 4

    def __init__(self, process: Process) -> None:
        self.group: Any = dist.new_group(backend="gloo") if process.world > 1 else None
        self.pending: tuple[dist.Work, Tensor] | None = None

    def __call__(self, step: int, stop: bool, late: bool = False) -> tuple[bool, bool]:
        """Whether to stop after `step`, and whether to save; every rank must ask at every step.

        In a single process: the flags themselves.
        """
        if self.group is None:
            return stop, late
        if step % self.EVERY:
            return False, False
        agreed = self._outcome()
        votes = torch.tensor([int(stop), int(late and not agreed[1])])  # what was agreed on is saved now
        work = dist.all_reduce(votes, dist.ReduceOp.MAX, group=self.group, async_op=True)
        assert work is not None
        self.pending = work, votes
        return agreed

    def last(self, stop: bool) -> bool:
        """Whether any rank was asked to stop, by a last vote that all ranks wait for: they end in the same way."""
        if self.group is None:
            return stop
        votes = torch.tensor([int(self._outcome()[0] or stop)])
        dist.all_reduce(votes, dist.ReduceOp.MAX, group=self.group)
        return bool(votes.item())

    def _outcome(self) -> tuple[bool, bool]:
        """The result of the vote that is under way (False, False if none is)."""
        if self.pending is None:
            return False, False
        work, votes = self.pending
        work.wait()
        self.pending = None
        stop, late = votes.tolist()
        return bool(stop), bool(late)
