"""Regions and outlines compared on the CPU: outlines as sorted lists of pixels, in numba."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitrail.ops.compiled import compiled, share_out


@compiled
def _areas(first: Any, second: Any, objects: int, out: Any) -> None:
    """Count pixels `[K]` in both (out[:, 0]) and in either (out[:, 1]) of two maps `[Y * X]`."""
    table = np.zeros((256, 256), np.int64)
    one, other, run = first[0], second[0], 0
    for place in range(len(first)):
        if (first[place] != one) | (second[place] != other):
            table[one, other] += run
            one, other, run = first[place], second[place], 0
        run += 1
    table[one, other] += run
    for number in range(1, objects + 1):
        both = table[number, number]
        out[number - 1, 0] = both
        out[number - 1, 1] = table[number].sum() + table[:, number].sum() - both


@compiled
def _list_outlines(ids: Any, objects: int, owner: Any, column: Any, starts: Any, sorted_columns: Any) -> None:
    """List the outlines of all objects of a map `[Y, X]`.

    Args:
        owner, column: scratch `[4 * Y * X]`, object and x of what is found, in reading order.
        starts: `[K, Y + 1]`, written: where the pixels of row y of object k + 1 begin.
        sorted_columns: `[4 * Y * X]`, written: x of the pixels, by object, row and x.
    """
    rows, columns = ids.shape
    starts[:] = 0
    count = 0
    for y in range(rows):
        below = min(y + 1, rows - 1)
        for x in range(columns):
            beside = min(x + 1, columns - 1)
            a, b, c, d = ids[y, x], ids[y, beside], ids[below, x], ids[below, beside]
            if (a == b) & (a == c) & (a == d):
                continue
            # Each of the ids that meet here has its outline here; a set of four, without building one.
            for turn in range(4):
                value = a if turn == 0 else b if turn == 1 else c if turn == 2 else d
                new = turn == 0 or (value != a and (turn == 1 or (value != b and (turn == 2 or value != c))))
                if new and 1 <= value <= objects:
                    owner[count], column[count] = value - 1, x
                    starts[value - 1, y + 1] += 1
                    count += 1
    total = 0
    for number in range(objects):
        starts[number, 0] = total
        for y in range(rows):
            total += starts[number, y + 1]
            starts[number, y + 1] = total
    filled = starts[:, 0].copy()
    for index in range(count):
        sorted_columns[filled[owner[index]]] = column[index]
        filled[owner[index]] += 1


@compiled
def _matched(near: Any, near_starts: Any, far: Any, far_starts: Any, reach: Any, flags: Any) -> int:
    """How many pixels of one outline lie in a disk around a pixel of another; `reach[dy]` is the disk's half width."""
    rows = len(near_starts) - 1
    found = 0
    for y in range(rows):
        first, last = near_starts[y], near_starts[y + 1]
        open_ones = last - first
        if not open_ones:
            continue
        flags[:open_ones] = False
        for turn in range(2 * len(reach) - 1):  # 0, 1, -1, 2, -2, ...: most are matched near by
            shift = (turn + 1) // 2
            row = y + shift if turn % 2 else y - shift
            if row < 0 or row >= rows:
                continue
            there, end, width = far_starts[row], far_starts[row + 1], reach[shift]
            for index in range(first, last):
                while there < end and far[there] < near[index] - width:
                    there += 1
                if there == end:
                    break
                if far[there] <= near[index] + width and not flags[index - first]:
                    flags[index - first] = True
                    open_ones -= 1
            if not open_ones:
                break
        found += last - first - open_ones
    return found


@compiled
def _compare(begin: int, stop: int, first: Any, second: Any, objects: int, reach: Any, out: Any) -> None:
    _, rows, columns = first.shape
    owner, column = np.empty(4 * rows * columns, np.uint8), np.empty(4 * rows * columns, np.int32)
    one, other = np.empty(4 * rows * columns, np.int32), np.empty(4 * rows * columns, np.int32)
    one_starts, other_starts = np.empty((objects, rows + 1), np.int64), np.empty((objects, rows + 1), np.int64)
    flags = np.empty(columns, np.bool_)
    for index in range(begin, stop):
        _areas(first[index].reshape(-1), second[index].reshape(-1), objects, out[index])
        _list_outlines(first[index], objects, owner, column, one_starts, one)
        _list_outlines(second[index], objects, owner, column, other_starts, other)
        for number in range(objects):
            near, far = one_starts[number], other_starts[number]
            out[index, number, 2] = near[rows] - near[0]
            out[index, number, 3] = far[rows] - far[0]
            out[index, number, 4] = _matched(one, near, other, far, reach, flags)
            out[index, number, 5] = _matched(other, far, one, near, reach, flags)


def region_counts(first: Tensor, second: Tensor, objects: int, radius: int) -> Tensor:
    """As `vitrail.ops.boundary.region_counts`, int64 `[T, K, 6]`."""
    maps, rows, columns = first.shape
    out = torch.zeros(maps, objects, 6, dtype=torch.int64)
    if first.numel() == 0:
        return out
    steps = np.arange(radius + 1, dtype=np.int64)
    # Exact half widths of the disk: the floor of a square root, mended where rounding put it one too high.
    reach = np.floor(np.sqrt(radius * radius - steps * steps)).astype(np.int64)
    reach -= (reach * reach + steps * steps) > radius * radius
    one, other = (maps_.detach().cpu().contiguous().numpy() for maps_ in (first, second))
    share_out(_compare, maps, rows * columns, one, other, objects, reach, out.numpy())
    return out
