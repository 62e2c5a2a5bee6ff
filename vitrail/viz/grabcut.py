"""How a mask of the object comes about: image, attention, trimap, plain mask, GrabCut's mask, and that over the image.

Everything is drawn in the image's own shape, though it is cut squashed; a thin line tells where masks and trimap end,
which may be as white as the paper. In the trimap white is surely object, orange uncertain, and dark surely background;
GrabCut decides on the orange pixels alone.

Source: after LocLoc's supplement, Figure 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor

from vitrail.ops.grabcut import BACKGROUND, OBJECT, UNCERTAIN, ObjectMask
from vitrail.viz.attention import overlay
from vitrail.viz.canvas import PAPER, Array, Color, Theme, edged, fit, sheet
from vitrail.viz.lit import lit
from vitrail.viz.percent import percent

MARKS: dict[int, Color] = {BACKGROUND: (46, 52, 64), OBJECT: (255, 255, 255), UNCERTAIN: (240, 150, 40)}


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
        [_pictures(row, fit(row.image, cell), theme) for row in rows],
        captions=[_captions(row) for row in rows],
        row_titles=titles,
        column_titles=["image", "attention", "trimap", "plain mask", "GrabCut mask", "object"],
        theme=theme,
    )


def marked(marks: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """A trimap in colors, at `size` (width, height) in pixels."""
    palette = np.array([MARKS[number] for number in range(3)], np.uint8)
    return Image.fromarray(palette[marks]).resize(size, Image.Resampling.NEAREST)


def _pictures(row: Stages, image: Image.Image, theme: Theme) -> list[Image.Image]:
    plain, enhanced = (_stretched(mask, image.size) for mask in (row.found.plain, row.found.enhanced))
    seen = overlay(image, row.attention, low=0, high=1)
    framed = [edged(each, theme) for each in (marked(row.marks, image.size), plain, enhanced)]
    return [image, seen, *framed, lit(image, enhanced)]


def _captions(row: Stages) -> list[str]:
    object_, uncertain = (_share(row.marks == number) for number in (OBJECT, UNCERTAIN))
    decided = _share(row.found.enhanced[row.marks == UNCERTAIN]) if (row.marks == UNCERTAIN).any() else None
    words = f"{_share(row.found.enhanced)} of the image"
    if row.found.fallback:
        words = f"the plain mask: {row.found.fallback}"
    elif decided is not None:
        words += f", with {decided} of the uncertain pixels"
    return ["", "", f"{object_} object, {uncertain} uncertain", f"{_share(row.found.plain)} of the image", words, ""]


def _share(mask: np.ndarray) -> str:
    return percent(float(mask.mean()))


def _stretched(mask: np.ndarray, size: tuple[int, int]) -> Image.Image:
    picture = Image.fromarray((mask > 0).astype(np.uint8) * 255)
    return picture.resize(size, Image.Resampling.NEAREST)
