"""The class of each patch, told by the pixels of a mask that it covers."""

from __future__ import annotations

import torch
from torch import Tensor

NONE = -1
"""Label of a patch without a class."""


def patch_classes(
    mask: Tensor, grid: tuple[int, int], purity: float = 0.5, ignored: tuple[int, ...] = (255,)
) -> Tensor:
    """The class that most pixels of a patch have, where these are enough.

    Args:
        mask: class ids `[H, W]`, integers of at least 0; H and W are multiples of Y and X.
        grid: (Y, X).
        purity: share in (0, 1] of all pixels of the patch, ignored ones included, that the class has at least.
        ignored: ids that are no class.

    Returns:
        int64 `[Y * X]`, raster order; -1 where no class has as many, where two have equally many, or where the most
        pixels are ignored ones.

    Raises:
        ValueError: a mask that the grid does not divide, or a share outside of (0, 1].

    >>> patch_classes(torch.tensor([[1, 1, 0, 2], [1, 0, 0, 2]]), (1, 2), 0.75).tolist()
    [1, -1]
    """
    if not 0 < purity <= 1:
        raise ValueError(f"purity is {purity}; it is a share of a patch's pixels in (0, 1]")
    height, width = mask.shape
    rows, columns = grid
    if height % rows or width % columns:
        raise ValueError(
            f"a mask of {height} x {width} px does not divide into a grid of {rows} x {columns} patches; resize it to "
            "the image that the patches are of"
        )
    cells = mask.reshape(rows, height // rows, columns, width // columns).transpose(1, 2).reshape(rows * columns, -1)
    ids, place = cells.long().unique(return_inverse=True)
    counts = torch.zeros(len(cells), len(ids) + 1, dtype=torch.int64)  # one column more: there is always a second
    counts.scatter_add_(1, place, torch.ones_like(place))
    most, winner = counts.topk(2, dim=1)
    found = ids[winner[:, 0]]
    lost = (most[:, 0] == most[:, 1]) | (most[:, 0] < purity * cells.shape[1])
    lost |= torch.isin(found, torch.tensor(ignored, dtype=torch.int64))
    return found.masked_fill(lost, NONE)
