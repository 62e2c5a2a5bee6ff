"""Labels handed on from patches that have some to patches that resemble them, frame after frame of a video.

A patch takes the labels of the k patches most similar to it, weighted by the softmax of the similarities over a
temperature, among those that lie near its own place in the frames before. Only similarities inside of the window are
computed: queries go in tiles, and a tile meets the cells that any of its queries can reach.

Source: Jabri et al. 2020, "Space-time correspondence as a contrastive random walk" (arXiv 2006.14613), as DINO uses it,
Caron et al. 2021 (arXiv 2104.14294).
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional


def propagate(
    target: Tensor,
    sources: Tensor,
    labels: Tensor,
    *,
    radius: int | None = 12,
    temperature: float = 0.1,
    topk: int = 5,
    tile: int = 10,
) -> Tensor:
    """Labels of one frame's patches from those of other frames.

    Args:
        target: features of length 1, `[Y, X, D]`.
        sources: features of length 1 of C other frames, `[C, Y, X, D]`.
        labels: `[C, Y, X, K]`, shares of K labels.
        radius: a patch looks at places up to so many rows and columns away from its own; None for all.
        temperature: of the softmax over the similarities, positive.
        topk: how many patches of all frames together give their labels.
        tile: side of a tile of queries; no influence on the result beyond the rounding of products.

    Returns:
        `[Y, X, K]`, for each patch the weighted mean of the labels, on the device of the features.

    Raises:
        ValueError: shapes that do not fit, no source, or numbers out of range.
    """
    _check(target, sources, labels, radius, temperature, topk, tile)
    rows, columns = target.shape[:2]
    reach = max(rows, columns) if radius is None else radius
    result = labels.new_empty(rows, columns, labels.shape[3])
    for top in range(0, rows, tile):
        for left in range(0, columns, tile):
            bottom, right = min(top + tile, rows), min(left + tile, columns)
            high, low = max(top - reach, 0), min(bottom + reach, rows)
            first, last = max(left - reach, 0), min(right + reach, columns)
            queries = target[top:bottom, left:right].flatten(0, 1)
            keys = sources[:, high:low, first:last].flatten(0, 2)
            likeness = queries @ keys.T  # [q, C * window]
            outside = _outside((top, bottom, left, right), (high, low, first, last), reach, target.device)
            likeness.unflatten(1, (len(sources), -1)).masked_fill_(outside[:, None], -torch.inf)
            best, ids = likeness.topk(min(topk, likeness.shape[1]), dim=1)
            given = labels[:, high:low, first:last].flatten(0, 2)[ids]  # [q, topk, K]
            weights = (best / temperature).softmax(1).to(given.dtype)
            result[top:bottom, left:right] = (weights[:, :, None] * given).sum(1).view(bottom - top, right - left, -1)
    return result


def enlarged(labels: Tensor, patch: tuple[int, int]) -> Tensor:
    """Labels of patches as labels of pixels: bilinear, then each label's map stretched to [0, 1], the largest wins.

    Args:
        labels: `[Y, X, K]`; 0 is the background.
        patch: height and width in pixels.

    Returns:
        uint8 `[Y * height, X * width]`, the number of the winning label. A map that is the same everywhere becomes 0:
        it says nothing about places.
    """
    size = (labels.shape[0] * patch[0], labels.shape[1] * patch[1])
    large = functional.interpolate(labels.permute(2, 0, 1)[None], size=size, mode="bilinear", align_corners=False)[0]
    low, high = large.amin((1, 2), keepdim=True), large.amax((1, 2), keepdim=True)
    stretched = (large - low) / (high - low).clamp(min=torch.finfo(large.dtype).tiny)
    return stretched.argmax(0).to(torch.uint8)


def resized_ids(ids: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A map of ids `[h, w]` uint8 at another (height, width): each pixel takes the nearest one's."""
    if ids.shape == size:
        return ids
    return np.array(Image.fromarray(ids).resize((size[1], size[0]), Image.Resampling.NEAREST))


def _outside(tile: tuple[int, int, int, int], window: tuple[int, int, int, int], reach: int, device: object) -> Tensor:
    """Bool `[q, window]`, the cells that lie farther than `reach` from a query in rows or in columns."""
    near = []
    for query, key in (((tile[0], tile[1]), (window[0], window[1])), ((tile[2], tile[3]), (window[2], window[3]))):
        places, cells = (torch.arange(*ends, device=device) for ends in (query, key))  # type: ignore[call-overload]
        near.append((places[:, None] - cells).abs() <= reach)
    both = near[0][:, None, :, None] & near[1][None, :, None, :]  # [rows, columns, window rows, window columns]
    return ~both.flatten(2).flatten(0, 1)


def _check(
    target: Tensor, sources: Tensor, labels: Tensor, radius: int | None, temperature: float, topk: int, tile: int
) -> None:
    fits = target.ndim == 3 and sources.ndim == 4 and labels.ndim == 4 and len(sources) > 0
    if not (fits and sources.shape[1:] == target.shape and labels.shape[:3] == sources.shape[:3]):
        raise ValueError(
            f"target is {list(target.shape)}, sources {list(sources.shape)}, labels {list(labels.shape)}; give "
            "[Y, X, D], [C, Y, X, D] and [C, Y, X, K] with C at least 1"
        )
    if (radius is not None and radius < 0) or temperature <= 0 or topk < 1 or tile < 1:
        raise ValueError(
            f"radius {radius}, temperature {temperature}, topk {topk}, tile {tile}; the radius is at least 0, the "
            "temperature positive, the others at least 1"
        )
