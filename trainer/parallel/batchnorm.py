"""Batch normalisation over the batches of all ranks, on any device."""

import torch
from torch import Tensor, nn

from trainer.parallel.collectives import summed, world

MOMENTUM = 0.1  # of running statistics: torch's default, which every ResNet here has


class AllReduceBatchNorm(nn.modules.batchnorm._BatchNorm):
    """BatchNorm over the batches of all ranks, of equal size each; for CPU, which torch's SyncBatchNorm refuses.

    Statistics of [N, C, ...] are averaged over the ranks by differentiable all-reduces, the variance about the common
    mean. Two processes equal one process with the whole batch to float error. Statistics of half-precision input are
    float32, as F.batch_norm's.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of dimensions."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalises by the statistics of all ranks in training, by the running ones otherwise."""
        if not self.training:
            return super().forward(input)
        ranks = world()
        dims = [0, *range(2, input.dim())]
        shape = [1, -1] + [1] * (input.dim() - 2)
        x = input.float() if input.dtype in (torch.bfloat16, torch.float16) else input
        mean = summed(x.mean(dims)) / ranks
        centred = x - mean.view(shape)
        variance = summed(centred.square().mean(dims)) / ranks
        with torch.no_grad():
            count = ranks * input.numel() / input.shape[1]
            self.running_mean.lerp_(mean, MOMENTUM)  # type: ignore[union-attr] - as in every ResNet here
            self.running_var.lerp_(variance * count / (count - 1), MOMENTUM)  # type: ignore[union-attr]
            self.num_batches_tracked += 1  # type: ignore[operator]
        out = centred * (variance + self.eps).rsqrt().view(shape)
        return (out * self.weight.view(shape) + self.bias.view(shape)).to(input.dtype)


def count_on_the_host(module: nn.Module) -> None:
    """Moves the counters of BatchNorm's batches, which nothing reads here, to the host.

    On the device each `num_batches_tracked += 1` is a launch of its own: 224 in a step of CVSA on a ResNet-50. State
    dicts stay what they were. Not for compiled networks, whose counters are no launches of their own.
    """
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.num_batches_tracked is not None:
            part.num_batches_tracked = part.num_batches_tracked.cpu()


def synchronise_batch_norm(module: nn.Module, device: str) -> nn.Module:
    """Replaces every BatchNorm of `module` by one over all ranks: torch's own on CUDA, `AllReduceBatchNorm` on CPU."""
    if device.startswith("cuda"):
        return nn.SyncBatchNorm.convert_sync_batchnorm(module)
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
            synced = AllReduceBatchNorm(child.num_features, child.eps, MOMENTUM).to(child.weight)
            synced.load_state_dict(child.state_dict())
            synced.weight, synced.bias = child.weight, child.bias  # the same objects: frozen ones stay frozen
            setattr(module, name, synced.train(child.training))
        else:
            synchronise_batch_norm(child, device)
    return module
