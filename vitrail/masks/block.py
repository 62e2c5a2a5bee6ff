"""Block-wise masking: rectangles are hidden until there are enough.

Sources: Bao et al., "BEiT" (2022), arXiv 2106.08254, algorithm 1; Zhou et al., "iBOT" (2022), arXiv 2111.07832.
The area of a rectangle is uniform from `least` to the number of patches to hide, its aspect ratio log-uniform, its
place uniform.

Deviations:
- A fixed number of rectangles is drawn for all images at once, and each image takes as many of them as it needs.
  So every area goes up to the whole number to hide, not to what is still missing.
- Exactly the number asked for is hidden: the last rectangle is cut, from one of its four sides at random. The
  published loop ends near the number.
- A rectangle that is too high or too wide for the grid is clipped, and its other side takes up the area, where the
  published loop draws anew. So grids of one row work too.
- `least` is stated for a 14x14 grid; another grid takes the same share of its patches.
- Where all rectangles together are too few (which takes shares near 1), the rest is hidden row by row from the same
  side.
"""

from __future__ import annotations

from math import log

import torch
from torch import Tensor

from vitrail.masks.counts import numbers, patch_size
from vitrail.masks.ranking import hide_lowest, uniform

_RECTANGLES = 32


class Block:
    """Hides rectangles. A `vitrail.contracts.Mask`."""

    needs_attention = False

    def __init__(self, least: float = 16, aspect: float = 0.3) -> None:
        """Say what rectangles there are.

        Args:
            least: smallest area of a rectangle, patches of a 14x14 grid.
            aspect: height / width is log-uniform in [aspect, 1 / aspect]; in (0, 1].

        Raises:
            ValueError: for values out of range.
        """
        check_shape(least, aspect)
        self.least, self.aspect = least, aspect

    def __call__(
        self,
        images: Tensor,
        grid: tuple[int, int],
        hidden: float | Tensor,
        *,
        attention: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Bool `[B, N]`, True is hidden; `attention` is not looked at."""
        patch_size(images, grid)
        wanted = numbers(hidden, len(images), grid[0] * grid[1], images.device)
        return hide_lowest(rectangle_order(grid, wanted, self.least, self.aspect, generator), wanted)


def check_shape(least: float, aspect: float) -> None:
    """Raise `ValueError` for a smallest area or an aspect ratio out of range."""
    if not 0 < least < float("inf"):
        raise ValueError(f"least is {least} patches; it must be positive, 16 for instance")
    if not 0 < aspect <= 1:
        raise ValueError(f"aspect is {aspect}; it lies in (0, 1], and ratios go from there to its inverse")


def rectangle_order(
    grid: tuple[int, int], numbers: Tensor, least: float, aspect: float, generator: torch.Generator | None
) -> Tensor:
    """The order in which patches are covered by one rectangle after another: int64 keys `[B, N]`, all different.

    The `numbers[b]` patches with the lowest keys are the union of the first rectangles, the last one cut.
    """
    batch, device = len(numbers), numbers.device
    draws = uniform((batch, 4, _RECTANGLES), device, generator)
    side = (uniform((batch, 1), device, generator) * 4).long()
    height, width = _sizes(grid, numbers, least, aspect, draws[:, 0], draws[:, 1])
    rows = _spans(grid[0], height, draws[:, 2])
    columns = _spans(grid[1], width, draws[:, 3])
    covers = (rows[:, :, :, None] & columns[:, :, None, :]).flatten(2)
    first = torch.where(covers.any(1), covers.to(torch.uint8).argmax(1), _RECTANGLES)
    return first * covers.shape[2] + _order_from(grid, device)[side[:, 0]]


def _sizes(
    grid: tuple[int, int], numbers: Tensor, least: float, aspect: float, area_draw: Tensor, aspect_draw: Tensor
) -> tuple[Tensor, Tensor]:
    """Height and width of the rectangles, whole patches as floats, `[B, R]`."""
    rows, columns = grid
    most = numbers[:, None].clamp(min=1).float()
    smallest = most.clamp(max=max(1.0, least * rows * columns / 196))
    area = smallest + (most - smallest) * area_draw
    ratio = ((2 * aspect_draw - 1) * -log(aspect)).exp()
    height = (area * ratio).sqrt().round().clamp(1, rows)
    width = (area / height).round().clamp(1, columns)
    wide = width == columns
    return torch.where(wide, (area / width).round().clamp(1, rows), height), width


def _spans(length: int, sizes: Tensor, draw: Tensor) -> Tensor:
    """Runs of `sizes [B, R]` cells at uniform places on a line: bool `[B, R, length]`."""
    start = (draw * (length - sizes + 1)).floor()[:, :, None]
    places = torch.arange(length, device=sizes.device)
    return (places >= start) & (places < start + sizes[:, :, None])


def _order_from(grid: tuple[int, int], device: torch.device) -> Tensor:
    """For each side, the place of every patch in an order that starts there: int64 `[4, N]`."""
    rows, columns = grid
    down = torch.arange(rows * columns, device=device)
    right = down.view(columns, rows).T.flatten()
    return torch.stack([down, down.flip(0), right, right.flip(0)])
