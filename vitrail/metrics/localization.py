"""Points and boxes. Boxes are half-open `x0 y0 x1 y1` in pixels; a pixel (column, row) covers [column, column
+ 1)."""

from __future__ import annotations

import torch
from torch import Tensor


def points_in_boxes(points: Tensor, boxes: Tensor, tolerance: float = 0.0) -> Tensor:
    """Whether each point lies in at least one box.

    Args:
        points: `[..., 2]` x, y in pixels (the center of pixel 0 is 0.5).
        boxes: `[n, 4]` half-open x0 y0 x1 y1 in the same frame; n may be 0.
        tolerance: pixels by which every box is widened on each side.

    Returns:
        Bool `[...]`; false everywhere when there is no box.

    Raises:
        ValueError: wrong last axes or a negative tolerance.
    """
    if points.shape[-1:] != (2,) or boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(
            f"points must be [..., 2] and boxes [n, 4], not {tuple(points.shape)} and {tuple(boxes.shape)}"
        )
    if tolerance < 0:
        raise ValueError(f"tolerance = {tolerance} is negative; give 0 or more pixels")
    point, low, high = points[..., None, :], boxes[:, :2] - tolerance, boxes[:, 2:] + tolerance
    return ((point >= low) & (point < high)).all(-1).any(-1)


def clip_boxes(boxes: Tensor, height: int, width: int) -> Tensor:
    """Boxes cut to the image; those with nothing left inside are dropped. `[n, 4]` -> `[m, 4]`, m <= n."""
    limit = torch.tensor([width, height, width, height], dtype=boxes.dtype)
    cut = torch.minimum(boxes.clamp(min=0), limit)
    return cut[(cut[:, 2] > cut[:, 0]) & (cut[:, 3] > cut[:, 1])]
