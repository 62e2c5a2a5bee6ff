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
def scratch_for(rows: int, columns: int) -> Any:
    """What `label_cells` works in, for maps of this grid."""
    cells, places = rows * columns, (rows + 1) * (columns + 1) + 1
    framed = np.empty(cells, np.uint32)  # number of a cell in the map -> its place in the framed map
    for cell in range(cells):
        framed[cell] = (cell // columns + 1) * (columns + 1) + cell % columns + 1
    parent, label_at = np.empty(places, np.uint32), np.empty(places, np.uint32)
    return framed, np.empty(cells, np.uint32), np.empty(cells, np.uint32), parent, label_at


@compiled
def list_cells(mask: Any, chosen: Any) -> Any:
    """List the cells of a mask in reading order; returns their number."""
    count = np.uintp(0)
    for cell in range(np.uintp(len(mask))):
        chosen[count] = cell
        count += np.uintp(mask[cell])
    return count


@compiled
def label_cells(chosen: Any, count: int, columns: int, diagonal: bool, scratch: Any, labels: Any) -> int:
    """Label the cells of one map; returns the number of components.

    Masks are unpredictable, and a branch that the processor guesses wrong costs more than all else here. So
    the caller lists the cells of the mask first, and the scan over them selects instead of branching. The
    cells are numbered anew in a map framed by a row above and a column before, where no neighbor is missing:
    cell (y, x) has place `(y + 1) * (columns + 1) + x + 1`. Unsigned indices spare the test for negative ones.

    Args:
        chosen: `[count]` uint32, the mask's cells in reading order, `y * columns + x`.
        count: number of cells.
        columns: X.
        diagonal: True for 8-connectivity, False for 4.
        scratch: from `scratch_for`.
        labels: `[count]` uint32, written: 1.. in reading order.
    """
    framed, places, joins, parent, label_at = scratch
    width, one, none = np.uintp(columns + 1), np.uintp(1), np.uint32(0)
    parent[:] = none  # no cell: the frame's first place is number 0
    waiting = before = np.uintp(0)
    root = none
    for index in range(np.uintp(count)):
        place = np.uintp(framed[np.uintp(chosen[index])])
        left = root if place == before + one else none
        up = parent[place - width]
        if diagonal:
            up_left, up_right = parent[place - width - one], parent[place - width + one]
        else:
            up_left = up_right = none
        root = up_right if up_right else np.uint32(place)
        root = up_left if up_left else root
        root = up if up else root
        root = left if (left != 0) & (up == 0) else root  # late, as it is the last to be known
        # `up` touches the three others, and `left` touches `up_left`: one root stands for all of them. Two roots
        # that are one already, as most are, need no join.
        if diagonal:
            join = (up == 0) & (up_right != 0) & (up_right != root)
        else:
            join = (up != 0) & (left != 0) & (up != left)
        parent[place] = root
        places[index] = joins[waiting] = before = place
        waiting += np.uintp(join)
    for index in range(waiting):
        place = np.uintp(joins[index])
        _join(parent, place, place - width + one if diagonal else place - one)
    components = none
    for index in range(np.uintp(count)):
        place = places[index]
        root = parent[np.uintp(place)]  # earlier in reading order: its label is final
        components += np.uint32(root == place)
        label = label_at[np.uintp(root)]
        label_at[np.uintp(place)] = labels[index] = components if root == place else label
    return int(components)


@compiled
def _label_maps(first: int, last: int, masks: Any, columns: int, diagonal: bool, out: Any) -> None:
    cells = masks.shape[1]
    scratch = scratch_for(cells // columns, columns)
    chosen, labels = np.empty(cells, np.uint32), np.empty(cells, np.uint32)
    for index in range(first, last):
        count = list_cells(masks[index], chosen)
        label_cells(chosen, count, columns, diagonal, scratch, labels)
        out[index, :] = 0
        for number in range(count):
            out[index, np.uintp(chosen[number])] = labels[number]


def connected_components(mask: Tensor, connectivity: int = 8) -> Tensor:
    """As `vitrail.ops.components.connected_components`, for a bool tensor `[..., Y, X]` on the CPU."""
    rows, columns = mask.shape[-2:]
    labels = torch.empty(mask.shape, dtype=torch.int64)
    if mask.numel() == 0:
        return labels
    cells = rows * columns
    maps, out = mask.contiguous().view(-1, cells).numpy(), labels.view(-1, cells).numpy()
    share_out(_label_maps, len(maps), cells, maps, columns, connectivity == 8, out)
    return labels
