"""Several processes under torchrun: who am I, and batch normalisation over all of them, on any device."""

import inspect
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from precompute.base.program import command

MOMENTUM = 0.1  # of running statistics: torch's default, which every ResNet here has


@dataclass(frozen=True)
class Process:
    """This process among `world`; rank 0 talks and writes."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that talks and writes."""
        return self.rank == 0


def start(device: str) -> Process:
    """Joins the group that torchrun announced (NCCL on CUDA, gloo on CPU); a single process otherwise."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return Process()
    if device.startswith("cuda"):
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    return Process(dist.get_rank(), dist.get_world_size())


def stop() -> None:
    """Leaves the group, if there is one."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


# torch's own differentiable collectives are other ones from version to version; these two are all that is needed.
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
        return mine(_summed(grads[0]))


def _summed(x: Tensor) -> Tensor:
    total = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total


def over_all(x: Tensor) -> Tensor:
    """The sum of `x` over the processes; so is its gradient, as every process's loss depends on it."""
    return _Sum.apply(x)  # type: ignore[return-value]


class AllReduceBatchNorm(nn.modules.batchnorm._BatchNorm):
    """BatchNorm over the batches of all processes, of equal size each; for CPU, which torch's SyncBatchNorm refuses.

    Statistics of [N, C, ...] are averaged over the processes by differentiable all-reduces, the variance about the
    common mean; two processes equal one process with the whole batch to float error. Statistics of half-precision
    input are float32, as F.batch_norm's.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected at least 2 dimensions, got {input.dim()}")

    def forward(self, input: Tensor) -> Tensor:
        """Normalises by the statistics of all processes in training, by the running ones otherwise."""
        if not self.training:
            return super().forward(input)
        processes = world()
        dims = [0, *range(2, input.dim())]
        shape = [1, -1] + [1] * (input.dim() - 2)
        x = input.float() if input.dtype in (torch.bfloat16, torch.float16) else input
        mean = over_all(x.mean(dims)) / processes
        centred = x - mean.view(shape)
        variance = over_all(centred.square().mean(dims)) / processes
        if self.track_running_stats and self.running_mean is not None and self.running_var is not None:
            with torch.no_grad():
                count = processes * input.numel() / input.shape[1]
                self.running_mean.lerp_(mean, MOMENTUM)
                self.running_var.lerp_(variance * count / (count - 1), MOMENTUM)
                if self.num_batches_tracked is not None:
                    self.num_batches_tracked += 1
        out = centred * (variance + self.eps).rsqrt().view(shape)
        return (out * self.weight.view(shape) + self.bias.view(shape)).to(input.dtype)


def synchronise_batch_norm(module: nn.Module, device: str) -> nn.Module:
    """Every BatchNorm of `module` over all processes: torch's own on CUDA, `AllReduceBatchNorm` on CPU."""
    if device.startswith("cuda"):
        return nn.SyncBatchNorm.convert_sync_batchnorm(module)
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
            synced = AllReduceBatchNorm(child.num_features, child.eps, MOMENTUM)
            synced = synced.to(child.weight)
            synced.load_state_dict(child.state_dict())
            synced.weight, synced.bias = child.weight, child.bias  # themselves: frozen ones stay frozen
            setattr(module, name, synced.train(child.training))
        else:
            synchronise_batch_norm(child, device)
    return module


def parallel(online: nn.Module, device: str) -> nn.Module:
    """DDP around the online network alone: the target needs no gradients, and BN statistics are synchronised anyway."""
    wrapper = nn.parallel.DistributedDataParallel
    ids = [int(device.split(":")[1])] if device.startswith("cuda") else None
    known = inspect.signature(wrapper).parameters
    alone = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # its older name
    return wrapper(online, device_ids=ids, **{alone: False})  # type: ignore[arg-type]


