"""Where a localizer finds an object: its map over the image, the box of it, and the annotated boxes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from vitrail.metrics.localization import best_iou
from vitrail.viz.attention import overlay
from vitrail.viz.canvas import PAPER, Array, Color, Theme, fit, sheet, to_image
from vitrail.viz.lit import lit

FOUND: Color = (255, 205, 0)
TRUE: Color = (255, 255, 255)


class Found(NamedTuple):
    """One image, what was found in it, and what is known of it."""

    image: Tensor  # [3, H, W], normalized
    map: Tensor | None  # [H, W], or None where nothing locates
    box: Tensor | None  # [4] half-open x0 y0 x1 y1, pixels of the image
    truth: Tensor | None  # [n, 4], the annotated ones; None where none are known
    right: bool | None = None  # whether the predicted class is right; None where that is not known


def located_sheet(
    found: Sequence[Found], mean: Sequence[float], std: Sequence[float], *, cell: int = 160, theme: Theme = PAPER
) -> Image.Image:
    """For each image two pictures, one above the other: with the annotated boxes, and its map with all boxes.

    Args:
        found: at least one, each with a map.
        mean, std: as the images were normalized.
        cell: longer side of one picture, pixels.

    Raises:
        ValueError: for no image, and maps that are missing or not finite.
    """
    above: list[Image.Image | None] = []
    below: list[Image.Image | None] = []
    words = []
    for each in found:
        if each.map is None:
            raise ValueError("an image comes without a map, so nothing can be drawn; give those that were located")
        image = fit(to_image(each.image, mean, std), cell)
        scale = image.width / each.image.shape[2]
        heat = overlay(image, each.map, smooth=True)
        truth = [] if each.truth is None else list(each.truth)
        above.append(framed(image, truth, TRUE, scale))
        below.append(framed(framed(heat, truth, TRUE, scale), [] if each.box is None else [each.box], FOUND, scale))
        words.append(_words(each))
    return sheet([above, below], captions=[[""] * len(above), words], theme=theme)


def boxed_picture(
    image: Image.Image,
    map_: Tensor | Array,
    mask: Image.Image,
    boxes: Sequence[Tensor],
    scale: float = 1.0,
    words: str = "",
    *,
    theme: Theme = PAPER,
) -> Image.Image:
    """Two pictures side by side: the object lit and boxed in the image, and the map over it.

    Args:
        image: RGB, as large as it is to be drawn.
        map_: `[Y, X]`, finite, over all of the image.
        mask: mode L, the image's size; 255 on the object.
        boxes: `[4]` each, half-open, in the image's pixels divided by `scale`.
        scale: of the image to that in which boxes are.
        words: stand below.

    Raises:
        ValueError: a mask of another size, or a map that is not finite.
    """
    object_ = framed(lit(image, mask), boxes, FOUND, scale)
    heat = framed(overlay(image, map_, smooth=True), boxes, FOUND, scale)
    return sheet([[object_, heat]], captions=[[words, ""]], theme=theme)


def framed(
    image: Image.Image, boxes: Sequence[Tensor], color: Color, scale: float = 1.0, *, width: int = 1
) -> Image.Image:
    """The image with boxes drawn, `[4]` half-open, in its pixels divided by `scale`, between dark rims of a pixel."""
    image = image.copy()
    pen = ImageDraw.Draw(image)
    for box in boxes:
        left, top, right, bottom = (torch.as_tensor(box).double() * scale).round().tolist()
        for wider, wide, ink in ((1, width + 2, (20, 20, 20)), (0, width, color)):
            corners = (left - wider, top - wider, max(right - 1, left) + wider, max(bottom - 1, top) + wider)
            pen.rectangle(corners, outline=ink, width=wide)
    return image


def _words(each: Found) -> str:
    parts = [] if each.right is None else ["class right" if each.right else "class wrong"]
    if each.box is not None and each.truth is not None and len(each.truth):
        parts.append(f"IoU {overlap_of(each.box, each.truth):.2f}")
    return ", ".join(parts)


def overlap_of(box: Tensor, truth: Tensor) -> float:
    """The largest intersection over union of a box `[4]` with boxes `[n, 4]`, half-open."""
    return float(best_iou(box[None], truth)[0])
