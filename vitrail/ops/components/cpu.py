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
    # The smaller place stays root: so the root is the component's first cell in reading order.
    if one < other:
        parent[other] = one
    else:
        parent[one] = other


@compiled
def label_places(places: Any, count: int, width: int, diagonal: bool, parent: Any, joins: Any, labels: Any) -> int:
    """Label the cells of one map; returns the number of components.

    Masks are unpredictable, and a branch that the processor guesses wrong costs more than all else here. So
    the caller lists the cells of the mask first, and the scan over them selects instead of branching.

    Args:
        places: `[count]` int32, the mask's cells in reading order, numbered in a map framed by a row above
        and
            a column before: cell (y, x) of a map with X columns is `(y + 1) * width + x + 1`, width = X + 1.
        count: number of cells.
        width: X + 1.
        diagonal: True for 8-connectivity, False for 4.
        parent: `[(Y + 1) * width + 1]` int32 scratch, one for each place and one more.
        joins: `[count]` int32 scratch.
        labels: as `parent`; written at `places` alone: 1.. in reading order.
    """
    parent[:] = 0  # no cell: the frame's first place is number 0
    waiting = 0
    for index in range(count):
        place = places[index]
        up, left = parent[place - width], parent[place - 1]
        if diagonal:
            up_left, up_right = parent[place - width - 1], parent[place - width + 1]
            # `up` touches the three others, and `left` touches `up_left`: one root stands for all of them.
            join = (up == 0) & ((left | up_left) != 0) & (up_right != 0)
        else:
            up_left = up_right = 0
            join = (up != 0) & (left != 0)
        root = up_right if up_right else place
        root = up_left if up_left else root
        root = left if left else root  # late, as it is the last to be known: the turn before has just stored it
        parent[place] = up if up else root
        joins[waiting] = place
        waiting += join
    for index in range(waiting):
        place = joins[index]
        _join(parent, place, place - width + 1 if diagonal else place - 1)
    components = 0
    for index in range(count):
        place = places[index]
        root = parent[place]  # earlier in reading order: its label is final
        components += root == place
        label = labels[root]
        labels[place] = components if root == place else label
    return components


@compiled
def _label_maps(first: int, last: int, masks: Any, rows: int, columns: int, diagonal: bool, out: Any) -> None:
    width = columns + 1
    places = np.empty(rows * columns, np.int32)
    joins = np.empty(rows * columns, np.int32)
    parent = np.empty((rows + 1) * width + 1, np.int32)
    labels = np.empty((rows + 1) * width + 1, np.int32)
    for index in range(first, last):
        count = 0
        for y in range(rows):
            for x in range(columns):
                places[count] = (y + 1) * width + x + 1
                count += masks[index, y, x]
        label_places(places, count, width, diagonal, parent, joins, labels)
        for y in range(rows):
            for x in range(columns):
                label = labels[(y + 1) * width + x + 1]
                out[index, y, x] = label if masks[index, y, x] else 0


def connected_components(mask: Tensor, connectivity: int = 8) -> Tensor:
    """As `vitrail.ops.components.connected_components`, for a bool tensor `[..., Y, X]` on the CPU."""
    rows, columns = mask.shape[-2:]
    labels = torch.empty(mask.shape, dtype=torch.int64)
    if mask.numel() == 0:
        return labels
    maps = mask.contiguous().view(-1, rows, columns).numpy()
    out = labels.view(-1, rows, columns).numpy()
    share_out(_label_maps, len(maps), rows * columns, maps, rows, columns, connectivity == 8, out)
    return labels
