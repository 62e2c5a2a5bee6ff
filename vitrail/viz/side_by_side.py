"""What several networks see of the same images: a column for each image, a row for each network.

Patch features become colors by one analysis over all networks, where these are equally wide: then one color means one
feature in all rows. That says something where one network was trained on from another; networks that were trained apart
have axes of their own, and only borders can be compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor

from vitrail.viz.attention import attention_maps, overlay, peak
from vitrail.viz.canvas import PAPER, Array, Theme, fit, sheet, widened
from vitrail.viz.pca import Grid, pca_colors
from vitrail.viz.similarity import cosine_map, framed

Point = tuple[float, float]


class Look(NamedTuple):
    """One image as one network sees it."""

    patches: Tensor  # [N, D], raster order
    grid: Grid
    scores: Tensor | None = None  # CLS scores of the last block before the softmax, [H, Y, X]; None where hidden


def attention_rows(
    images: Sequence[Image.Image], looks: Mapping[str, Sequence[Look]], *, cell: int = 160, theme: Theme = PAPER
) -> Image.Image:
    """The class token's attention in the last block, mean over heads; each map from its lowest to its highest weight.

    Networks that do not give their scores are left out. Raises `ValueError` where none does, and as `similarity_rows`.
    """
    small = _images(images, looks, cell)
    shown = {name: found for name, found in looks.items() if all(look.scores is not None for look in found)}
    if not shown:
        raise ValueError("none of the networks gives its attention; draw something else of them")
    rows, captions = {}, {}
    for name, found in shown.items():
        maps = [attention_maps(look.scores).mean(0) for look in found if look.scores is not None]
        rows[name] = [overlay(image, values) for image, values in zip(small, maps)]
        captions[name] = [peak(values) for values in maps]
    return _table(small, rows, captions, theme)


def similarity_rows(
    images: Sequence[Image.Image],
    looks: Mapping[str, Sequence[Look]],
    points: Sequence[Point],
    *,
    cell: int = 160,
    theme: Theme = PAPER,
) -> Image.Image:
    """Cosine similarity of one patch of each image to its others, from the lowest to the highest.

    Args:
        images: any sizes, at least one.
        looks: by the networks' names, one entry for each image.
        points: of each image, the place (down, right) in [0, 1] whose patch is compared, and framed.
        cell: longer side of one picture, pixels.
        theme: `PAPER` or `LEAD`.

    Raises:
        ValueError: no image, no network, numbers of images that differ, a point outside, features that are not finite.
    """
    small = _images(images, looks, cell)
    if len(points) != len(images) or not all(0 <= share <= 1 for point in points for share in point):
        raise ValueError(f"points {list(points)} for {len(images)} images; give one in [0, 1] x [0, 1] for each")
    rows, captions = {}, {}
    for name, found in looks.items():
        drawn = [_similar(*each) for each in zip(small, found, points)]
        rows[name], captions[name] = [picture for picture, _ in drawn], [words for _, words in drawn]
    first = next(iter(looks.values()))
    marked = [
        framed(image, [patch_at(point, look.grid)], look.grid) for image, look, point in zip(small, first, points)
    ]
    return _table(marked, rows, captions, theme)


def pca_rows(
    images: Sequence[Image.Image], looks: Mapping[str, Sequence[Look]], *, cell: int = 160, theme: Theme = PAPER
) -> Image.Image:
    """Patch features as colors, of all networks by one analysis where they are equally wide, else each by its own."""
    small = _images(images, looks, cell)
    widths = {look.patches.shape[1] for found in looks.values() for look in found}
    groups = [list(looks)] if len(widths) == 1 else [[name] for name in looks]
    rows, captions = {}, {}
    for names in groups:
        found = [look for name in names for look in looks[name]]
        colors, shares = pca_colors([look.patches for look in found], [look.grid for look in found])
        words = f"red, green, blue: {', '.join(f'{100 * share:.0f}' for share in shares)}\u00a0% of the variance"
        for number, name in enumerate(names):
            own = colors[number * len(small) : (number + 1) * len(small)]
            rows[name] = [_enlarged(color, image) for color, image in zip(own, small)]
            captions[name] = [words if name == names[-1] else "", *[""] * (len(small) - 1)]
    return _table(small, rows, captions, theme)


def patch_at(point: Point, grid: Grid) -> tuple[int, int]:
    """The patch (row, column) that holds a place (down, right) in [0, 1]."""
    row, column = (min(int(share * count), count - 1) for share, count in zip(point, grid))
    return row, column


def _similar(image: Image.Image, look: Look, point: Point) -> tuple[Image.Image, str]:
    patch = patch_at(point, look.grid)
    values = cosine_map(look.patches, look.grid, patch)
    others = np.ones(look.grid, dtype=bool)
    others[patch] = others.size == 1
    low, high = float(values[others].min()), float(values[others].max())
    picture = overlay(image, values, colormap="viridis", low=low, high=high)
    return framed(picture, [patch], look.grid), f"cosine {low:.2f} to {high:.2f}"


def _enlarged(color: Array, image: Image.Image) -> Image.Image:
    picture = Image.fromarray((color * 255).round().astype(np.uint8))
    return picture.resize(image.size, Image.Resampling.NEAREST)


def _images(images: Sequence[Image.Image], looks: Mapping[str, Sequence[Look]], cell: int) -> list[Image.Image]:
    if not images or not looks:
        raise ValueError(f"{len(images)} images and {len(looks)} networks; give one of each at least")
    for name, found in looks.items():
        if len(found) != len(images):
            raise ValueError(f"{name!r} has seen {len(found)} of {len(images)} images; give one look for each")
    return [fit(image, cell) for image in images]


def _table(
    images: Sequence[Image.Image],
    rows: Mapping[str, Sequence[Image.Image]],
    captions: Mapping[str, Sequence[str]],
    theme: Theme,
) -> Image.Image:
    pictures: list[list[Image.Image | None]] = [[widened(each, 100, theme) for each in images]]
    pictures += [[widened(each, 100, theme) for each in row] for row in rows.values()]
    words = [[""] * len(images), *captions.values()]
    return sheet(pictures, captions=words, row_titles=["image", *rows], theme=theme)
