"""Batch norm over the rows of all processes, as if one process had the whole batch.

    y = (x - mean) / sqrt(variance + epsilon) * weight + bias,   mean and variance over all rows of all processes

Two small messages a call, `[features]` each: the processes' means, then their mean squares about the mean of all, which
loses no digits where a mean is large. Torch's `SyncBatchNorm` is the same for GPUs alone.

Source: Ioffe and Szegedy, "Batch Normalization", 2015 (arXiv 1502.03167).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from vitrail.nn.across import joined, world_size


class WholeBatchNorm(nn.Module):
    """`torch.nn.BatchNorm1d` on rows `[B, features]`, with its names; in a single process it is that, bit for bit.

    Every process gives as many rows, and all of them call it in the same order.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, features: int, *, affine: bool = True, epsilon: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.epsilon, self.momentum = epsilon, momentum
        self.weight = nn.Parameter(torch.ones(features)) if affine else None
        self.bias = nn.Parameter(torch.zeros(features)) if affine else None
        self.register_buffer("running_mean", torch.zeros(features))
        self.register_buffer("running_var", torch.ones(features))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, rows: Tensor) -> Tensor:
        """Normalized rows. Raises `ValueError` in training for a batch of a single row, which has no variance."""
        if self.training:
            self.num_batches_tracked.add_(1)
        if not self.training or world_size() == 1:
            running = (self.running_mean, self.running_var)
            return functional.batch_norm(
                rows, *running, self.weight, self.bias, self.training, self.momentum, self.epsilon
            )
        with torch.autocast(rows.device.type, enabled=False):
            return self._across(rows.to(torch.promote_types(rows.dtype, torch.float32))).to(rows.dtype)

    def _across(self, rows: Tensor) -> Tensor:
        mean = _mean_of_all(rows)
        centered = rows - mean
        variance = _mean_of_all(centered.square())
        count = len(rows) * world_size()
        with torch.no_grad():  # the variance that is kept is the unbiased one, as torch keeps it
            self.running_mean.lerp_(mean.to(self.running_mean), self.momentum)
            self.running_var.lerp_((variance * count / (count - 1)).to(self.running_var), self.momentum)
        normalized = centered * (variance + self.epsilon).rsqrt()
        return normalized if self.weight is None or self.bias is None else normalized * self.weight + self.bias


def _mean_of_all(rows: Tensor) -> Tensor:
    """`[features]`, over the rows of all processes, with gradient."""
    means, _ = joined(rows.mean(0, keepdim=True))
    return means.mean(0)
