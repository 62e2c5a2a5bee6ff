"""RoI-Align of axis-aligned boxes as two small matrix products.

Bilinear sampling at a grid of points, averaged over the points of each cell, is linear in the map and works on rows and
columns apart:

    out = A_y X A_x^T,   A_y [cells, Y], A_x [cells, X]

Row c of A holds how much each row of the map adds to cell c. The backward pass is the transposed products, so nothing
is added up in an order that changes between runs, as it is by atomic additions.

A box may be given from right to left; then the cells run from right to left, which undoes a horizontal flip.

Source: He et al. 2017, "Mask R-CNN" (arXiv 1703.06870), in the form without the half-pixel shift ("aligned") and with
as many points a cell as the cell is map cells long, rounded up ("adaptive sampling"), as in torchvision, to which this
is equal.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vitrail.ops.patches import sides_of


def roi_align(maps: Tensor, boxes: Tensor, cells: int | tuple[int, int] = 7, *, points: int | None = None) -> Tensor:
    """The part of each map that lies in a box, on a grid of its own.

    Args:
        maps: `[R, C, Y, X]` floating point, one map for each box.
        boxes: `[R, 4]` left, top, right, bottom in cells of the map, from 0 to X and Y, so that (0, 0, X, Y) is the
            whole map. Left may be greater than right, see above. Boxes within the map; best kept on the host.
        cells: of the result, one side or (rows, columns).
        points: sampled a cell along each side; None for as many as the cell is map cells long, rounded up.

    Returns:
        `[R, C, rows, columns]`, the maps' dtype and device; gradient flows to the maps.

    Raises:
        ValueError: for shapes that do not fit, boxes that are empty or reach out of the map (on the host), fewer than 1
            cell or point.
    """
    if maps.ndim != 4 or boxes.shape != (len(maps), 4):
        raise ValueError(f"maps are {list(maps.shape)} and boxes {list(boxes.shape)}; give [R, C, Y, X] and [R, 4]")
    rows, columns = sides_of(cells)
    left, top, right, bottom = boxes.double().unbind(1)
    down = sampling(top, bottom, maps.shape[2], rows, points=points).to(maps.device, maps.dtype)
    across = sampling(left, right, maps.shape[3], columns, points=points).to(maps.device, maps.dtype)
    return torch.einsum("riy,rcyx,rjx->rcij", down, maps, across)


def sampling(start: Tensor, end: Tensor, size: int, cells: int, *, points: int | None = None) -> Tensor:
    """The matrix A of one side: how much each of `size` map cells adds to each of `cells` result cells.

    Args:
        start, end: `[R]` floating point, where the boxes begin and end, in map cells, 0 to `size`.
        size: cells of the map along this side.
        cells: of the result.
        points: as in `roi_align`.

    Returns:
        `[R, cells, size]` of the boxes' dtype, not negative; each row sums to 1.

    Raises:
        ValueError: as `roi_align`.
    """
    _check(start, end, size, cells, points)
    length = (end - start) / cells
    most = points or max(math.ceil(size / cells), 1)
    count = torch.full_like(start, most) if points else (length.abs() - 1e-9).ceil().clamp(1, most)
    numbers = torch.arange(most, device=start.device)
    share = (numbers + 0.5) / count[:, None]  # [R, points], of the way through a cell
    place = torch.arange(cells, device=start.device)[:, None] + share[:, None, :]  # [R, cells, points]
    # Cell k of the map has its middle at k + 0.5; outside of the outer middles the outer values go on.
    position = (start[:, None, None] + place * length[:, None, None] - 0.5).clamp(0, size - 1)
    used = (numbers < count[:, None])[:, None, :] / count[:, None, None]
    near = (1 - (position[..., None] - torch.arange(size, device=start.device)).abs()).clamp(min=0)
    return (near * used[..., None]).sum(2)


def _check(start: Tensor, end: Tensor, size: int, cells: int, points: int | None) -> None:
    if cells < 1 or size < 1 or (points is not None and points < 1):
        raise ValueError(f"{cells} cells of {points} points on a side of {size}; each is at least 1")
    if start.device.type != "cpu" or not start.numel():
        return
    low, high = torch.minimum(start, end), torch.maximum(start, end)
    slack = 1e-6 * size
    bad = ~((low >= -slack) & (high <= size + slack) & (high > low))
    if bad.any():
        row = int(bad.nonzero()[0])
        raise ValueError(
            f"box {row} runs from {start[row].item():.4g} to {end[row].item():.4g} on a side of {size} cells; it must "
            "lie within and not be empty"
        )
