"""Batch-norm whose statistics span all workers, on GPUs and on CPUs."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def synchronise_batch_norm(model: nn.Module, device: torch.device) -> nn.Module:
    """The model with every BatchNorm2d inside it replaced by one that normalises over all workers.

    Parameters, statistics and names stay; wrap in DistributedDataParallel afterwards. On a GPU it is PyTorch's own,
    which knows no CPU; there it is SynchronisedBatchNorm2d, and the model is changed in place.
    """
    if device.type == "cuda":
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        return converted
    for name, child in model.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(model, name, SynchronisedBatchNorm2d.like(child))
        else:
            synchronise_batch_norm(child, device)
    return model


class SynchronisedBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d over the batches of all workers together, for any backend with all_reduce (gloo has it).

    In training every worker must call it equally often, forward and backward. Elsewhere it is BatchNorm2d.
    """

    @classmethod
    def like(cls, norm: nn.BatchNorm2d) -> "SynchronisedBatchNorm2d":
        """With the parameters and buffers of norm themselves, not copies."""
        new = cls(norm.num_features, norm.eps, norm.momentum)
        new.weight, new.bias = norm.weight, norm.bias
        new.running_mean, new.running_var = norm.running_mean, norm.running_var
        new.num_batches_tracked = norm.num_batches_tracked
        return new.train(norm.training)

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and dist.is_initialized() and dist.get_world_size() > 1):
            return super().forward(x)
        mean, variance, count = _moments_over_workers(x)
        self._move_running_statistics(mean.detach(), variance.detach() * count / (count - 1))
        scale = self.weight * (variance + self.eps).rsqrt()  # (C,)
        shift = self.bias - mean * scale
        return torch.addcmul(shift[:, None, None], x, scale[:, None, None]).to(x.dtype)

    def _move_running_statistics(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None and self.momentum is not None
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        self.running_var.lerp_(variance.to(self.running_var.dtype), self.momentum)
        self.num_batches_tracked += 1


def _moments_over_workers(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and biased variance per channel over all workers' x (N, C, H, W), each (C,), and the number of values."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    variance, mean = torch.var_mean(x, (0, 2, 3), correction=0)
    own = torch.cat([mean.new_tensor([x.numel() / x.shape[1]]), mean, variance])
    # Every worker's row in one table, by summing tables that hold one row each: the sum is differentiable, and from the
    # rows the variance follows without the cancellation of E[x^2] - mean^2.
    place = torch.arange(dist.get_world_size(), device=x.device) == dist.get_rank()
    table: Tensor = _SumOverWorkers.apply(torch.outer(place.to(own.dtype), own))
    counts, means, variances = table.split_with_sizes([1, x.shape[1], x.shape[1]], 1)
    weights = counts / counts.sum()
    mean = (weights * means).sum(0)
    variance = (weights * (variances + (means - mean) ** 2)).sum(0)
    return mean, variance, counts.sum().detach()


class _SumOverWorkers(torch.autograd.Function):
    """The sum of a tensor over all workers; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total
