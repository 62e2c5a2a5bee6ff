"""Patch features as colors: their first three principal components as red, green and blue.

Over several images at once, equal colors mean similar features across images.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vitrail.viz.canvas import PAPER, Array, Theme, as_maps, fit, sheet

Grid = tuple[int, int]
Gate = NDArray[np.bool_]
_NOTHING = 1e-10  # a component with less than this share of the variance is rounding, not structure


def principal_components(features: Array, count: int = 3) -> tuple[Array, Array, Array]:
    """Directions of largest variance, with a sign that does not depend on the machine.

    Args:
        features: `[N, D]`, finite.
        count: components wanted.

    Returns:
        mean `[D]`, directions `[count, D]` (each of length 1, its entry of largest magnitude positive), and
        each one's share of the variance `[count]`. Directions that the data do not have are 0, with share 0.
    """
    mean = features.mean(0)
    centered = features - mean
    scale = float(np.abs(centered).max(initial=0.0))
    directions, shares = np.zeros((count, features.shape[1])), np.zeros(count)
    if scale <= 1e-12 * float(np.abs(features).max(initial=0.0)):
        return mean, directions, shares
    axes, variance = _axes(centered / scale)
    for number in range(min(count, len(variance))):
        if variance[number] > _NOTHING:
            directions[number], shares[number] = _signed(axes[number]), variance[number]
    return mean, directions, shares


def _axes(centered: Array) -> tuple[Array, Array]:
    """Principal directions as rows, and their shares of the variance, both from the largest down."""
    if centered.shape[0] < centered.shape[1]:
        _, singular, axes = np.linalg.svd(centered, full_matrices=False)
        variance = singular**2
    else:  # many patches: the covariance is much smaller than the features
        variance, columns = np.linalg.eigh(centered.T @ centered)
        variance, axes = variance[::-1].clip(min=0), columns.T[::-1]
    return axes, variance / variance.sum()


def _signed(direction: Array) -> Array:
    size = np.abs(direction)
    # The first of the entries that tie for the largest, whatever their last bit says.
    largest = np.flatnonzero(size >= size.max() * (1 - 1e-6))[0]
    result: Array = direction * np.sign(direction[largest])
    return result


def pca_colors(
    features: Sequence[Tensor | Array], grids: Sequence[Grid], gates: Sequence[Gate | Tensor] | None = None
) -> tuple[list[Array], Array]:
    """Colors of every patch, from one analysis over all images.

    Args:
        features: per image `[N, D]` in raster order; N may differ between images, D may not.
        grids: per image (Y, X).
        gates: per image Bool `[Y, X]`; the analysis and its range take patches inside alone, others become
            NaN.

    Returns:
        Per image `[Y, X, 3]` in [0, 1] (1st to 99th percentile of each component become 0 and 1; a component
        that the features do not have is 0.5), and the three components' shares of the variance.

    Raises:
        ValueError: no image, NaN or infinite features, sizes that do not match, or gates that leave nothing.
    """
    arrays = _checked(features, grids)
    inside = [np.ones(len(array), dtype=bool) for array in arrays]
    if gates is not None:
        inside = _gates(gates, grids)
    joint = np.concatenate([array[keep] for array, keep in zip(arrays, inside)])
    if not len(joint):
        raise ValueError("the foreground gate leaves no patch in any image; leave it out, or pass other gates")
    mean, directions, shares = principal_components(joint)
    low, high = np.percentile((joint - mean) @ directions.T, (1, 99), axis=0)
    colors = []
    for array, keep, grid in zip(arrays, inside, grids):
        place = (array - mean) @ directions.T
        color = np.full(place.shape, 0.5)
        np.divide(place - low, high - low, out=color, where=(high > low) & (shares > 0))
        color = np.clip(color, 0, 1)
        color[~keep] = np.nan
        colors.append(color.reshape(*grid, 3))
    return colors, shares


def foreground_gates(features: Sequence[Tensor | Array], grids: Sequence[Grid]) -> list[Gate]:
    """A guess at the foreground: one side of the first principal component, split at 0, over all images.

    The side that holds the smaller share of the images' border patches is called foreground, because objects
    touch the border less than what surrounds them. Features that do not vary give gates that are True
    everywhere.

    Returns:
        Per image Bool `[Y, X]`.
    """
    arrays = _checked(features, grids)
    mean, directions, shares = principal_components(np.concatenate(arrays), count=1)
    if not shares[0]:
        return [np.ones(grid, dtype=bool) for grid in grids]
    sides = [((array - mean) @ directions[0] > 0).reshape(grid) for array, grid in zip(arrays, grids)]
    border = np.concatenate([side[_border(grid)] for side, grid in zip(sides, grids)])
    return [~side if border.mean() > 0.5 else side for side in sides]


def pca_pictures(
    images: Sequence[Image.Image],
    features: Sequence[Tensor | Array],
    grids: Sequence[Grid],
    *,
    gates: Sequence[Gate | Tensor] | None = None,
    smooth: bool = False,
    columns: int = 5,
    cell: int = 224,
    theme: Theme = PAPER,
) -> Image.Image:
    """Images and, below (or beside a single one), their patch features in color.

    Arguments as for `pca_colors`; gated-out patches are dark.

    Returns:
        An RGB picture; a caption gives the share of the variance that each color holds.
    """
    if len(images) != len(features):
        raise ValueError(f"{len(images)} images but features of {len(features)}; give one for each")
    colors, shares = pca_colors(features, grids, gates)
    small = [fit(image, cell) for image in images]
    painted = [_painted(color, image.size, smooth) for color, image in zip(colors, small)]
    share = ", ".join(f"{100 * value:.0f}" for value in shares)
    words = f"red, green, blue: {share}\u00a0% of the variance"
    if len(small) == 1:
        return sheet([[small[0], painted[0]]], captions=[["image", words]], theme=theme)
    rows: list[Sequence[Image.Image]] = []
    captions: list[list[str]] = []
    for start in range(0, len(small), columns):
        row = small[start : start + columns]
        rows += [row, painted[start : start + columns]]
        captions += [[""] * len(row), [""] * len(row)]
    captions[-1][0] = words
    return sheet(rows, captions=captions, theme=theme)


def _painted(color: Array, size: tuple[int, int], smooth: bool) -> Image.Image:
    dark = np.nan_to_num(color, nan=0.1)
    picture = Image.fromarray((dark * 255).round().astype(np.uint8))
    return picture.resize(size, Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST)


def _checked(features: Sequence[Tensor | Array], grids: Sequence[Grid]) -> list[Array]:
    if not features or len(features) != len(grids):
        raise ValueError(f"features of {len(features)} images and {len(grids)} grids; give one of each per image")
    arrays = [as_maps(one, f"patch features of image {number}", axes=2) for number, one in enumerate(features)]
    for number, (array, (rows, columns)) in enumerate(zip(arrays, grids)):
        if len(array) != rows * columns:
            raise ValueError(
                f"image {number}: features of {len(array)} patches do not fill a grid of {rows} x {columns}"
            )
    widths = sorted({array.shape[1] for array in arrays})
    if len(widths) > 1:
        raise ValueError(f"images have features of {widths} numbers; take all from the same backbone")
    return arrays


def _gates(gates: Sequence[Gate | Tensor], grids: Sequence[Grid]) -> list[Gate]:
    arrays = [np.asarray(g.detach().cpu() if isinstance(g, torch.Tensor) else g, dtype=bool) for g in gates]
    if [array.shape for array in arrays] != [tuple(grid) for grid in grids]:
        shapes = [array.shape for array in arrays]
        raise ValueError(f"gates are shaped {shapes}, grids {list(grids)}; give one gate [Y, X] per image")
    return [array.reshape(-1) for array in arrays]


def _border(grid: Grid) -> Gate:
    border = np.ones(grid, dtype=bool)
    border[1:-1, 1:-1] = False
    return border
