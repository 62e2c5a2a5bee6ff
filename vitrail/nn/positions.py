"""Fixed positions of patches, made of sines and cosines: in two dimensions, or of their number in a row.

    p(u)[i]         = sin(u / 10000^(i / (D / 4)))        i = 0 ... D/4 - 1
    p(u)[D / 4 + i] = cos(u / 10000^(i / (D / 4)))

A patch in row y and column x has the position [p(x), p(y)]: the column comes first. Of the token number n alone:

    r(n)[2i] = sin(n / 10000^(2i / D)),   r(n)[2i + 1] = cos(n / 10000^(2i / D))

Source: Vaswani et al., "Attention Is All You Need", 2017 (Section 3.5, in one dimension); the arrangement in two is
that of the published weights of MAE (He et al., "Masked Autoencoders Are Scalable Vision Learners", 2022), that of r is
Vaswani's own, as T2T-ViT has it (Yuan et al., 2021).
"""

from __future__ import annotations

import torch
from torch import Tensor


def sine_cosine(grid: tuple[int, int], width: int, *, device: torch.device | str | None = None) -> Tensor:
    """Positions of a grid's patches.

    Args:
        grid: `(Y, X)`, counted in patches; the steps are 1 whatever the grid.
        width: D, channels of a token; a multiple of 4.
        device: where to; torch's default one by default.

    Returns:
        `[Y * X, D]` float32 in raster order, values in [-1, 1].

    Raises:
        ValueError: a width that is no multiple of 4, or a grid without patches.
    """
    if width <= 0 or width % 4:
        raise ValueError(
            f"width {width} is not a multiple of 4, as sine and cosine of row and column need; "
            f"choose {max(width // 4, 0) * 4 + 4}"
        )
    rows, columns = grid
    if rows <= 0 or columns <= 0:
        raise ValueError(f"a grid of {rows}x{columns} has no patches; both sides are positive")
    of_rows = _one_axis(rows, width // 4, device)[:, None].expand(rows, columns, width // 2)
    of_columns = _one_axis(columns, width // 4, device)[None].expand(rows, columns, width // 2)
    return torch.cat((of_columns, of_rows), dim=2).reshape(rows * columns, width)


def sine_cosine_of_numbers(count: int, width: int) -> Tensor:
    """r of the numbers 0 to `count - 1`: `[count, width]` float32, sines and cosines in turns, values in [-1, 1].

    Raises `ValueError` for a width below 1.
    """
    if width < 1:
        raise ValueError(f"width {width} is not positive; tokens have at least one channel")
    exponents = torch.arange(width, dtype=torch.float64) // 2 * 2 / width
    angles = torch.arange(count, dtype=torch.float64)[:, None] / 10000.0**exponents
    even = torch.arange(width) % 2 == 0
    return torch.where(even, angles.sin(), angles.cos()).float()


def _one_axis(length: int, frequencies: int, device: torch.device | str | None) -> Tensor:
    """`[length, 2 * frequencies]`: all sines, then all cosines."""
    steps = torch.arange(frequencies, device=device, dtype=torch.float32) / frequencies
    angles = torch.arange(length, device=device, dtype=torch.float32)[:, None] / 10000.0**steps
    return torch.cat((angles.sin(), angles.cos()), dim=1)
