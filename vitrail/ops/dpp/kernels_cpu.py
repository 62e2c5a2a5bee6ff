"""Distances over their median on the CPU: one numba pass per image, the images shared out among threads."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from vitrail.ops.compiled import compiled, share_out


@compiled
def _distances(gram: Any, squares: Any, pairs: Any) -> None:
    """Squared distances of all pairs, below the diagonal of `gram` and as a list."""
    start = 0
    for one in range(len(gram)):
        row, listed = gram[one, :one], pairs[start : start + one]
        for other in range(one):
            distance = squares[one] + squares[other] - (row[other] + row[other])
            row[other] = listed[other] = distance if distance > 0 else distance - distance
        start += one


@compiled
def select(values: Any, rank: int, low: float, high: float, counts: Any) -> float:
    """The value that would stand at `rank` if the finite `values` were sorted; shuffles them.

    Values are counted in bins from `low` to `high`, and those of the bin that holds the rank looked at more closely.
    Those less than 1e-300 apart count as equal.
    """
    left = len(values)
    last = len(counts) - 1.0
    while left > 64:
        if high - low < 1e-300:
            return low
        scale = last / (high - low)
        counts[:] = 0
        for number in range(left):
            counts[int(min((values[number] - low) * scale, last))] += 1
        chosen = 0
        while rank >= counts[chosen]:
            rank -= counts[chosen]
            chosen += 1
        kept = 0
        for number in range(left):
            value = values[number]
            values[kept] = value  # stays if it is in the bin, else the next one takes its place
            kept += int(min((value - low) * scale, last)) == chosen
        left = kept
        low, high = float(values[:left].min()), float(values[:left].max())
    return float(np.sort(values[:left])[rank])


@compiled
def _exponents(gram: Any, width: float, smallest: float) -> None:
    """- distance / width for both halves, from the lower one; distances up to `smallest` are 0."""
    for one in range(len(gram)):
        row = gram[one, :one]
        for other in range(one):
            row[other] = -row[other] / width if row[other] > smallest else row[other] - row[other]
        gram[one, one] = 0
        for other in range(one):
            gram[other, one] = row[other]


@compiled
def _exponents_of_images(first: int, last: int, grams: Any, smallest: Any, bandwidths: Any) -> None:
    count = grams.shape[1]
    squares = np.empty(count, grams.dtype)
    pairs = np.empty(count * (count - 1) // 2, grams.dtype)
    counts = np.empty(1024, np.int64)
    for image in range(first, last):
        gram = grams[image]
        for item in range(count):
            squares[item] = gram[item, item]
        if not np.isfinite(squares.sum()):
            gram[:] = np.nan
            continue
        _distances(gram, squares, pairs)
        if len(bandwidths):
            width = bandwidths[0]
        elif len(pairs):
            # No pair is further apart than twice the longest: four times its square.
            width = select(pairs, (len(pairs) - 1) // 2, 0.0, 4.0 * squares.max(), counts)
        else:
            width = smallest[image]
        _exponents(gram, grams.dtype.type(max(width, smallest[image])), smallest[image])


def exponents(gram: Tensor, smallest: Tensor, bandwidth: float | None) -> Tensor:
    """`- distance / bandwidth` of all pairs of patches, in place of their Gram matrix `[B, N, N]`.

    Args:
        gram: inner products of the patches; contiguous, on the CPU, overwritten.
        smallest: `[B]`, distances up to this are 0, and the bandwidth is this at least.
        bandwidth: None takes each image's lower median over pairs.

    NaN for an image that is not finite.
    """
    widths = np.array([] if bandwidth is None else [bandwidth], dtype=gram.numpy().dtype)
    share_out(_exponents_of_images, len(gram), 2 * gram[0].numel(), gram.numpy(), smallest.numpy(), widths)
    return gram
