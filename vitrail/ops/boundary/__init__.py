"""How regions of two label maps agree: pixels in common, and outlines that lie near each other.

The outline of a region is the set of pixels of which the right, the lower or the lower right neighbor (where the image
has it) is on the other side. A pixel of an outline is matched where the other outline has a pixel within a distance of
`radius`, center to center: it lies in the other outline dilated by the disk x^2 + y^2 <= radius^2. All objects of all
maps at once: `cpu` (numba) lists the outlines' pixels in one scan and compares the lists row by row, so that its cost
beyond the scan grows with the outlines' length and not with the image; `reference` (plain torch) is the definition.

Source: Perazzi et al. 2016, "A benchmark dataset and evaluation methodology for video object segmentation"; outlines as
in Martin et al. 2004, "Learning to detect natural image boundaries".
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["RegionCounts", "region_counts"]


class RegionCounts(NamedTuple):
    """Numbers of pixels, int64 `[T, K]` each: of T maps and the objects 1, ..., K."""

    both: Tensor  # in the object on both maps
    either: Tensor  # on at least one of them
    first_outline: Tensor
    second_outline: Tensor
    first_matched: Tensor  # of the first outline, near the second one
    second_matched: Tensor


def region_counts(first: Tensor, second: Tensor, objects: int, radius: int) -> RegionCounts:
    """Compare the objects of two stacks of label maps.

    Args:
        first, second: uint8 `[T, Y, X]`; k = 1, ..., `objects` is object k, all other values are no object.
        objects: K, 1 to 255.
        radius: pixels, at least 0; 0 wants outlines to be the same.

    Returns:
        Counts on the CPU, where all of it is computed.

    Raises:
        ValueError: maps that are not uint8 `[T, Y, X]` of one shape, or numbers out of range.
    """
    for name, maps in (("first", first), ("second", second)):
        if maps.dtype != torch.uint8 or maps.ndim != 3:
            raise ValueError(f"{name} is {maps.dtype} {list(maps.shape)}; give label maps, torch.uint8 [T, Y, X]")
    if first.shape != second.shape:
        raise ValueError(f"first is {list(first.shape)} and second {list(second.shape)}; give maps of one size")
    if not 1 <= objects <= 255 or radius < 0:
        raise ValueError(f"objects is {objects}, radius {radius}; give 1 to 255 objects and a radius of at least 0")
    from vitrail.ops.boundary import cpu

    return RegionCounts(*cpu.region_counts(first, second, objects, int(radius)).unbind(2))
