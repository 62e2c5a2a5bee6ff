"""How a mask of the object comes about: image, attention, trimap, plain mask, GrabCut's mask, and that over the image.

Everything is drawn in the image's own shape, though it is cut squashed. In the trimap white is surely object, orange
uncertain, and dark surely background; GrabCut decides on the orange pixels alone.

Source: after LocLoc's supplement, Figure 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageChops, ImageFilter, ImageOps
from torch import Tensor

from vitrail.ops.grabcut import BACKGROUND, OBJECT, UNCERTAIN, ObjectMask
from vitrail.viz.attention import overlay
from vitrail.viz.canvas import PAPER, Array, Color, Theme, fit, sheet

MARKS: dict[int, Color] = {BACKGROUND: (46, 52, 64), OBJECT: (255, 255, 255), UNCERTAIN: (240, 150, 40)}
RIM: Color = (240, 150, 40)


class Stages(NamedTuple):
    """What led to the masks of one image. Maps and masks lie over all of it, squashed."""

    image: Image.Image
    attention: Tensor | Array  # [Y, X] in [0, 1], finite
    marks: np.ndarray  # [S, S] uint8, a trimap
    found: ObjectMask  # [S, S]
    title: str = ""


def grabcut_sheet(rows: Sequence[Stages], *, cell: int = 224, theme: Theme = PAPER) -> Image.Image:
    """A row for each image, from left to right; captions tell shares of the image, and why GrabCut decided nothing.

    Args:
        rows: at least one.
        cell: longer side of a picture, pixels.
        theme: `PAPER` or `LEAD`.

    Raises:
        ValueError: no row, attention that is not finite `[Y, X]`, or a trimap or masks that are not `[S, S]` of one S.
    """
    if not rows:
        raise ValueError("a sheet of masks needs at least one image")
    for row in rows:
        shapes = [part.shape for part in (row.marks, row.found.enhanced, row.found.plain)]
        if len(set(shapes)) > 1 or row.marks.ndim != 2:
            raise ValueError(f"trimap, enhanced and plain mask are {', '.join(map(str, shapes))}; give one [S, S]")
    titles = [row.title for row in rows] if any(row.title for row in rows) else []
    return sheet(
        [_pictures(row, fit(row.image, cell)) for row in rows],
        captions=[_captions(row) for row in rows],
        row_titles=titles,
        column_titles=["image", "attention", "trimap", "plain mask", "GrabCut mask", "object"],
        theme=theme,
    )


def marked(marks: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """A trimap in colors, at `size` (width, height) in pixels."""
    palette = np.array([MARKS[number] for number in range(3)], np.uint8)
    return Image.fromarray(palette[marks]).resize(size, Image.Resampling.NEAREST)


def lit(image: Image.Image, mask: np.ndarray) -> Image.Image:
    """The image, gray and dark beside a mask `[S, S]` of zeros and ones that lies over all of it, with a rim."""
    inside = _stretched(mask, image.size)
    dark = ImageOps.grayscale(image).point(lambda value: value // 3).convert("RGB")
    rim = ImageChops.difference(inside, inside.filter(ImageFilter.MinFilter(3)))
    picture = Image.composite(image.convert("RGB"), dark, inside)
    picture.paste(RIM, mask=rim)
    return picture


def _pictures(row: Stages, image: Image.Image) -> list[Image.Image]:
    masks = [_stretched(mask, image.size) for mask in (row.found.plain, row.found.enhanced)]
    seen = overlay(image, row.attention, low=0, high=1)
    return [image, seen, marked(row.marks, image.size), *masks, lit(image, row.found.enhanced)]


def _captions(row: Stages) -> list[str]:
    object_, uncertain = (_percent(row.marks == number) for number in (OBJECT, UNCERTAIN))
    decided = _percent(row.found.enhanced[row.marks == UNCERTAIN]) if (row.marks == UNCERTAIN).any() else None
    words = f"{_percent(row.found.enhanced)} of the image"
    if row.found.fallback:
        words = f"the plain mask: {row.found.fallback}"
    elif decided is not None:
        words += f", with {decided} of the uncertain pixels"
    return ["", "", f"{object_} object, {uncertain} uncertain", f"{_percent(row.found.plain)} of the image", words, ""]


def _percent(mask: np.ndarray) -> str:
    return f"{100 * float(mask.mean()):.0f}\u00a0%"


def _stretched(mask: np.ndarray, size: tuple[int, int]) -> Image.Image:
    picture = Image.fromarray((mask > 0).astype(np.uint8) * 255)
    return picture.resize(size, Image.Resampling.NEAREST)
