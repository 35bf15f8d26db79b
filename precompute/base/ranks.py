"""Several processes at one task, started by torchrun (torch.distributed is the engine); alone it costs nothing."""

import os
from collections.abc import Callable
from typing import TypeVar

from precompute.base.errors import UserError

T = TypeVar("T")


class Team:
    """The processes of this run: `rank` of `size`. Only rank 0 talks, decides and writes the final file."""

    def __init__(self) -> None:
        self.rank = int(os.environ.get("RANK", "0"))
        self.size = int(os.environ.get("WORLD_SIZE", "1"))
        self.local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        self.local_size = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        if self.size > 1:
            import torch.distributed as dist

            dist.init_process_group("gloo")  # messages are tiny; the pictures never travel

    def decide(self, decision: Callable[[], T]) -> T:
        """Runs `decision` on rank 0 and hands its result to all; a UserError there ends all of them."""
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
            raise UserError(box[1]) if self.rank == 0 else SystemExit(1)  # one of them says it
        return box[0]

    def wait(self) -> None:
        """Until all are here."""
        if self.size > 1:
            import torch.distributed as dist

            dist.barrier()

    def leave(self) -> None:
        if self.size > 1:
            import torch.distributed as dist

            dist.destroy_process_group()
