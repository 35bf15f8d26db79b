"""Training in several processes under torchrun: the process group, DDP, and what travels between the ranks.

Every rank holds an equal run of rows of the global batch, in the order of the ranks.
"""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from precompute.base.program import command
from precompute.base.ranks import Process, join, this_process


def start(device: str) -> Process:
    """Joins the group that torchrun announced (NCCL on CUDA, gloo on CPU); a single process otherwise."""
    process = this_process()
    if process.world > 1:
        if device.startswith("cuda"):
            torch.cuda.set_device(device)
        join("nccl" if device.startswith("cuda") else "gloo")
    return process


def stop() -> None:
    """Leaves the group, if there is one."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def world() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The number of this process among them."""
    return dist.get_rank() if world() > 1 else 0


def parallel(online: nn.Module, device: str) -> nn.Module:
    """DDP around the online network alone: the target needs no gradients, and BN statistics are synchronised anyway."""
    wrapper = nn.parallel.DistributedDataParallel
    ids = [int(device.split(":")[1])] if device.startswith("cuda") else None
    known = inspect.signature(wrapper).parameters
    alone = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # its older name
    return wrapper(online, device_ids=ids, **{alone: False})  # type: ignore[arg-type]


# torch's own differentiable collectives change from version to version; these two are all that is needed.
class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _summed(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return _summed(grads[0])


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _gathered(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return own_rows(_summed(grads[0]))


def _summed(x: Tensor) -> Tensor:
    total = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total


def _gathered(x: Tensor) -> Tensor:
    parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, x.contiguous())
    return torch.cat(parts)


def summed(x: Tensor) -> Tensor:
    """The sum of `x` over the ranks, differentiable: its gradient is summed too, as every rank's loss depends on it."""
    return _Sum.apply(x)  # type: ignore[return-value]


def gather(x: Tensor, differentiable: bool = False) -> Tensor:
    """The rows [n, ...] of every rank as [world · n, ...]; x itself in a single process."""
    if world() == 1:
        return x
    if differentiable:
        return _Gather.apply(x)  # type: ignore[return-value]
    return _gathered(x)


def rolled(x: Tensor) -> Tensor:
    """The global batch rolled by one: sample i of [n, ...] receives sample i-1's value, across ranks, detached."""
    last = gather(x[-1:].detach())
    first = last.roll(1, 0)[rank(), None]
    return torch.cat([first, x[:-1].detach()])


def own_rows(whole: Tensor) -> Tensor:
    """This rank's rows [n, ...] of a tensor [world · n, ...] that all ranks have alike."""
    return whole.chunk(world())[rank()]


@contextmanager
def first_alone(process: Process) -> Iterator[None]:
    """Rank 0 runs the block alone, the other ranks after it: for making files."""
    if not process.first:
        process.wait()
    yield
    if process.first:
        process.wait()


def average(values: dict[str, float], device: str, known: bool = False) -> dict[str, float]:
    """The mean of every value over the ranks; all ranks must call it at the same step, with the same names.

    A NaN on one rank makes the mean NaN; with `known`, the mean is over the ranks whose value is not NaN.
    """
    if world() == 1:
        return values
    shared = torch.tensor(list(values.values()), dtype=torch.float32, device=device)
    counts = 1 - shared.isnan().float() if known else torch.ones_like(shared)
    both = torch.stack([shared.where(counts > 0, 0.0), counts])
    dist.all_reduce(both)
    return dict(zip(values, (both[0] / both[1]).tolist(), strict=True))


def resuming(out: Path, *flags: str) -> str:
    """The command that continues the run in `out` with as many processes as now, for a message."""
    return command("trainer.run", "--resume", out, *flags, processes=world())
