"""Connected components of many small masks at once, exact on any grid.

A component is a largest set of True cells in which every two are joined by a path of neighbors: 4 (sides) or
8 (sides and corners). Popular max-pool propagations stop after a fixed number of rounds and leave long
winding regions in pieces; all three ways here run until nothing changes. `cpu` (numba union-find), `cuda`
(Triton) and `reference` (plain torch) give the same labels.
"""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor

__all__ = ["component_at", "components_above_mean", "connected_components"]

_TRITON = find_spec("triton") is not None
_MOST_CELLS = 4096  # of one map, 64x64; a larger one does not fit one GPU program's registers and shared memory


def connected_components(mask: Tensor, connectivity: int = 8) -> Tensor:
    """Number the connected components of each map.

    Args:
        mask: `[..., Y, X]` bool; any leading axes, any grid, contiguous or not, empty too.
        connectivity: 4 or 8.

    Returns:
        `[..., Y, X]` int64 on the same device. 0 is background; components count 1, 2, ... within each map,
        in the reading order of their first cells.

    Raises:
        ValueError: for a mask that is not bool or has fewer than two axes, or another connectivity.

    On a GPU with Triton, maps of up to 64x64 are labeled without a host sync; larger ones, and other devices,
    take the plain torch way.
    """
    if mask.dtype != torch.bool:
        raise ValueError(f"mask is {mask.dtype}, not torch.bool; compare first, as in `scores > threshold`")
    if mask.ndim < 2:
        raise ValueError(f"mask has shape {tuple(mask.shape)}; it needs two axes at least, [..., Y, X]")
    if connectivity not in (4, 8):
        raise ValueError(f"connectivity is {connectivity}; give 4 (sides) or 8 (sides and corners)")
    if mask.device.type == "cpu":
        from vitrail.ops.components import cpu

        return cpu.connected_components(mask, connectivity)
    if has_gpu_kernel(mask):
        from vitrail.ops.components import cuda

        return cuda.connected_components(mask, connectivity)
    from vitrail.ops.components import reference

    return reference.connected_components(mask, connectivity)


def components_above_mean(scores: Tensor, connectivity: int = 8) -> Tensor:
    """Number the regions of each map that are higher than its mean: the blobs that spatial entropy is taken over.

    Args:
        scores: `[..., Y, X]` floating point; compared with the mean in float64.
        connectivity: 4 or 8; spatial entropy's is 8.

    Returns:
        `[..., Y, X]` int64 as `connected_components`; the largest label is the number of blobs. A map that is constant,
        or holds NaN, has none.

    Raises:
        ValueError: as `connected_components`, for scores that are not floating point or have no cell.
    """
    if not scores.is_floating_point() or scores.ndim < 2 or 0 in scores.shape[-2:]:
        raise ValueError(f"scores are {scores.dtype} of shape {tuple(scores.shape)}; give floats, [..., Y, X]")
    values = scores.detach().double()
    varied = values.amax((-2, -1), keepdim=True) > values.amin((-2, -1), keepdim=True)
    return connected_components((values > values.mean((-2, -1), keepdim=True)) & varied, connectivity)


def component_at(mask: Tensor, cells: Tensor, connectivity: int = 8) -> Tensor:
    """The component of each map that holds a given cell.

    Args:
        mask: `[B, Y, X]` bool.
        cells: int64 `[B]`, one cell of each map, numbered in reading order.
        connectivity: 4 or 8.

    Returns:
        `[B, Y, X]` bool; nowhere True where the cell is not in the mask.

    Raises:
        ValueError: as `connected_components`, and for shapes that do not fit.
    """
    if mask.ndim != 3 or cells.shape != (len(mask),):
        raise ValueError(f"mask is {list(mask.shape)} and cells {list(cells.shape)}; give [B, Y, X] and [B]")
    labels = connected_components(mask, connectivity).flatten(1)
    own = labels.gather(1, cells[:, None])
    return ((labels == own) & (own > 0)).view_as(mask)


def has_gpu_kernel(maps: Tensor) -> bool:
    """Whether maps `[..., Y, X]` lie on a GPU, with Triton at hand, and are small enough for its kernels."""
    return _TRITON and maps.is_cuda and maps.shape[-2] * maps.shape[-1] <= _MOST_CELLS
