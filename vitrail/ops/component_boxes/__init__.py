"""Boxes of the connected components of {map > t}, for a whole list of thresholds t in one pass over each map.

With a falling threshold components appear, grow and join, and never fall apart: they are the nodes of a tree. So each
is found once and listed once, with the thresholds over which it does not change, and a hundred thresholds cost hardly
more than one. `cpu` (numba) adds pixels from the highest down and joins them by union-find; `reference` (plain torch)
labels {map > t} anew for each t and is the definition.

Components are 8-connected, as the outlines that OpenCV's `findContours` finds, and a box is its `boundingRect`. OpenCV
in its modes of trees and lists also gives the outlines of holes: these are listed where `holes` is asked for, a hole
being a 4-connected region of {map <= t} that does not reach the map's rim, its box one pixel wider on each side than
the hole, because the outline runs on the pixels around it.

The largest component of a threshold is that of the largest `contourArea`: the area of the polygon through the centers
of its outer outline's pixels, holes filled, so that a line has none; of equal ones that whose first pixel in reading
order comes last, which is the first in OpenCV's list. With `largest="pixels"` it is that of most pixels, the same rule
for equal ones.

Source: component trees by union-find as in Najman and Couprie 2006, "Building the component tree in quasi-linear
time"; outlines as in Suzuki and Abe 1985, "Topological structural analysis of digitized binary images by border
following".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

__all__ = ["ComponentBoxes", "Largest", "best_overlaps", "component_boxes"]

Largest = Literal["contour", "pixels"]
_MOST = 65_535  # thresholds, and pixels a side: a pixel's level and either coordinate are kept in 16 bits


class ComponentBoxes(NamedTuple):
    """Components of N maps at T thresholds, map after map; M in all. On the CPU."""

    boxes: Tensor  # [M, 4] int32, half-open x0 y0 x1 y1 in pixels
    pixels: Tensor  # [M] int32, how many; 0 for a hole
    first: Tensor  # [M] int32, the first threshold's number at which it is a component
    last: Tensor  # [M] int32, and the last one's, included
    starts: Tensor  # [N + 1] int64: those of map n are starts[n] to starts[n + 1]
    largest: Tensor  # [N, T] int64, which of the M is the largest; -1 where nothing is above the threshold


def component_boxes(
    maps: Tensor, thresholds: Tensor, *, largest: Largest = "contour", holes: bool = False
) -> ComponentBoxes:
    """All components of {map > t} for each threshold t.

    Args:
        maps: `[N, Y, X]`, any real type, on any device; finite.
        thresholds: `[T]` rising strictly, at most 65,535, compared as the maps' type.
        largest: which component counts as the largest, see the module.
        holes: list holes, too; they are never the largest.

    Returns:
        A component is listed once, for all thresholds from `first` to `last`; order within a map has no meaning.

    Raises:
        ValueError: wrong shapes, NaN, thresholds that do not rise, a side above 65,535, or another `largest`.
    """
    if maps.ndim != 3 or thresholds.ndim != 1 or not len(thresholds):
        raise ValueError(
            f"maps are {list(maps.shape)}, thresholds {list(thresholds.shape)}; give maps [N, Y, X] and one or more "
            "thresholds [T]"
        )
    if len(thresholds) > _MOST or not bool((thresholds[1:] > thresholds[:-1]).all()):
        raise ValueError(f"thresholds have to rise strictly and be at most {_MOST:,}; sort them and drop equal ones")
    if max(maps.shape[1:]) > _MOST or maps.shape[1] * maps.shape[2] >= 2**31:
        raise ValueError(
            f"maps are {maps.shape[1]:,} x {maps.shape[2]:,} pixels; sides go to {_MOST:,}, pixels to {2**31 - 1:,}: "
            "make them smaller"
        )
    if largest not in ("contour", "pixels"):
        raise ValueError(f'largest is "contour" or "pixels", not {largest!r}')
    from vitrail.ops.component_boxes import cpu

    return ComponentBoxes(*cpu.component_boxes(levels_of(maps, thresholds), len(thresholds), largest, holes))


def levels_of(maps: Tensor, thresholds: Tensor) -> np.ndarray:
    """How many of the thresholds each pixel is above: uint16 `[N, Y, X]`; {map > thresholds[t]} is {level > t}."""
    if maps.is_floating_point() and not bool(maps.isfinite().all()):
        raise ValueError("maps hold NaN or infinity; a component of them has no meaning")
    if maps.dtype == torch.uint8:  # in NumPy: torch's threads, once woken, keep cores from those of the kernel
        every = np.searchsorted(thresholds.cpu().numpy(), np.arange(256)).astype(np.uint16)
        return np.take(every, maps.cpu().numpy())
    return torch.bucketize(maps, thresholds.to(maps.device)).cpu().numpy().astype(np.uint16)


def best_overlaps(
    components: ComponentBoxes, boxes: Sequence[Tensor], *, inclusive: bool = False, rim: tuple[int, int] | None = None
) -> tuple[Tensor, Tensor]:
    """Of each map and threshold, the component that overlaps best with any of the map's boxes.

    Args:
        components: of N maps.
        boxes: N of `[n, 4]` x0 y0 x1 y1, pixels of the map; n may be 0.
        inclusive: x1 and y1 are the last pixels inside, so that a box is x1 - x0 + 1 wide, of both.
        rim: y and x that components' boxes are cut to before, such as the last row and column; None cuts nothing.

    Returns:
        Intersection over union `[N, T]` float64 in [0, 1], and which component it is `[N, T]` int64, of equal ones the
        first. Where a threshold has no component it is 0 and -1; where a map has no boxes, 0.
    """
    if len(boxes) != len(components.starts) - 1:
        raise ValueError(f"{len(boxes)} lists of boxes for {len(components.starts) - 1} maps; give one for each map")
    from vitrail.ops.component_boxes import cpu

    return cpu.best_overlaps(components, boxes, inclusive, rim)
