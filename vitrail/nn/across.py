"""What processes that train together tell each other. Methods use these where a batch is meant to be the whole one.

All processes must call them, in the same order. In a single process they return their argument.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def summed(values: Tensor) -> Tensor:
    """The sum over processes, without a gradient."""
    if world_size() == 1:
        return values.detach()
    total = values.detach().clone()
    dist.all_reduce(total)
    return total


def largest(values: Tensor) -> Tensor:
    """The largest over processes, without a gradient."""
    if world_size() == 1:
        return values.detach()
    most = values.detach().clone()
    dist.all_reduce(most, dist.ReduceOp.MAX)
    return most


def joined(rows: Tensor) -> tuple[Tensor, int]:
    """Rows of all processes `[W * B, ...]`, in the order of ranks, and the place of this one's first row.

    Every process gives as many rows `[B, ...]`. With gradient: a row's is the sum of what all processes make of it, so
    that the mean over processes of their losses has, after gradients are averaged, the gradient of one process.
    """
    if world_size() == 1:
        return rows, 0
    return _Joined.apply(rows), dist.get_rank() * len(rows)


def gathered(values: Tensor) -> Tensor:
    """The rows of all processes, in their order, without a gradient; each has as many."""
    if world_size() == 1:
        return values.detach()
    parts = [torch.empty_like(values) for _ in range(world_size())]
    dist.all_gather(parts, values.detach().contiguous())
    return torch.cat(parts)


def rank() -> int:
    """Which of the processes this is, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


class _Joined(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.count = len(rows)
        boxes = [torch.empty_like(rows) for _ in range(world_size())]
        dist.all_gather(boxes, rows.contiguous())
        return torch.cat(boxes)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        start = dist.get_rank() * ctx.count
        return total[start : start + ctx.count]
