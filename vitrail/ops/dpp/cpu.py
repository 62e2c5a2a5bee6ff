"""Greedy search on the CPU: one numba pass per image, the images shared out among threads."""

from __future__ import annotations

from math import sqrt
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitrail.ops.compiled import compiled, fast_sums, share_out
from vitrail.ops.dpp.greedy import Greedy, zero_gain


@fast_sums
def _new_row(kernel: Any, rows: Any, step: int, chosen: int, gain: float, gains: Any) -> None:
    """Row `step` of the Cholesky factor, transposed; takes its squares from the gains."""
    row = rows[step]
    for item in range(len(row)):
        row[item] = kernel[chosen, item]
    for before in range(step):
        factor = rows[before, chosen]
        for item in range(len(row)):
            row[item] -= factor * rows[before, item]
    scale = 1.0 / sqrt(gain)
    for item in range(len(row)):
        row[item] *= scale
        gains[item] -= row[item] * row[item]


@compiled
def _greedy_of_images(
    first: int,
    last: int,
    kernels: Any,
    k: int,
    limit: float,
    least: Any,
    keys: Any,
    coins: Any,
    ids: Any,
    chosen_gains: Any,
    length: Any,
) -> None:
    count = kernels.shape[1]
    rows, gains, left = np.empty((k, count)), np.empty(count), np.empty(count, np.bool_)
    for image in range(first, last):
        for item in range(count):
            gains[item] = kernels[image, item, item]
        left[:] = True
        done = k
        used = 0  # rows of the factor; a patch without a gain of its own adds none
        for step in range(k):
            best = -1
            for item in range(count):
                if left[item] and (best < 0 or gains[item] > gains[best]):
                    best = item
            draw = coins[image, step]
            if not draw and done == k and gains[best] <= max(limit, least[image]):
                done = step
            if draw or done < k:
                best = -1
                for item in range(count):
                    if left[item] and (best < 0 or keys[image, item] < keys[image, best]):
                        best = item
            ids[image, step] = best
            left[best] = False
            gain = gains[best]
            if done == k and gain > least[image]:
                chosen_gains[image, step] = gain
                _new_row(kernels[image], rows, used, best, gain, gains)
                used += 1
            else:
                chosen_gains[image, step] = 0.0
        length[image] = done


def greedy(kernel: Tensor, k: int, limit: float, keys: Tensor, coins: Tensor) -> Greedy:
    """As `vitrail.ops.dpp.greedy.batched`, on the CPU."""
    wide = kernel.detach().to(torch.promote_types(kernel.dtype, torch.float32)).contiguous()
    batch, count, _ = wide.shape
    ids, length = torch.empty(batch, k, dtype=torch.int64), torch.empty(batch, dtype=torch.int64)
    gains = torch.empty(batch, k, dtype=wide.dtype)
    share_out(
        _greedy_of_images,
        batch,
        count * k * k // 8,  # of work, in cells of a map
        wide.numpy(),
        k,
        float(limit),
        zero_gain(wide).double().numpy(),
        keys.numpy(),
        coins.numpy(),
        ids.numpy(),
        gains.numpy(),
        length.numpy(),
    )
    return Greedy(ids, gains, length)
