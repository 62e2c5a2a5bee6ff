"""What masks hide, side by side, and in which order a greedy search chooses.

Hidden patches are veiled: blended with one gray, so much that only a hint of the picture shows through. The gallery
has a row for each image and a column for each strategy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from vitrail.viz.canvas import PAPER, Theme, fit, grayed, sheet, wrapped
from vitrail.viz.percent import percent

_VEIL = (116, 120, 128)
_MARK = (255, 255, 255)
_DARK = (20, 22, 27)


def veiled(image: Image.Image, mask: Tensor, grid: tuple[int, int], *, veil: float = 0.9) -> Image.Image:
    """The image with its hidden patches behind a gray veil.

    Args:
        image: any size; the grid is stretched over it.
        mask: bool `[N]`, True is hidden, raster order.
        grid: (Y, X).
        veil: how thick, in [0, 1]; at 0 nothing is hidden, at 1 nothing shows through.

    Raises:
        ValueError: a mask that is not bool `[Y * X]`, or a veil out of range.
    """
    if not 0 <= veil <= 1:
        raise ValueError(f"veil is {veil}; it lies in [0, 1], and 1 lets nothing through")
    cells = _cells(mask, grid)
    image = image.convert("RGB")
    curtain = Image.blend(grayed(image), Image.new("RGB", image.size, _VEIL), veil)
    return Image.composite(curtain if veil else image, image, _stencil(cells, image.size))


def mask_gallery(
    images: Sequence[Image.Image],
    masks: Mapping[str, Tensor],
    grid: tuple[int, int],
    *,
    titles: Sequence[str] = (),
    cell: int = 160,
    veil: float = 0.9,
    theme: Theme = PAPER,
) -> Image.Image:
    """One row for each image, one column for each strategy, the images themselves on the left.

    Args:
        images: at least one, any sizes.
        masks: by the name of its strategy, bool `[B, N]` with a row for each image, True is hidden.
        grid: (Y, X) of all masks.
        titles: left of the rows, one for each image.
        cell: longer side of one picture, pixels.
        veil: see `veiled`.
        theme: `PAPER` or `LEAD`.

    Returns:
        An RGB picture; each caption gives the strategy and the share that is hidden.

    Raises:
        ValueError: no image, no strategy, or masks that do not match the images or the grid.
    """
    if not images or not masks:
        raise ValueError(f"a gallery of {len(images)} images and {len(masks)} masks is empty; give one of each")
    for name, mask in masks.items():
        if mask.ndim != 2 or len(mask) != len(images):
            raise ValueError(f"mask {name!r} has shape {tuple(mask.shape)} for {len(images)} images; give [B, N]")
    pictures = [fit(image, cell) for image in images]
    rows, captions = [], []
    for number, picture in enumerate(pictures):
        rows.append([picture, *(veiled(picture, mask[number], grid, veil=veil) for mask in masks.values())])
        captions.append(["image", *(f"{name}, {_share(mask[number])}" for name, mask in masks.items())])
    return sheet(rows, captions=captions, row_titles=titles, theme=theme)


def greedy_order(
    image: Image.Image,
    ids: Tensor,
    length: int,
    grid: tuple[int, int],
    *,
    numbered: int = 9,
    cell: int = 336,
    colormap: str = "plasma",
    theme: Theme = PAPER,
) -> Image.Image:
    """The image, what a greedy choice leaves visible, and the order in which it was chosen, as colors.

    The first choices are bright and numbered, the last ones dark. Patches that were drawn uniformly after the
    search had stopped are light gray with a ring.

    Args:
        image: any size.
        ids: int64 `[k]`, the chosen patches in the order of choice: a row of `Greedy.ids`.
        length: how many of them the search chose, its row of `Greedy.length`, 0 to k.
        grid: (Y, X).
        numbered: how many choices carry their number.
        cell: longer side of one picture, pixels.
        colormap: one of matplotlib's.
        theme: `PAPER` or `LEAD`.

    Raises:
        ValueError: ids that are not unique patches of the grid, or a length out of range.
    """
    order = _order(ids, grid)
    if not 0 <= length <= len(order):
        raise ValueError(f"length is {length} of {len(order)} chosen patches; give 0 to {len(order)}")
    image = fit(image, cell)
    mask = torch.ones(grid[0] * grid[1], dtype=torch.bool)
    mask[torch.as_tensor(order)] = False
    colored = veiled(image, mask, grid, veil=0.7)
    _draw_order(colored, order, length, grid, numbered, colormap)
    chance = len(order) - length
    words = f"order of choice, bright to dark: {length}" + (f", then {chance} at random (rings)" if chance else "")
    captions = ["image", f"visible: {len(order)} of {len(mask)} patches", words]
    return wrapped([image, veiled(image, mask, grid), colored], captions, 3, theme=theme)


def _draw_order(
    picture: Image.Image, order: list[int], length: int, grid: tuple[int, int], numbered: int, colormap: str
) -> None:
    from matplotlib import colormaps

    draw = ImageDraw.Draw(picture)
    size = min(picture.width / grid[1], picture.height / grid[0])
    for place, patch in enumerate(order):
        left, top, right, bottom = _box(patch, grid, picture.size)
        middle = ((left + right) / 2, (top + bottom) / 2)
        if place >= length:
            draw.rectangle((left, top, right, bottom), fill=(222, 224, 228), outline=_VEIL)
            radius = size / 5
            ring = (middle[0] - radius, middle[1] - radius, middle[0] + radius, middle[1] + radius)
            draw.ellipse(ring, outline=_DARK, width=max(1, round(size / 14)))
            continue
        shade = 0.95 - 0.9 * place / max(length - 1, 1)
        color = tuple(round(255 * part) for part in colormaps[colormap](shade)[:3])
        draw.rectangle((left, top, right, bottom), fill=color, outline=_VEIL)
        if place < numbered and size >= 8:
            light = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2] > 128
            font = ImageFont.load_default(max(7, round(size * 0.62)))
            draw.text(middle, str(place + 1), fill=_DARK if light else _MARK, font=font, anchor="mm")


def _share(mask: Tensor) -> str:
    return f"{percent(float(mask.double().mean()))}\u00a0hidden"


def _cells(mask: Tensor, grid: tuple[int, int]) -> NDArray[np.bool_]:
    if mask.dtype != torch.bool or mask.shape != (grid[0] * grid[1],):
        raise ValueError(
            f"the mask is {mask.dtype} {tuple(mask.shape)}; for a {grid[0]}x{grid[1]} grid it is bool "
            f"({grid[0] * grid[1]},), one image of a batch"
        )
    cells: NDArray[np.bool_] = mask.cpu().numpy().reshape(grid)
    return cells


def _stencil(cells: NDArray[np.bool_], size: tuple[int, int]) -> Image.Image:
    levels = Image.fromarray(cells.astype(np.uint8) * 255)
    return levels.resize(size, Image.Resampling.NEAREST)


def _box(patch: int, grid: tuple[int, int], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Left, top, right, bottom pixels of a patch, all inside of it."""
    row, column = divmod(patch, grid[1])
    left, right = (round(edge * size[0] / grid[1]) for edge in (column, column + 1))
    top, bottom = (round(edge * size[1] / grid[0]) for edge in (row, row + 1))
    return left, top, max(left, right - 1), max(top, bottom - 1)


def _order(ids: Tensor, grid: tuple[int, int]) -> list[int]:
    if ids.ndim != 1 or ids.dtype != torch.int64:
        raise ValueError(f"ids are {ids.dtype} {tuple(ids.shape)}; they are int64 [k], one image of a batch")
    order: list[int] = ids.tolist()
    count = grid[0] * grid[1]
    if len(set(order)) < len(order) or any(not 0 <= patch < count for patch in order):
        raise ValueError(f"ids must be different patches, 0 to {count - 1} on a {grid[0]}x{grid[1]} grid; got {order}")
    return order
