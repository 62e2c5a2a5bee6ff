"""What a patch resembles: cosine similarity of one patch, or of the CLS token, to every patch."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from vitrail.viz.attention import overlay
from vitrail.viz.canvas import PAPER, Array, Theme, as_maps, fit, wrapped

Patch = tuple[int, int]  # (row, column)


def cosine_map(patches: Tensor | Array, grid: tuple[int, int], query: Patch | Tensor | Array) -> Array:
    """Cosine similarity of one vector to every patch.

    Args:
        patches: features `[N, D]` in raster order.
        grid: (Y, X), with Y * X = N.
        query: (row, column) of a patch, or a vector `[D]` such as the CLS token.

    Returns:
        float64 `[Y, X]` in [-1, 1]; a patch whose features are all zero has similarity 0.

    Raises:
        ValueError: NaN or infinite features, a patch outside the grid, or sizes that do not match.
    """
    features = _features(patches, grid)
    if isinstance(query, tuple):
        vector = features[_position(query, grid)]
    else:
        vector = as_maps(query, "query features", axes=1)
        if len(vector) != features.shape[1]:
            raise ValueError(f"the query has {len(vector)} features, patches have {features.shape[1]}")
    lengths = np.linalg.norm(features, axis=1) * np.linalg.norm(vector)
    dots = features @ vector
    result: Array = np.divide(dots, lengths, out=np.zeros_like(dots), where=lengths > 0)
    return np.clip(result, -1.0, 1.0).reshape(grid)


def similarity_maps(
    image: Image.Image,
    patches: Tensor | Array,
    grid: tuple[int, int],
    chosen: list[Patch],
    *,
    cls: Tensor | Array | None = None,
    smooth: bool = False,
    columns: int = 5,
    cell: int = 224,
    colormap: str = "viridis",
    theme: Theme = PAPER,
) -> Image.Image:
    """The image and, for each chosen patch, its similarity to all patches; the chosen patch is framed.

    The colors run from the lowest to the highest similarity to another patch, which the caption gives.

    Args:
        image: what the features were computed from.
        patches: `[N, D]` in raster order.
        grid: (Y, X).
        chosen: (row, column) of patches; may be empty where `cls` is given.
        cls: CLS features `[D]`, for one more map.

    Raises:
        ValueError: nothing chosen, and what `cosine_map` raises.
    """
    if not chosen and cls is None:
        raise ValueError("choose at least one patch as (row, column), or give the CLS features")
    image = fit(image, cell)
    pictures, captions = [framed(image, chosen, grid)], ["image"]
    queries: list[tuple[str, Patch | Tensor | Array]] = [] if cls is None else [("CLS", cls)]
    queries += [(f"patch {row}, {column}", (row, column)) for row, column in chosen]
    for name, query in queries:
        values = cosine_map(patches, grid, query)
        others = np.ones(grid, dtype=bool)
        if isinstance(query, tuple) and others.size > 1:
            others[query] = False
        low, high = float(values[others].min()), float(values[others].max())
        picture = overlay(image, values, smooth=smooth, colormap=colormap, low=low, high=high)
        pictures.append(framed(picture, [query] if isinstance(query, tuple) else [], grid))
        captions.append(f"{name}, cosine {low:.2f} to {high:.2f}")
    return wrapped(pictures, captions, min(columns, len(pictures)), theme=theme)


def _features(patches: Tensor | Array, grid: tuple[int, int]) -> Array:
    features = as_maps(patches, "patch features", axes=2)
    if grid[0] * grid[1] != len(features):
        raise ValueError(f"a grid of {grid[0]} x {grid[1]} has {grid[0] * grid[1]} patches, not {len(features)}")
    return features


def _position(patch: Patch, grid: tuple[int, int]) -> int:
    row, column = patch
    if not (0 <= row < grid[0] and 0 <= column < grid[1]):
        raise ValueError(f"patch (row {row}, column {column}) lies outside the grid of {grid[0]} x {grid[1]} patches")
    return row * grid[1] + column


def framed(image: Image.Image, patches: list[Patch], grid: tuple[int, int]) -> Image.Image:
    """The picture with a frame around each of the patches (row, column); `ValueError` for one outside of the grid."""
    picture = image.copy()
    draw = ImageDraw.Draw(picture)
    for patch in patches:
        _position(patch, grid)
        row, column = patch
        left, right = (round(edge * image.width / grid[1]) for edge in (column, column + 1))
        top, bottom = (round(edge * image.height / grid[0]) for edge in (row, row + 1))
        # White with a dark line around it: visible on any picture.
        for inset, color in ((-3, (20, 22, 27)), (-2, (255, 255, 255)), (-1, (255, 255, 255))):
            box = (left + inset, top + inset, right - 1 - inset, bottom - 1 - inset)
            if box[0] <= box[2] and box[1] <= box[3]:
                draw.rectangle(box, outline=color)
    return picture
