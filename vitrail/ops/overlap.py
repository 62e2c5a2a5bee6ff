"""What two crops of one image have in common, in the coordinates of each.

A crop is (left, top, right, bottom) in pixels of the image, left > right where it was flipped (`contracts.Crops`).
"""

from __future__ import annotations

import torch
from torch import Tensor


def overlap(one: Tensor, other: Tensor) -> Tensor:
    """The box that two crops share.

    Args:
        one, other: `[B, 4]` crops of the same images.

    Returns:
        `[B, 4]` left, top, right, bottom in pixels of the image, left < right.

    Raises:
        ValueError: where two crops have nothing in common; says which, and what to do.
    """
    if one.shape != other.shape or one.shape[-1:] != (4,):
        raise ValueError(f"crops are {list(one.shape)} and {list(other.shape)}; both are [B, 4]")
    (first, last), (first_too, last_too) = _corners(one), _corners(other)
    start, stop = torch.maximum(first, first_too), torch.minimum(last, last_too)
    apart = (stop <= start).any(-1)
    if apart.any():
        row = int(apart.nonzero()[0])
        raise ValueError(
            f"image {row} of the batch: the crops {one[row].tolist()} and {other[row].tolist()} do not overlap, so no "
            "patches can be aligned; crop with vitrail.data.OverlappingCrops, or raise its global_overlap and "
            "local_overlap"
        )
    return torch.cat((start, stop), -1)


def within(box: Tensor, crop: Tensor, grid: tuple[int, int]) -> Tensor:
    """A box of the image in the patches of a crop.

    Args:
        box: `[B, 4]` left, top, right, bottom in pixels of the image.
        crop: `[B, 4]`, where the crop was cut out.
        grid: (Y, X) patches of the crop.

    Returns:
        `[B, 4]` in patches, 0 to X and Y, for `vitrail.ops.roi.roi_align`; left > right where the crop was flipped, so
        that what is aligned is unflipped.
    """
    left, top, right, bottom = crop.double().unbind(-1)
    rows, columns = grid
    x = (box.double()[:, 0::2] - left[:, None]) / (right - left)[:, None] * columns
    y = (box.double()[:, 1::2] - top[:, None]) / (bottom - top)[:, None] * rows
    # Division may leave the last bit outside.
    x, y = x.clamp(0, columns), y.clamp(0, rows)
    return torch.stack((x[:, 0], y[:, 0], x[:, 1], y[:, 1]), -1)


def _corners(crop: Tensor) -> tuple[Tensor, Tensor]:
    """Left top and right bottom, whichever way round the crop is given."""
    ends = crop.reshape(-1, 2, 2)
    return ends.amin(1), ends.amax(1)
