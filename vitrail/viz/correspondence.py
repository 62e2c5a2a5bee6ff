"""Matched patches of two images joined by lines, and one patch of the first as heat over the second.

After CoTAP's Figures 13 and 14.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from vitrail.viz.attention import overlay
from vitrail.viz.canvas import PAPER, Array, Color, Theme, fit, sheet
from vitrail.viz.similarity import Patch, cosine_map, framed

Grid = tuple[int, int]
GAP = 24
"""Pixels between the two images."""
_LARGE = 2  # lines are drawn this much larger and averaged down


def match_lines(
    images: tuple[Image.Image, Image.Image],
    grids: tuple[Grid, Grid],
    matches: Sequence[tuple[int, int]],
    *,
    right: Sequence[bool] | None = None,
    cell: int = 360,
    theme: Theme = PAPER,
) -> Image.Image:
    """The two images side by side, and a line from each patch to its match.

    Args:
        images: the first one left.
        grids: (Y, X) of their patches.
        matches: places (of the first, of the second) in raster order; the lines' colors go around the color circle.
        right: whether each match is; then right ones are green and wrong ones red.
        cell: longer side of each image, pixels.

    Raises:
        ValueError: a place outside of its grid, or another number of `right`.
    """
    for part, (rows, columns) in enumerate(grids):
        outside = [match[part] for match in matches if not 0 <= match[part] < rows * columns]
        if outside:
            raise ValueError(f"place {outside[0]} lies outside of a grid of {rows} x {columns} patches")
    if right is not None and len(right) != len(matches):
        raise ValueError(f"{len(matches)} matches, but {len(right)} words on whether they are right")
    left, other = (fit(image, cell) for image in images)
    width, height = left.width + GAP + other.width, max(left.height, other.height)
    canvas = Image.new("RGB", (width, height), theme.background)
    canvas.paste(left, (0, 0))
    canvas.paste(other, (left.width + GAP, 0))
    canvas = canvas.resize((width * _LARGE, height * _LARGE), Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(canvas)
    for number, (first, second) in enumerate(matches):
        ends = [_center(first, grids[0], left, 0), _center(second, grids[1], other, left.width + GAP)]
        color = _circle(number, len(matches)) if right is None else (_GREEN if right[number] else _RED)
        _line(draw, ends, color)
    return canvas.resize((width, height), Image.Resampling.BOX)


def query_heat(
    images: tuple[Image.Image, Image.Image],
    patches: tuple[Tensor | Array, Tensor | Array],
    grids: tuple[Grid, Grid],
    queries: Sequence[Patch],
    *,
    cell: int = 360,
    colormap: str = "viridis",
    theme: Theme = PAPER,
) -> Image.Image:
    """A row for each query: the first image with the patch framed, its similarity to all patches of the second.

    The patch of the second image that is most similar is framed there.

    Args:
        images: the first one left.
        patches: features `[N, D]` and `[M, D]`, raster order.
        grids: (Y, X) of them.
        queries: (row, column) of patches of the first image.

    Raises:
        ValueError: no query, and what `cosine_map` raises.
    """
    if not queries:
        raise ValueError("choose at least one patch as (row, column)")
    left, other = (fit(image, cell) for image in images)
    rows: list[list[Image.Image | None]] = []
    captions = []
    for query in queries:
        framed_query = framed(left, [query], grids[0])  # refuses a patch outside of the grid
        vector = patches[0][query[0] * grids[0][1] + query[1]]
        values = cosine_map(patches[1], grids[1], vector)
        row, column = (int(each) for each in np.unravel_index(int(values.argmax()), values.shape))
        heat = overlay(other, values, colormap=colormap)
        rows.append([framed_query, framed(heat, [(row, column)], grids[1])])
        spread = f"cosine {values.min():.2f} to {values.max():.2f}, highest at {row}, {column}"
        captions.append([f"patch {query[0]}, {query[1]}", spread])
    return sheet(rows, captions=captions, theme=theme)


_GREEN: Color = (40, 190, 110)
_RED: Color = (225, 60, 70)


def _circle(number: int, count: int) -> Color:
    red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(number / max(count, 1), 0.85, 0.95))
    return red, green, blue


def _center(place: int, grid: Grid, image: Image.Image, left: int) -> tuple[float, float]:
    row, column = divmod(place, grid[1])
    x, y = left + (column + 0.5) * image.width / grid[1], (row + 0.5) * image.height / grid[0]
    return x * _LARGE, y * _LARGE


def _line(draw: Any, ends: list[tuple[float, float]], color: Color) -> None:
    # A dark line below a colored one: visible on any picture.
    for width, ink in ((6, (20, 22, 27)), (4, color)):
        draw.line(ends, fill=ink, width=width)
    for x, y in ends:
        for radius, ink in ((8, (20, 22, 27)), (6, color)):
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=ink)
