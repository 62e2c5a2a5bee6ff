"""Crops of one image that overlap, with their boxes, for methods that align patches of what two crops have in common.

Two global crops and a number of local ones, as `vitrail.data.views` makes them; drawn until every crop shares at least
a share of the image's area with each global one. Where the image has a companion (a neighbor, say), one more global
crop is cut from that, or from the image itself where it has none, as the last view.

Source: Leopart, Ziegler and Asano 2022 (arXiv 2204.13101), whose values are the defaults: crops of [0.25, 1] and
[0.05, 0.25] of the image, overlaps of at least 1 % of it (2 % between the global ones), no flip.

Differences: where `TRIES` draws of a crop bring no overlap, which happens with narrow images, the crop is moved to the
middle of the global ones' overlap, instead of drawing on.
"""

from __future__ import annotations

from typing import Self

import numpy as np
import torch
from pydantic import Field

from vitrail.contracts import Crops
from vitrail.data.transforms import Picture, random_crop, rgb_pixels
from vitrail.data.views import GLOBAL_VIEWS, MultiCrop, MultiCropConfig

TRIES = 50
"""Draws of one crop before it is moved to where it overlaps."""

Box = tuple[int, int, int, int]


class OverlappingConfig(MultiCropConfig):
    """Which views of an image are made. By default Leopart's, with four local crops."""

    locals: int = Field(default=4, ge=0)
    """How many local views."""
    global_scale: tuple[float, float] = (0.25, 1.0)
    """Share of the image's area that a global crop covers, least and most."""
    local_scale: tuple[float, float] = (0.05, 0.25)
    """Share of the image's area that a local crop covers, least and most."""
    flip: float = Field(default=0.0, ge=0, le=1)
    """Probability of a horizontal flip, for each view."""
    color_jitter: tuple[float, float, float, float] = (0.8, 0.8, 0.8, 0.2)
    """Brightness, contrast, saturation and hue, as in `MultiCropConfig`."""
    blur: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Probability of a Gaussian blur: of the first global view, of the second, of each local one."""
    solarize: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Probability that levels from 128 on are inverted: of the first global view, of the second, of each local one."""
    global_overlap: float = Field(default=0.02, ge=0, le=0.25)
    """Least share of the image that the two global crops have in common."""
    local_overlap: float = Field(default=0.01, ge=0, le=0.25)
    """Least share of the image that a local crop has in common with each global one."""

    @classmethod
    def tiny(cls, image_size: int = 48) -> Self:
        """For generated scenes and other small images: two local views of half the size, and no blur."""
        return cls(
            global_size=image_size,
            local_size=max(1, image_size // 2),
            locals=2,
            local_scale=(0.1, 0.4),
            color_jitter=(0.4, 0.4, 0.2, 0.1),
            blur=(0.0, 0.0, 0.0),
        )


class OverlappingCrops:
    """The callable of an `OverlappingConfig`. It can be pickled, and draws from the global generator of `random`."""

    def __init__(self, config: OverlappingConfig, companion: bool = False) -> None:
        """Args:
        companion: make one more global view, of the companion, the last one.
        """
        self.config, self.companion = config, companion
        self._views = MultiCrop(config)

    def __call__(self, image: Picture, companion: Picture | None = None) -> Crops:
        """Two views `[3, global_size, global_size]`, the local ones, and where wanted the companion's.

        The box of the companion's view is in pixels of the companion; nothing is aligned with it.

        Raises `ValueError` for an image that is not RGB.
        """
        levels = rgb_pixels(image)
        boxes = self.boxes((levels.shape[1], levels.shape[0]))
        kinds = (0, 1, *[GLOBAL_VIEWS] * self.config.locals)
        views = [self._views.view(levels, kind, box) for kind, box in zip(kinds, boxes, strict=True)]
        if self.companion:
            other = levels if companion is None else rgb_pixels(companion)
            views.append(self._views.view(other, 1))
        return Crops(
            tuple(view.pixels for view in views),
            torch.tensor([turned(view.box, view.flipped) for view in views], dtype=torch.float64),
        )

    def boxes(self, size: tuple[int, int]) -> list[Box]:
        """Boxes (left, top, right, bottom) of the global and the local crops in an image of (width, height) pixels."""
        config, area = self.config, size[0] * size[1]
        first = random_crop(size, config.global_scale, config.ratio)
        second = self._overlapping(size, config.global_scale, [first], config.global_overlap * area)
        locals_ = [
            self._overlapping(size, config.local_scale, [first, second], config.local_overlap * area)
            for _ in range(config.locals)
        ]
        return [first, second, *locals_]

    def _overlapping(self, size: tuple[int, int], scale: tuple[float, float], others: list[Box], least: float) -> Box:
        box = random_crop(size, scale, self.config.ratio)
        for _ in range(TRIES):
            if all(shared(box, other) >= max(least, 1) for other in others):
                return box
            box = random_crop(size, scale, self.config.ratio)
        return _moved(box, _common(others), size)


def shared(one: Box, other: Box) -> int:
    """The area, in pixels, that two boxes have in common."""
    left, top, right, bottom = _common([one, other])
    return max(right - left, 0) * max(bottom - top, 0)


def turned(box: Box, flipped: bool) -> Box:
    """A box as `Crops` says it: left and right change places where the view is flipped."""
    left, top, right, bottom = box
    return (right, top, left, bottom) if flipped else box


def _common(boxes: list[Box]) -> Box:
    sides = np.array(boxes)
    left, top = (int(value) for value in sides[:, :2].max(0))
    right, bottom = (int(value) for value in sides[:, 2:].min(0))
    return left, top, right, bottom


def _moved(box: Box, target: Box, size: tuple[int, int]) -> Box:
    """The box with its middle in the middle of the target, or as near as the image allows."""
    moved = []
    for axis in (0, 1):
        length = box[axis + 2] - box[axis]
        start = (target[axis] + target[axis + 2] - length) // 2
        moved.append(min(max(start, 0), size[axis] - length))
    return moved[0], moved[1], moved[0] + box[2] - box[0], moved[1] + box[3] - box[1]