def world() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is."""
    return dist.get_rank() if world() > 1 else 0


def gather(x: Tensor, differentiable: bool = False) -> Tensor:
    """[n, ...] of every process, of equal size each, as [world · n, ...]; x itself in a single process."""
    if world() == 1:
        return x
    if differentiable:
        return _Gather.apply(x)  # type: ignore[return-value]
    return _gathered(x)


def _gathered(x: Tensor) -> Tensor:
    parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, x.contiguous())
    return torch.cat(parts)


def of_others(x: Tensor) -> Tensor:
    """For every sample of [n, ...] what the sample before it has, in the batch of all processes as a ring; no gradient.

    A process holds a run of the batch, so only its first sample's is another process's.
    """
    last = gather(x[-1:].detach())
    first = last.roll(1, 0)[rank(), None]
    return torch.cat([first, x[:-1].detach()])


def mine(common: Tensor) -> Tensor:
    """This process's run [n, ...] of what every process drew alike for the whole batch [world · n, ...]."""
    return common.chunk(world())[rank()]


@contextmanager
def first_alone(process: Process) -> Iterator[None]:
    """The first process goes through the block alone, the others after it: for making files."""
    if not process.first:
        dist.barrier()
    yield
    if process.first and process.world > 1:
        dist.barrier()


def average(values: dict[str, float], device: str, known: bool = False) -> dict[str, float]:
    """The mean of every value over the processes; all must call it at the same step, with the same names.

    A NaN of one process makes it NaN, unless the mean is over those that know the value.
    """
    if world() == 1:
        return values
    shared = torch.tensor(list(values.values()), dtype=torch.float32, device=device)
    counts = 1 - shared.isnan().float() if known else torch.ones_like(shared)
    both = torch.stack([shared.where(counts > 0, 0.0), counts])
    dist.all_reduce(both)
    return dict(zip(values, (both[0] / both[1]).tolist(), strict=True))


class StopVote:
    """Lets all processes stop at the same step, soon after any of them was asked to, without a sync with the device.

    Every few steps each hands in its flags, to an all-reduce on the CPU that runs beside the steps; the result is read
    when the next is handed in. A request is thus heard after at most 2 · EVERY steps. So is that a checkpoint is late,
    which each tells by its own clock.
    """

    EVERY = 4

    def __init__(self, process: Process) -> None:
        self.group: Any = dist.new_group(backend="gloo") if process.world > 1 else None
        self.pending: tuple[dist.Work, Tensor] | None = None

    def __call__(self, step: int, stop: bool, late: bool = False) -> tuple[bool, bool]:
        """Whether to stop after `step`, and whether to save; every process must ask at every step.

        In a single process: the flags themselves.
        """
        if self.group is None:
            return stop, late
        if step % self.EVERY:
            return False, False
        agreed = self._outcome()
        votes = torch.tensor([int(stop), int(late and not agreed[1])])  # where it is agreed on, it will be saved now
        work = dist.all_reduce(votes, dist.ReduceOp.MAX, group=self.group, async_op=True)
        assert work is not None
        self.pending = work, votes
        return agreed

    def last(self, stop: bool) -> bool:
        """The outcome of a last vote, for which all processes wait: they end in the same way. Alone: `stop`."""
        if self.group is None:
            return stop
        votes = torch.tensor([int(self._outcome()[0] or stop)])
        dist.all_reduce(votes, dist.ReduceOp.MAX, group=self.group)
        return bool(votes.item())

    def _outcome(self) -> tuple[bool, bool]:
        """That of the vote that is under way (False for none)."""
        if self.pending is None:
            return False, False
        work, votes = self.pending
        work.wait()
        self.pending = None
        stop, late = votes.tolist()
        return bool(stop), bool(late)


def resuming(out: Path, *flags: str) -> str:
    """The command that goes on with the run in `out`, as it was started, for a message."""
    started = command("trainer.run", "--resume", out, *flags)
    here = world()
    return started if here == 1 else started.replace("python", f"torchrun --standalone --nproc-per-node {here}", 1)
