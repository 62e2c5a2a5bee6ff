"""Connected components in plain torch, to convergence: the yardstick, and for devices without a kernel."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad


def connected_components(mask: Tensor, connectivity: int = 8) -> Tensor:
    """As `vitrail.ops.components.connected_components`, on any device; reads back once per round.

    Every cell takes the lowest cell number among its neighbors, then the label of the cell that it points to,
    until nothing moves. At that fixed point all cells of a component hold the number of its first cell.
    """
    rows, columns = mask.shape[-2:]
    cells = rows * columns
    if mask.numel() == 0:
        return torch.zeros(mask.shape, dtype=torch.int64, device=mask.device)
    inside = mask.reshape(-1, cells)
    number = torch.arange(cells, device=mask.device)
    labels = torch.where(inside, number, cells)  # `cells` is no cell: the background
    while True:
        lower = _lowest_around(labels.view(-1, rows, columns), cells, connectivity).reshape(-1, cells)
        lower = torch.where(inside, torch.minimum(lower, labels), cells)
        lower = pad(lower, (0, 1), value=cells).gather(1, lower)
        if torch.equal(lower, labels):
            break
        labels = lower
    rank = (labels == number).cumsum(1)  # how many components start at or before each cell
    return torch.where(inside, rank.gather(1, labels.clamp(max=cells - 1)), 0).view(mask.shape)


def _lowest_around(labels: Tensor, background: int, connectivity: int) -> Tensor:
    framed = pad(labels, (1, 1, 1, 1), value=background)
    across = torch.minimum(framed[:, :, :-2], framed[:, :, 2:])
    if connectivity == 8:
        across = torch.minimum(across, framed[:, :, 1:-1])
        return torch.minimum(torch.minimum(across[:, :-2], across[:, 2:]), across[:, 1:-1])
    return torch.minimum(torch.minimum(framed[:, :-2, 1:-1], framed[:, 2:, 1:-1]), across[:, 1:-1])
