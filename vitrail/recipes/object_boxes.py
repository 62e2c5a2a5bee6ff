"""The boxes and masks of a map at one threshold, in pixels of the image: what `vitrail localize` writes.

Boxes are those that `vitrail.evaluation.localization` measures: of the components of {map > t}, in the view that the
image was shown in. A mask is the component brought to the image's size, its rim where the enlarged map falls below the
threshold; it lies in its box.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import max_pool2d

from vitrail.data.transforms import Geometry
from vitrail.evaluation.located import LEVELS, Contour, components_above, whole_levels
from vitrail.ops.components import connected_components


class Window(NamedTuple):
    """Pixels of an image, half-open."""

    left: int
    top: int
    right: int
    bottom: int


class ObjectBox(NamedTuple):
    """One component of a map."""

    box: tuple[float, float, float, float]  # half-open x0 y0 x1 y1 in pixels of the image
    score: float  # mean of the map in the component, above the threshold and at most 1
    window: Window  # the pixels whose centers lie in the box, at least one
    mask: np.ndarray  # [bottom - top, right - left] bool, those of the object, at least one

    @property
    def area(self) -> int:
        """Pixels of the mask."""
        return int(self.mask.sum())


def object_boxes(values: Tensor, level: int, geometry: Geometry, which: Contour = "largest") -> list[ObjectBox]:
    """Boxes of the components of a map above a threshold, the largest first; none for a constant map.

    Args:
        values: `[h, w]` in [0, 1], the map in its view, stretched (`vitrail.evaluation.located`).
        level: the threshold as a whole number, 0 to 254: a pixel counts from (level + 1) / 255 on.
        geometry: how the image came into the view.
        which: the "largest" component as the protocol has it, or "all" by their number of pixels.
    """
    found = components_above(values[None], (level,))
    order = found.largest[0] if which == "largest" else found.pixels.argsort(descending=True, stable=True)
    labels = connected_components(whole_levels(values) > level)
    names = _by_box(labels)
    boxes = []
    for number in order.tolist():
        if number >= 0:
            box = tuple(found.boxes[number].tolist())
            boxes.append(_in_image(values, labels == names[box], level, geometry, found.boxes[number]))
    return boxes


def large_enough(
    boxes: Sequence[ObjectBox], size: tuple[int, int], min_area: float = 0.0, top: int | None = None
) -> list[ObjectBox]:
    """Boxes whose object covers at least a share of the image, by falling area, at most `top` of them.

    Args:
        boxes: of one image.
        size: of the image, (height, width).
        min_area: share of its pixels, in [0, 1).
        top: None for all.
    """
    least = min_area * size[0] * size[1]
    return sorted((each for each in boxes if each.area >= least), key=lambda each: -each.area)[:top]


def laid(values: Tensor, geometry: Geometry, window: Window | None = None) -> np.ndarray:
    """A view's map `[h, w]` in pixels of the image, bilinear: float32 of a window, by default of the whole image.

    What the view left out is 0.
    """
    height, width = geometry.source
    left, top, right, bottom = window or Window(0, 0, width, height)
    down, across = (new / old for new, old in zip(geometry.resized, geometry.source, strict=True))
    move = (across, 0, left * across - geometry.shift[1], 0, down, top * down - geometry.shift[0])
    view = Image.fromarray(values.numpy().astype(np.float32))
    size = (right - left, bottom - top)
    return np.asarray(view.transform(size, Image.Transform.AFFINE, move, Image.Resampling.BILINEAR))


def _by_box(labels: Tensor) -> dict[tuple[int, ...], int]:
    """The component's number by its box. Two of one box there are not: where one joins left and right of the box and
    another one top and bottom, they meet."""
    rows, columns = labels.nonzero(as_tuple=True)
    which, count = labels[rows, columns] - 1, int(labels.max())

    def edge(values: Tensor, how: str) -> Tensor:
        return torch.zeros(count, dtype=torch.int64).scatter_reduce(0, which, values, how, include_self=False)

    edges = [edge(columns, "amin"), edge(rows, "amin"), edge(columns, "amax") + 1, edge(rows, "amax") + 1]
    return {tuple(box): number for number, box in enumerate(torch.stack(edges, 1).tolist(), start=1)}


def _in_image(values: Tensor, own: Tensor, level: int, geometry: Geometry, box: Tensor) -> ObjectBox:
    height, width = geometry.source
    corners = np.clip(geometry.back(box[None].numpy())[0], 0, [width, height, width, height])
    left, top, right, bottom = (round(float(value), 2) for value in corners)
    (first, behind), (above, below) = _pixels(left, right, width), _pixels(top, bottom, height)
    window = Window(first, above, behind, below)
    around = max_pool2d(own.float()[None, None], 3, 1, 1)[0, 0] > 0  # no other component is that near
    mask = laid(torch.where(around, values, 0), geometry, window) * LEVELS >= level + 1
    if not mask.any():  # of an image smaller than its view, between whose pixels it fell
        mask[mask.shape[0] // 2, mask.shape[1] // 2] = True
    return ObjectBox((left, top, right, bottom), float(values[own].mean()), window, mask)


def _pixels(start: float, end: float, side: int) -> tuple[int, int]:
    """From the first pixel whose center lies in [start, end) to the one behind the last; where there is none, the pixel
    that holds the middle."""
    first, behind = math.ceil(start - 0.5), math.ceil(end - 0.5)
    middle = min(int((start + end) / 2), side - 1)
    return (first, behind) if first < behind else (middle, middle + 1)
