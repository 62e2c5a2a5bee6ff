"""A map of patches: a point for each, colored by its class or its image, and thumbnails of some where there is room.

A thumbnail shows the patch with what is around it, since a patch alone can rarely be told, in a frame of its point's
color. Thumbnails never overlap: each is centered at its point, or left out.

Source: CoTAP, Figure 12, which enlarges patches five times.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from vitrail.viz.blobs import GLASS
from vitrail.viz.canvas import PAPER, Array, Color, Theme, as_maps, fit, heading, stacked, wrapped

Box = tuple[int, int, int, int]
_SUPERSAMPLING = 3
_FRAME = 2
NEUTRAL: Color = (170, 174, 182)


def point_map(
    layout: Tensor | Array,
    groups: Sequence[int],
    names: Sequence[str],
    *,
    thumbnail: Callable[[int], Image.Image] | None = None,
    neutral: int | None = None,
    title: str = "",
    side: int = 960,
    thumb: int = 44,
    most: int = 80,
    radius: int = 4,
    theme: Theme = PAPER,
) -> Image.Image:
    """Points, thumbnails and a legend of the groups that are there.

    Args:
        layout: `[N, 2]`, finite; distances keep their shape.
        groups: of each point, an index into `names`.
        names: of the groups.
        thumbnail: the picture of point n; asked only for those that are drawn. Earlier points go first.
        neutral: a group that is gray, below the others, and last to get thumbnails; None for no such one.
        title: a line above.
        side: of the map, pixels.
        thumb: longer side of a thumbnail, pixels.
        most: thumbnails at most.
        radius: of a point, pixels.
        theme: `PAPER` or `LEAD`.

    Raises:
        ValueError: a layout of another shape, NaN or infinite, and groups that do not fit it or have no name.
    """
    places = _pixels(layout, side, max(radius, thumb // 2) + _FRAME)
    if len(groups) != len(places) or not all(0 <= group < len(names) for group in groups):
        raise ValueError(
            f"{len(places)} points, {len(groups)} groups from {min(groups, default=0)} to {max(groups, default=0)} and "
            f"{len(names)} names; give a group with a name for each point"
        )
    colors = [NEUTRAL if group == neutral else group_color(group) for group in range(len(names))]
    order = sorted(range(len(places)), key=lambda number: groups[number] == neutral)
    drawn = _points(places[order[::-1]], [colors[groups[number]] for number in order[::-1]], side, radius, theme)
    if thumbnail is not None:
        for place, box in place_boxes(places[order], thumb + 2 * _FRAME, most).items():
            number = order[place]
            framed = Image.new("RGB", (box[2] - box[0], box[3] - box[1]), colors[groups[number]])
            picture = fit(thumbnail(number), thumb)
            framed.paste(picture, ((framed.width - picture.width) // 2, (framed.height - picture.height) // 2))
            drawn.paste(framed, box[:2])
    above = [heading(title, side, theme=theme)] if title else []
    return stacked([*above, drawn, _legend(groups, names, colors, side, theme)], theme)


def place_boxes(places: Array, side: int, most: int) -> dict[int, Box]:
    """Squares around points that do not overlap: for the first points that have room, `most` at most.

    Args:
        places: `[N, 2]`, x and y in pixels.
        side: of a square, pixels.
        most: how many.

    Returns:
        By the point's number: left, top, right, bottom, half-open.
    """
    found: dict[int, Box] = {}
    corners = np.empty((0, 2))
    for number, corner in enumerate(np.floor(np.asarray(places) - side / 2 + 0.5)):
        if len(found) == most:
            break
        if not len(corners) or bool((np.abs(corners - corner).max(1) >= side).all()):
            corners = np.concatenate((corners, corner[None]))
            left, top = int(corner[0]), int(corner[1])
            found[number] = (left, top, left + side, top + side)
    return found


def group_color(group: int) -> Color:
    """Ten colors, then darker ones of the same hues, then darker ones still, then again."""
    share = (1.0, 0.62, 0.38)[group // len(GLASS) % 3]
    red, green, blue = (round(share * channel) for channel in GLASS[group % len(GLASS)])
    return red, green, blue


def patch_thumbnail(
    image: Image.Image, grid: tuple[int, int], patch: tuple[int, int], times: float = 5.0
) -> Image.Image:
    """The part of an image around a patch, so many times as large as the patch, moved to lie inside of the image.

    Raises `ValueError` for a patch (row, column) outside of the grid (Y, X).
    """
    if not all(0 <= place < count for place, count in zip(patch, grid)):
        raise ValueError(f"patch {patch} lies outside the grid of {grid[0]} x {grid[1]} patches")
    corners = []
    for place, count, size in zip(patch, grid, (image.height, image.width)):
        step = size / count
        span = min(max(round(times * step), 1), size)
        first = min(max(round((place + 0.5) * step - span / 2), 0), size - span)
        corners.append((first, first + span))
    (top, bottom), (left, right) = corners
    return image.crop((left, top, right, bottom))


def _pixels(layout: Tensor | Array, side: int, margin: int) -> Array:
    """x and y in pixels, `[N, 2]`; the larger extent fills the map."""
    values = as_maps(layout.double() if isinstance(layout, torch.Tensor) else layout, "layout", axes=2)
    if values.shape[1] != 2:
        raise ValueError(f"the layout has shape {values.shape}, not [N, 2]")
    low, high = values.min(0), values.max(0)
    span = float((high - low).max()) or 1.0
    result: Array = (values - (low + high) / 2) / span * (side - 2 * margin) + side / 2
    return result


def _points(places: Array, colors: Sequence[Color], side: int, radius: int, theme: Theme) -> Image.Image:
    large = Image.new("RGB", (side * _SUPERSAMPLING, side * _SUPERSAMPLING), theme.background)
    draw = ImageDraw.Draw(large)
    for (x, y), color in zip(places * _SUPERSAMPLING, colors):
        reach = radius * _SUPERSAMPLING
        draw.ellipse((x - reach, y - reach, x + reach, y + reach), fill=color, outline=theme.background)
    return large.resize((side, side), Image.Resampling.BOX)


def _legend(
    groups: Sequence[int], names: Sequence[str], colors: Sequence[Color], width: int, theme: Theme
) -> Image.Image:
    cell, counts = 104, Counter(groups)
    swatches = [Image.new("RGB", (cell, 10), colors[group]) for group in sorted(counts)]
    captions = [f"{names[group]} ({counts[group]})" for group in sorted(counts)]
    return wrapped(swatches, captions, max(1, (width - 10) // (cell + 10)), theme=theme)
