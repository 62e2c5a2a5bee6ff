"""Connected components on a GPU: one Triton program labels one map, in registers, to convergence."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def first_cells(  # type: ignore[no-untyped-def]
    mask, cell, columns, cells, DIAGONAL: tl.constexpr, BLOCK: tl.constexpr
):
    """For every cell `[BLOCK]` the number of its component's first cell in reading order, else BLOCK.

    Each round takes the lowest number among the neighbors, then follows the cell that it names, twice. It
    ends when nothing moves, so no serpentine is left in pieces; the number of rounds differs from map to map.
    """
    x = cell % columns
    to_left = tl.maximum(cell - 1, 0)
    to_right = tl.minimum(cell + 1, BLOCK - 1)
    to_up = tl.maximum(cell - columns, 0)
    to_down = tl.minimum(cell + columns, BLOCK - 1)
    labels = tl.where(mask, cell, BLOCK)
    moved = tl.sum(mask.to(tl.int32), 0)
    while moved > 0:
        left = tl.where(x > 0, tl.gather(labels, to_left, 0), BLOCK)
        right = tl.where(x < columns - 1, tl.gather(labels, to_right, 0), BLOCK)
        lower = tl.minimum(labels, tl.minimum(left, right))
        if DIAGONAL:  # the lowest of three above and below: across, then down
            column = lower
        else:
            column = labels
        up = tl.where(cell >= columns, tl.gather(column, to_up, 0), BLOCK)
        down = tl.where(cell + columns < cells, tl.gather(column, to_down, 0), BLOCK)
        lower = tl.where(mask, tl.minimum(lower, tl.minimum(up, down)), BLOCK)
        lower = tl.where(mask, tl.gather(lower, tl.minimum(lower, BLOCK - 1), 0), BLOCK)
        lower = tl.where(mask, tl.gather(lower, tl.minimum(lower, BLOCK - 1), 0), BLOCK)
        moved = tl.sum((lower != labels).to(tl.int32), 0)
        labels = lower
    return labels


@triton.jit
def _label_map(  # type: ignore[no-untyped-def]
    masks, out, columns, cells, DIAGONAL: tl.constexpr, BLOCK: tl.constexpr
):
    start = tl.program_id(0).to(tl.int64) * cells
    cell = tl.arange(0, BLOCK)
    inside = cell < cells
    mask = tl.load(masks + start + cell, mask=inside, other=0) != 0
    first = first_cells(mask, cell, columns, cells, DIAGONAL, BLOCK)
    rank = tl.cumsum((first == cell).to(tl.int32), 0)
    labels = tl.where(mask, tl.gather(rank, tl.minimum(first, BLOCK - 1), 0), 0)
    tl.store(out + start + cell, labels.to(tl.int64), mask=inside)


def launch_size(cells: int) -> dict[str, Any]:
    """The block and the number of warps for maps of `cells` cells."""
    block = max(32, triton.next_power_of_2(cells))
    return {"BLOCK": block, "num_warps": min(8, max(1, block // 64))}


def connected_components(mask: Tensor, connectivity: int = 8) -> Tensor:
    """As `vitrail.ops.components.connected_components`, for maps of up to 64x64."""
    rows, columns = mask.shape[-2:]
    labels = torch.empty(mask.shape, dtype=torch.int64, device=mask.device)
    if mask.numel() == 0:
        return labels
    cells = rows * columns
    flat = mask.contiguous().view(torch.uint8)
    grid = (mask.numel() // cells,)
    _label_map[grid](flat, labels, columns, cells, DIAGONAL=connectivity == 8, **launch_size(cells))
    return labels
