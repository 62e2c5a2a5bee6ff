"""How far maps are from masks of their objects: half of the mean squared difference.

    L = 1/2 mean over images and cells of (F - M)^2,   M averaged over the pixels of each cell

Source: the loss of LocLoc's and PPD's generators, of which the released code takes the half.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def mask_regression(maps: Tensor, masks: Tensor) -> Tensor:
    """The loss, a scalar, computed in float32 or wider.

    Args:
        maps: `[B, h, w]`, any real numbers.
        masks: `[B, H, W]`, 0 to 1; averaged over cells where h and w differ from H and W.

    Raises:
        ValueError: for other axes, or numbers of images that differ.
    """
    if maps.ndim != 3 or masks.ndim != 3 or len(maps) != len(masks):
        raise ValueError(f"maps are {list(maps.shape)} and masks {list(masks.shape)}; give [B, h, w] and [B, H, W]")
    wide = maps if maps.dtype.itemsize >= 4 else maps.float()
    return (wide - on_cells(masks.to(wide.dtype), (maps.shape[1], maps.shape[2]))).square().mean() / 2


def on_cells(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Masks `[B, H, W]` averaged to `[B, h, w]`: each cell's share of the object."""
    return functional.adaptive_avg_pool2d(masks[:, None], size)[:, 0]
