"""The loops of corruptions that NumPy has no word for, in numba."""

from __future__ import annotations

from typing import Any

import numpy as np

from vitrail.ops.compiled import compiled


@compiled
def swap_near(pixels: Any, shifts: Any, reach: int) -> None:
    """Swap pixels with near ones, one after the other from the last to the first, in place.

    Args:
        pixels: uint8 `[H, W, 3]`.
        shifts: int8 `[H, W, 2]`, rows and columns to the partner, from -reach to reach - 1.
        reach: rows and columns at the rim that start no swap.
    """
    height, width = pixels.shape[:2]
    for y in range(height - reach, reach, -1):
        for x in range(width - reach, reach, -1):
            other_y, other_x = y + shifts[y, x, 0], x + shifts[y, x, 1]
            for channel in range(3):
                kept = pixels[y, x, channel]
                pixels[y, x, channel] = pixels[other_y, other_x, channel]
                pixels[other_y, other_x, channel] = kept


@compiled
def sum_along(padded: Any, weights: Any, rows: Any, columns: Any, out: Any) -> None:
    """`out[y, x] = sum of weights[k] padded[y + rows[k], x + columns[k]]`, rounded.

    Args:
        padded: uint8 `[H + P, W + Q]`; channels lie beside each other, and columns count them.
        weights: float32 `[K]`, at least 0, of sum 1.
        rows, columns: int64 `[K]`, from 0 to P and Q.
        out: uint8 `[H, W]`, written.
    """
    height, width = out.shape
    sums = np.empty(width, np.float32)
    half = np.float32(0.5)
    for y in range(height):
        sums[:] = half
        for k in range(len(weights)):
            weight, row, first = weights[k], y + rows[k], columns[k]
            for x in range(width):
                sums[x] += weight * padded[row, x + first]
        for x in range(width):
            out[y, x] = np.uint8(min(sums[x], np.float32(255.0)))


@compiled
def draw_counts(levels: Any, bits: Any, bounds: Any, guide: Any, values: Any, out: Any) -> None:
    """Invert a cumulative distribution for each value: one for each of 256 levels.

    Args:
        levels: uint8 `[N]`.
        bits: uint32 `[N]`, random.
        bounds: uint32 `[256, K]`, the distribution's values times 2^32, ascending, the last one the largest uint32.
        guide: uint16 `[256, 256]`, where to begin to look in `bounds`, by level and the first 8 bits.
        values: uint8 `[K]`, what becomes of a count.
        out: uint8 `[N]`, written.
    """
    for index in range(len(levels)):
        level, drawn = levels[index], bits[index]
        count = np.intp(guide[level, drawn >> np.uint32(24)])
        while bounds[level, count] < drawn:
            count += 1
        out[index] = values[count]
