"""How well two regions agree."""

from __future__ import annotations

import torch
from torch import Tensor


def iou(first: Tensor, second: Tensor, ignore: Tensor | None = None) -> Tensor:
    """Intersection over union of boolean masks (the Jaccard index).

    Args:
        first, second: Bool `[..., Y, X]`, broadcast against each other.
        ignore: Bool `[..., Y, X]`, true where a pixel counts neither in the intersection nor in the union.

    Returns:
        float64 `[...]` in [0, 1]; NaN where the union is empty (0/0: neither right nor wrong).

    Raises:
        ValueError: masks that are not boolean (a sum of 0/255 masks is a silent wrong).
    """
    for mask in (first, second, *(() if ignore is None else (ignore,))):
        if mask.dtype is not torch.bool:
            raise ValueError(f"iou needs boolean masks, not {mask.dtype}; compare with a class id first")
    both, either = first & second, first | second
    if ignore is not None:
        both, either = both & ~ignore, either & ~ignore
    return both.sum((-2, -1)).double() / either.sum((-2, -1)).double()
