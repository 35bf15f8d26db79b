"""Several processes at one task, started by torchrun (torch.distributed connects them). A single one needs no torch."""

import os
import signal
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

from precompute.base.errors import UserError
from precompute.base.parent import ASKED, end_with_parent

T = TypeVar("T")
GRACE = 30.0  # seconds to save and end in, as torchrun gives them
JOIN_WITHIN = 120.0  # seconds to reach the launcher's store; the other ranks may then take longer


@dataclass(frozen=True)
class Process:
    """This process among the `world` that torchrun started, `local_world` of them on this machine.

    A context: entering joins the processes (by gloo: messages are tiny, pictures never travel), leaving parts them.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which talks, decides and writes."""
        return self.rank == 0

    def __enter__(self) -> "Process":
        if self.world > 1:
            join("gloo")
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.world > 1:
            import torch.distributed as dist

            dist.destroy_process_group()
            if self.rank and isinstance(error, UserError):  # rank 0 prints it
                raise SystemExit(1) from None

    def decide(self, decision: Callable[[], T]) -> T:
        """Runs `decision` on rank 0 and returns its result on every rank; a UserError or OSError there ends all."""
        if self.world == 1:
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
        if self.world > 1:
            import torch.distributed as dist

            dist.barrier()


def launched() -> bool:
    """Whether torchrun started this process, or something that sets the same names."""
    return "TORCHELASTIC_RUN_ID" in os.environ or this_process().world > 1


def restarts() -> int:
    """How often torchrun has started this process again after a failure of any rank."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))


def join(backend: str) -> None:
    """Joins the process group that the environment announces. UserError where nobody answers there."""
    from datetime import timedelta

    import torch.distributed as dist

    try:
        store, rank, world = next(iter(dist.rendezvous("env://", timeout=timedelta(seconds=JOIN_WITHIN))))
    except dist.DistError as error:
        place = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise UserError(
            f"no launcher answers at {place} ({str(error).splitlines()[0]}): start all ranks anew"
        ) from error
    store.set_timeout(timedelta(minutes=30))  # torch's own: rank 0 may make boxes meanwhile
    try:
        store = _of_this_start(store, rank, world)
        dist.init_process_group(backend, store=store, rank=rank, world_size=world)
    except dist.DistStoreError as error:
        raise UserError(f"not all of the {world} ranks came within half an hour: start all of them anew") from error


def _of_this_start(store: Any, rank: int, world: int) -> Any:
    """A part of torch's store that these ranks alone use. Raises DistStoreError where they do not all come.

    torchrun keeps its store through a restart, and torch 2.15 no longer sets the starts apart in it: without this the
    new ranks would call the old ones. Rank 0 says which ranks it sees, until each has found itself among them.
    """
    import torch.distributed as dist

    own, until = uuid.uuid4().hex, time.monotonic() + store.timeout.total_seconds()
    store.set(f"here/{rank}", own)
    while True:
        if rank == 0:
            here = [own, *(store.get(f"here/{other}").decode() for other in range(1, world))]
            store.set("here", " ".join(here))
            met = all(store.check([f"met/{own}/{other}"]) for other in range(1, world))
        else:
            here = store.get("here").decode().split()
            if met := own in here:
                store.set(f"met/{here[0]}/{rank}", "")
        if met:
            return dist.PrefixStore(here[0], store)
        if time.monotonic() > until:
            raise dist.DistStoreError("time is over")
        time.sleep(0.05)


def end_with_launcher() -> None:
    """Lets this process end soon after torchrun has: one that waits for a dead launcher would sleep for hours.

    SIGHUP asks the training loop to save; whatever is left after `GRACE` seconds is killed. A process that a benchmark
    began ends with that one: what it measures nobody would read, and it would disturb what is measured next.
    """
    if launched():
        end_with_parent(signal.SIGHUP, GRACE)
    elif os.environ.get(ASKED):
        end_with_parent()


def this_process() -> Process:
    """Which process this is, by the environment that torchrun sets."""
    names = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1}
    return Process(*(int(os.environ.get(name, alone)) for name, alone in names.items()))
