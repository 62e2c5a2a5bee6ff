"""Boxes of connected components threshold by threshold: the definition, in plain torch, and slow."""

from __future__ import annotations

import torch
from torch import Tensor

from vitrail.ops.components import connected_components


def components_at(mask: Tensor) -> list[tuple[list[int], int, int, int]]:
    """Box, pixels, twice the area within the outer outline, and first pixel of each component of `mask [Y, X]`."""
    labels, found = connected_components(mask), []
    for number in range(1, int(labels.max()) + 1 if labels.numel() else 1):
        inside = labels == number
        y, x = inside.nonzero().unbind(1)
        box = [int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1]
        found.append((box, len(x), twice_area(filled(inside)), int(y[0]) * mask.shape[1] + int(x[0])))
    return found


def holes_at(mask: Tensor) -> list[list[int]]:
    """The box of each hole's outline: that of the hole, a pixel wider on each side."""
    framed = torch.nn.functional.pad(~mask, (1, 1, 1, 1), value=True)
    labels, boxes = connected_components(framed, 4), []
    for number in range(1, int(labels.max()) + 1):
        y, x = (labels == number).nonzero().unbind(1)
        if x.min() > 0:
            boxes.append([int(x.min()) - 2, int(y.min()) - 2, int(x.max()) + 1, int(y.max()) + 1])
    return boxes


def filled(mask: Tensor) -> Tensor:
    """The mask with all pixels that no path of sides leads to from outside."""
    framed = torch.nn.functional.pad(~mask, (1, 1, 1, 1), value=True)
    return (connected_components(framed, 4) != 1)[1:-1, 1:-1]


def twice_area(mask: Tensor) -> int:
    """Twice the area of the polygon through the outline's pixel centers, of a mask without holes."""
    cells = mask.long()
    squares = cells[1:, 1:] + cells[1:, :-1] + cells[:-1, 1:] + cells[:-1, :-1]
    return int((squares - 2).clamp(min=0).sum())
