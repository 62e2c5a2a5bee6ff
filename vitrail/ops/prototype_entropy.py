"""Prototypes that come to lie on what the images of a batch show: the entropy of their likenesses with the images.

    phi = softmax over the B images of <U_i, F_j> / tau     U: M prototypes, F: pooled images, both of length 1
    L   = -1 / (B M) sum_ij phi_ij ln phi_ij                in [0, ln(B) / B]

A prototype alike to all images has ln(B), one alike to a single image has 0: the minimum draws each to its nearest
image. Nothing keeps two from choosing the same image; what they differ in is where they began.

Source: Wen et al., "Semantic Concentration for Self-Supervised Dense Representations Learning" (CoTAP), Eq. 15 and 16.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def prototype_entropy(prototypes: Tensor, pooled: Tensor, temperature: float = 0.1) -> Tensor:
    """The loss, a scalar in [0, ln(B) / B], float32 or wider also under autocast; 0 for no images.

    Args:
        prototypes: `[M, D, 3, 3]` or flattened `[M, 9 D]`; the only ones that get a gradient.
        pooled: `[B, D, 3, 3]` or `[B, 9 D]`, features of object-centric images, by `pool_3x3`. It is over these images
            that the softmax runs: for those of all processes gather `pooled` first, which needs no gradient.
        temperature: tau, positive.

    Raises:
        ValueError: for sizes that differ, or a temperature that is not positive.
    """
    if prototypes.ndim < 2 or pooled.ndim < 2 or prototypes.shape[1:].numel() != pooled.shape[1:].numel():
        raise ValueError(
            f"prototypes are {list(prototypes.shape)} and pooled images {list(pooled.shape)}; both are "
            "[count, D, 3, 3] or [count, 9 D] with the same D"
        )
    if not temperature > 0:
        raise ValueError(f"temperature {temperature} is not positive; the paper's is 0.1")
    with torch.autocast(prototypes.device.type, enabled=False):
        likeness = _directions(prototypes) @ _directions(pooled.detach()).T
        logs = (likeness / temperature).log_softmax(-1)
        return -(logs.exp() * logs).sum(-1).mean() / max(len(pooled), 1)


def pool_3x3(patches: Tensor, grid: tuple[int, int]) -> Tensor:
    """Patch features averaged over 3 x 3 areas of the image.

    Args:
        patches: `[B, N, D]`, raster order.
        grid: (Y, X), N = Y * X. Area i of an axis goes from floor(i Y / 3) up to ceil((i + 1) Y / 3): where 3 does not
            divide Y, neighboring areas share a row.

    Returns:
        `[B, D, 3, 3]`.

    Raises:
        ValueError: for patches that do not fill the grid.
    """
    rows, columns = grid
    if patches.ndim != 3 or patches.shape[1] != rows * columns:
        raise ValueError(f"patches are {list(patches.shape)}; a grid of {rows} x {columns} is [B, {rows * columns}, D]")
    return functional.adaptive_avg_pool2d(patches.transpose(1, 2).unflatten(2, grid), 3)


def _directions(values: Tensor) -> Tensor:
    flat = values.flatten(1).to(torch.promote_types(values.dtype, torch.float32))
    return functional.normalize(flat, dim=-1)
