"""What a localizer finds in images of a data set: each image with its boxes, below it the map and the boxes again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from vitrail.viz.attention import overlay
from vitrail.viz.canvas import PAPER, Theme, fit, grayed, sheet, widened
from vitrail.viz.located import FOUND, TRUE, framed

Box = Sequence[float]
NARROW = 140
"""Pixels that captions want at least."""


class Example(NamedTuple):
    """One image and its outcome; boxes are half-open x0 y0 x1 y1 in pixels of the image."""

    image: Image.Image  # whole
    map: Tensor  # [h, w], finite
    frame: Box  # the part of the image that the map lies over
    box: Box | None  # what was found; None where the map is constant
    truth: Sequence[Box] = ()
    caption: str = ""


def located_gallery(
    examples: Sequence[Example], *, columns: int = 4, cell: int = 210, theme: Theme = PAPER
) -> Image.Image:
    """Two pictures an image, one above the other; found boxes are yellow, annotated ones white.

    Maps are drawn from their lowest to their highest value; what they do not lie over is gray.

    Args:
        examples: at least one.
        columns: images side by side.
        cell: longer side of one picture, pixels.
        theme: `PAPER` or `LEAD`.

    Raises:
        ValueError: no example, fewer than one column, a map that is not finite `[h, w]`, or one that lies beside its
            image.
    """
    if not examples:
        raise ValueError("a gallery needs at least one image")
    if columns < 1:
        raise ValueError(f"columns is {columns}; give at least 1")
    rows: list[list[Image.Image | None]] = []
    words: list[list[str]] = []
    for start in range(0, len(examples), columns):
        part = examples[start : start + columns]
        pairs = [_pair(each, cell, theme) for each in part]
        rows += [[above for above, _ in pairs], [below for _, below in pairs]]
        words += [[""] * len(part), [each.caption for each in part]]
    return sheet(rows, captions=words, theme=theme, text_size=16)


def mapped(image: Image.Image, values: Tensor, frame: Box) -> Image.Image:
    """The image in gray, with a map in color over the part `frame` of it. `ValueError` where that is outside."""
    left, top, right, bottom = (round(float(side)) for side in frame)
    inside = (max(left, 0), max(top, 0), min(right, image.width), min(bottom, image.height))
    if inside[2] <= inside[0] or inside[3] <= inside[1]:
        raise ValueError(f"a map over {list(frame)} lies outside of its image of {image.width} x {image.height} pixels")
    gray = grayed(image)
    gray.paste(overlay(image.crop(inside), values, smooth=True), inside[:2])
    return gray


def _pair(example: Example, cell: int, theme: Theme) -> tuple[Image.Image, Image.Image]:
    image = fit(example.image, cell)
    across, down = (new / old for new, old in zip(image.size, example.image.size, strict=True))
    scale = torch.tensor([across, down, across, down], dtype=torch.float64)

    def scaled(boxes: Sequence[Box]) -> list[Tensor]:
        return [torch.tensor(box, dtype=torch.float64) * scale for box in boxes]

    (frame,), truth = scaled([example.frame]), scaled(example.truth)
    found = [] if example.box is None else scaled([example.box])
    above, below = (
        widened(framed(framed(picture, truth, TRUE, width=2), found, FOUND, width=2), NARROW, theme)
        for picture in (image, mapped(image, example.map, frame.tolist()))
    )
    return above, below
