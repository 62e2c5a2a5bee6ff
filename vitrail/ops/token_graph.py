"""Patches of an image as the nodes of a graph: how each resembles each other one.

What LOST and TokenCut have in common. Both look at signs and at small eigenvalues, so products are those of float64.
"""

from __future__ import annotations

import torch
from torch import Tensor


def products(features: Tensor) -> Tensor:
    """`[B, N, N]` float64, the products of all pairs of `[B, N, D]`, also under autocast."""
    with torch.autocast(device_type=features.device.type, enabled=False):
        wide = features.double()
        return wide @ wide.transpose(1, 2)


def check_features(features: Tensor, grid: tuple[int, int]) -> None:
    """Refuse what makes no graph of one image's patches each.

    Args:
        features: `[B, N, D]`.
        grid: (Y, X), Y * X = N, at least one patch.

    Raises:
        ValueError: for other shapes, or features that are not finite; names the first such image.
    """
    if features.ndim != 3 or not features.is_floating_point() or features.shape[1] != grid[0] * grid[1] or grid[0] < 1:
        raise ValueError(
            f"features are {list(features.shape)} of {features.dtype} for a grid of {grid[0]} x {grid[1]} patches; "
            f"give floats [B, {grid[0] * grid[1]}, D]"
        )
    bad = ~features.isfinite().flatten(1).all(1)
    if bad.any():
        first = int(bad.nonzero()[0])
        raise ValueError(
            f"features of image {first} of the batch are NaN or infinite; check its pixels, and the weights"
        )
