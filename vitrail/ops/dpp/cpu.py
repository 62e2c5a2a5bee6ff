"""Greedy search on the CPU: one numba pass per image, the images shared out among threads."""

from __future__ import annotations

from math import sqrt
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitrail.ops.compiled import compiled, fast_sums, share_out
from vitrail.ops.dpp.greedy import Greedy


@fast_sums
def add_rows(row: Any, sign: float, rows: Any, count: int, item: int) -> None:
    """Add to `row` the first `count` rows, each times sign and its own value at `item`."""
    for four in range(0, count - 3, 4):  # at a time: `row` is read and written a quarter as often
        one, two, three, last = rows[four], rows[four + 1], rows[four + 2], rows[four + 3]
        a, b, c, d = sign * one[item], sign * two[item], sign * three[item], sign * last[item]
        for each in range(len(row)):
            row[each] += a * one[each] + b * two[each] + c * three[each] + d * last[each]
    for number in range(count - count % 4, count):
        factor = sign * rows[number, item]
        for each in range(len(row)):
            row[each] += factor * rows[number, each]


@fast_sums
def _new_row(kernel: Any, rows: Any, step: int, chosen: int, gain: float, gains: Any) -> None:
    """Row `step` of the Cholesky factor, transposed; takes its squares from the gains."""
    row = rows[step]
    for item in range(len(row)):
        row[item] = kernel[chosen, item]
    add_rows(row, -1.0, rows, step, chosen)
    scale = 1.0 / sqrt(gain)
    for item in range(len(row)):
        row[item] *= scale
        gains[item] -= row[item] * row[item]


@compiled
def _largest(values: Any) -> int:
    """The index of the largest value, of equal ones the first; in four scans that need not wait for each other."""
    a = b = c = d = -np.inf
    for item in range(0, len(values) - 3, 4):
        a, b = max(a, values[item]), max(b, values[item + 1])
        c, d = max(c, values[item + 2]), max(d, values[item + 3])
    for item in range(len(values) - len(values) % 4, len(values)):
        a = max(a, values[item])
    top = max(max(a, b), max(c, d))
    item = 0
    while item < len(values) - 1 and values[item] != top:
        item += 1
    return item


@compiled
def _random(keys: Any, left: Any) -> int:
    """The item with the smallest key among those that are left."""
    best = -1
    for item in range(len(keys)):
        if left[item] and (best < 0 or keys[item] < keys[best]):
            best = item
    return best


@compiled
def _greedy_of_images(
    first: int,
    last: int,
    kernels: Any,
    k: int,
    limit: float,
    eps: float,
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
        least = max(gains[_largest(gains)], 0.0) * count * eps  # as `vitrail.ops.dpp.greedy.zero_gain`
        left[:] = True
        done = k
        used = 0  # rows of the factor; a patch without a gain of its own adds none
        for step in range(k):
            best = -1 if coins[image, step] or done < k else _largest(gains)
            if best >= 0 and gains[best] <= max(limit, least):
                done, best = step, -1
            if best < 0:
                best = _random(keys[image], left)
            gain = gains[best]
            useful = done == k and gain > least
            if useful:
                _new_row(kernels[image], rows, used, best, gain, gains)
                used += 1
            chosen_gains[image, step] = gain if useful else 0.0
            gains[best], left[best] = -np.inf, False
            ids[image, step] = best
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
        torch.finfo(wide.dtype).eps,
        keys.numpy(),
        coins.numpy(),
        ids.numpy(),
        gains.numpy(),
        length.numpy(),
    )
    return Greedy(ids, gains, length)


@compiled
def _extents_of_images(first: int, last: int, kernels: Any, largest: Any, unlike: Any) -> None:
    for image in range(first, last):
        kernel = kernels[image]
        top = worst = kernel[0, 0] - kernel[0, 0]
        for row in range(len(kernel)):
            for column in range(row + 1):
                entry = kernel[row, column]
                difference = abs(entry - kernel[column, row])
                if difference > worst or difference != difference:  # NaN stays
                    worst = difference
                if abs(entry) > top:
                    top = abs(entry)
        largest[image], unlike[image] = top, worst


def extents(kernel: Tensor) -> tuple[float, float]:
    """The largest |entry| on or below the diagonals, and the largest difference between mirrored entries.

    The second is infinite or NaN if an entry is. `[B, N, N]` on the CPU, B and N positive.
    """
    wide = kernel.detach().to(torch.promote_types(kernel.dtype, torch.float32)).contiguous()
    largest, unlike = np.empty(len(wide)), np.empty(len(wide))
    share_out(_extents_of_images, len(wide), wide[0].numel(), wide.numpy(), largest, unlike)
    return float(largest.max()), float(unlike.max())
