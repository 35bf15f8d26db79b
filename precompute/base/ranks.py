"""The processes that torchrun started for one task; with one process nothing here costs anything."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TypeVar

from precompute.base.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process' rank among the processes of the run. Rank 0 prints, decides and writes the final file.

    A context: entering joins the processes (by gloo: messages are tiny, pictures never travel), leaving parts them.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1

    @staticmethod
    def from_torchrun() -> "Ranks":
        """The ranks in torchrun's environment variables; a single process without them."""
        names = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1}
        return Ranks(*(int(os.environ.get(name, default)) for name, default in names.items()))

    def __enter__(self) -> "Ranks":
        if self.world_size > 1:
            import torch.distributed as dist

            dist.init_process_group("gloo")
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.world_size > 1:
            import torch.distributed as dist

            dist.destroy_process_group()
            if self.rank and isinstance(error, UserError):  # rank 0 prints it
                raise SystemExit(1) from None

    def decide(self, decision: Callable[[], T]) -> T:
        """Runs `decision` on rank 0 and returns its result on every rank; a UserError or OSError there ends all."""
        if self.world_size == 1:
            return decision()
        import torch.distributed as dist

        result: list = [None, None]
        if self.rank == 0:
            try:
                result[0] = decision()
            except UserError as error:
                result[1] = str(error)
            except OSError as error:
                result[1] = f"{error.strerror or error}: {error.filename}"
        dist.broadcast_object_list(result, src=0)
        if result[1] is not None:
            raise UserError(result[1])
        return result[0]

    def wait(self) -> None:
        """Returns when every rank has called it."""
        if self.world_size > 1:
            import torch.distributed as dist

            dist.barrier()
