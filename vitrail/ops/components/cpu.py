"""Connected components on the CPU: union-find in one raster scan per map, in numba."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitrail.ops.compiled import compiled, share_out


@compiled
def _root(parent: Any, cell: int) -> int:
    while parent[cell] != cell:
        parent[cell] = parent[parent[cell]]
        cell = parent[cell]
    return cell


@compiled
def _join(parent: Any, one: int, other: int) -> None:
    one = _root(parent, one)
    other = _root(parent, other)
    # The smaller cell stays root: so the root is the component's first cell in reading order.
    if one < other:
        parent[other] = one
    else:
        parent[one] = other


@compiled
def label_map(mask: Any, rows: int, columns: int, diagonal: bool, parent: Any, labels: Any) -> int:
    """Label one flat map in place; returns the number of components.

    Args:
        mask: `[rows * columns]` bool.
        rows: height of the grid.
        columns: width of the grid.
        diagonal: True for 8-connectivity, False for 4.
        parent: `[rows * columns]` int32 scratch.
        labels: `[rows * columns]` integers, written: 0 background, 1.. in reading order.
    """
    for cell in range(rows * columns):
        parent[cell] = cell
        if not mask[cell]:
            continue
        x = cell % columns
        up = cell >= columns and mask[cell - columns]
        left = x > 0 and mask[cell - 1]
        if up:
            parent[cell] = parent[cell - columns]
            # With diagonals, `up` already touches the left and both upper corners.
            if left and not diagonal:
                _join(parent, cell, cell - 1)
            continue
        if left:
            parent[cell] = parent[cell - 1]
        if diagonal and cell >= columns:
            if not left and x > 0 and mask[cell - columns - 1]:
                parent[cell] = parent[cell - columns - 1]
            if x < columns - 1 and mask[cell - columns + 1]:
                _join(parent, cell, cell - columns + 1)
    count = 0
    for cell in range(rows * columns):
        # Parents come earlier in reading order, so theirs is final. Written without branches: masks are
        # unpredictable.
        first = mask[cell] & (parent[cell] == cell)
        count += first
        label = labels[parent[cell]]
        label = count if first else label
        labels[cell] = label if mask[cell] else 0
    return count


@compiled
def _label_maps(
    first: int, last: int, masks: Any, rows: int, columns: int, diagonal: bool, labels: Any
) -> None:
    parent = np.empty(rows * columns, np.int32)
    for index in range(first, last):
        label_map(masks[index], rows, columns, diagonal, parent, labels[index])


def connected_components(mask: Tensor, connectivity: int = 8) -> Tensor:
    """As `vitrail.ops.components.connected_components`, for a bool tensor `[..., Y, X]` on the CPU."""
    rows, columns = mask.shape[-2:]
    cells = rows * columns
    labels = torch.empty(mask.shape, dtype=torch.int64)
    if mask.numel() == 0:
        return labels
    flat = mask.contiguous().view(-1, cells).numpy()
    share_out(
        _label_maps, len(flat), cells, flat, rows, columns, connectivity == 8, labels.view(-1, cells).numpy()
    )
    return labels
