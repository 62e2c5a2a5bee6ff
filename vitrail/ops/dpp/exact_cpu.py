"""Exact draws on the CPU: one numba pass per image, the images shared out among threads."""

from __future__ import annotations

from math import exp, log1p, sqrt
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitrail.ops.compiled import compiled, fast_sums, share_out
from vitrail.ops.dpp.cpu import add_rows


@compiled
def _polynomials(log_values: Any, table: Any) -> None:
    """As `vitrail.ops.dpp.exact.log_polynomials`, of one image: `[N] -> [N + 1, k + 1]`."""
    table[0] = -1e300
    table[:, 0] = 0
    for number in range(len(log_values)):
        for degree in range(1, table.shape[1]):
            one, other = table[number, degree], table[number, degree - 1] + log_values[number]
            high, low = max(one, other), min(one, other)
            table[number + 1, degree] = high + log1p(exp(low - high))


@compiled
def _choose_of_images(first: int, last: int, log_values: Any, k: int, coins: Any, chosen: Any) -> None:
    count = log_values.shape[1]
    table = np.empty((count + 1, k + 1))
    for image in range(first, last):
        _polynomials(log_values[image], table)
        wanted = k
        for number in range(count - 1, -1, -1):
            if not wanted:
                break
            chance = exp(table[number, wanted - 1] + log_values[image, number] - table[number + 1, wanted])
            # With as many values left as are wanted, the chance is 1 but for rounding.
            if coins[image, number] < chance or wanted > number:
                wanted -= 1
                chosen[image, wanted] = number


@fast_sums
def _take_away(row: Any, scale: float, left: Any) -> None:
    for item in range(len(row)):
        row[item] *= scale
        left[item] = max(left[item] - row[item] * row[item], 0.0)


@compiled
def _draw(left: Any, draw: float) -> int:
    """An item with probability left / sum; never one of 0, not by rounding either, unless all are."""
    target = left.sum() * draw
    total, item = 0.0, 0
    for number in range(len(left)):
        if left[number] > 0 and total <= target:
            item = number
        total += left[number]
    return item


@compiled
def _project_of_images(first: int, last: int, vectors: Any, chosen: Any, draws: Any, ids: Any) -> None:
    k, count = chosen.shape[1], vectors.shape[1]
    basis, rows, left = np.empty((k, count)), np.empty((k, count)), np.empty(count)
    for image in range(first, last):
        left[:] = 0
        for number in range(k):
            for item in range(count):
                basis[number, item] = vectors[image, item, chosen[image, number]]
                left[item] += basis[number, item] * basis[number, item]
        for step in range(k):
            item = _draw(left, draws[image, step])
            rows[step] = 0
            add_rows(rows[step], 1.0, basis, k, item)
            add_rows(rows[step], -1.0, rows, step, item)
            _take_away(rows[step], 1 / sqrt(max(left[item], 2.0**-1022)), left)
            ids[image, step] = item
            for before in range(step + 1):
                left[ids[image, before]] = 0  # never twice, not by rounding


def choose_vectors(log_values: Tensor, k: int, coins: Tensor) -> Tensor:
    """As `vitrail.ops.dpp.exact.choose_vectors`, on the CPU."""
    batch, count = log_values.shape
    chosen = torch.zeros(batch, k, dtype=torch.int64)
    arrays = log_values.numpy(), k, coins.numpy(), chosen.numpy()
    share_out(_choose_of_images, batch, count * k * 10, *arrays)
    return chosen


def project(vectors: Tensor, chosen: Tensor, draws: Tensor) -> Tensor:
    """As `vitrail.ops.dpp.exact.project`, on the CPU."""
    ids = torch.zeros_like(chosen)
    batch, k = ids.shape
    arrays = (each.contiguous().numpy() for each in (vectors, chosen, draws, ids))
    share_out(_project_of_images, batch, vectors.shape[1] * k * k // 3, *arrays)
    return ids


def eigh(kernel: Tensor) -> tuple[Tensor, Tensor]:
    """`torch.linalg.eigh`, the images shared out among threads."""
    values, vectors = torch.empty_like(kernel[:, 0]), torch.empty_like(kernel)

    def part(first: int, last: int) -> None:
        values[first:last], vectors[first:last] = torch.linalg.eigh(kernel[first:last])

    share_out(part, len(kernel), 10 * kernel[0].numel() if len(kernel) else 0)
    return values, vectors
