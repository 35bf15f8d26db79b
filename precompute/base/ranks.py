"""Several processes at one task, started by torchrun (torch.distributed connects them). A single one needs no torch."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from precompute.base.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True)
class Process:
    """This process among the `world` that torchrun started, `local_world` of them on this machine."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which talks, decides and writes."""
        return self.rank == 0


def this_process() -> Process:
    """Which process this is, by the environment that torchrun sets."""
    names = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1}
    return Process(*(int(os.environ.get(name, alone)) for name, alone in names.items()))


class Team:
    """The processes of a run, joined by gloo: messages are tiny, and pictures never travel."""

    def __init__(self) -> None:
        process = this_process()
        self.rank, self.size = process.rank, process.world
        self.local_rank, self.local_size = process.local_rank, process.local_world
        if self.size > 1:
            import torch.distributed as dist

            dist.init_process_group("gloo")

    def decide(self, decision: Callable[[], T]) -> T:
        """Runs `decision` on rank 0 and returns its result on all ranks; a UserError or OSError ends all of them."""
        if self.size == 1:
            return decision()
        import torch.distributed as dist

        box: list = [None, None]
        if self.rank == 0:
            try:
                box[0] = decision()
            except UserError as error:
                box[1] = str(error)
            except OSError as error:
                box[1] = f"{error.strerror or error}: {error.filename}"
        dist.broadcast_object_list(box, src=0)
        if box[1] is not None:
            raise UserError(box[1]) if self.rank == 0 else SystemExit(1)  # only rank 0 prints it
        return box[0]

    def wait(self) -> None:
        """Returns when every rank has called it."""
        if self.size > 1:
            import torch.distributed as dist

            dist.barrier()

    def leave(self) -> None:
        """Ends the group."""
        if self.size > 1:
            import torch.distributed as dist

            dist.destroy_process_group()
