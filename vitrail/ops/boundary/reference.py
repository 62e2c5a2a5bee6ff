"""Regions and outlines compared in plain torch, object by object: the definition."""

from __future__ import annotations

import torch
from torch import Tensor


def region_counts(first: Tensor, second: Tensor, objects: int, radius: int) -> Tensor:
    """As `vitrail.ops.boundary.region_counts`, int64 `[T, K, 6]`."""
    found = []
    for number in range(1, objects + 1):
        one, other = first == number, second == number
        edge, far_edge = outline(one), outline(other)
        parts = (one & other, one | other, edge, far_edge, edge & dilated(far_edge, radius))
        found.append(torch.stack([part.sum((1, 2)) for part in (*parts, far_edge & dilated(edge, radius))], 1))
    return torch.stack(found, 1)


def outline(region: Tensor) -> Tensor:
    """Bool `[T, Y, X]`, the pixels whose right, lower or lower right neighbor is on the other side."""
    down, right = (torch.arange(side).add(1).clamp(max=side - 1) for side in region.shape[1:])
    lower, beside = region[:, down], region[:, :, right]
    return (region != lower) | (region != beside) | (region != lower[:, :, right])


def dilated(edge: Tensor, radius: int) -> Tensor:
    """Bool `[T, Y, X]`, the pixels at most `radius` from one of `edge`."""
    rows, columns = edge.shape[1:]
    frame = torch.nn.functional.pad(edge, (radius,) * 4)
    result = torch.zeros_like(edge)
    for y in range(2 * radius + 1):
        for x in range(2 * radius + 1):
            if (y - radius) ** 2 + (x - radius) ** 2 <= radius**2:
                result |= frame[:, y : y + rows, x : x + columns]
    return result
