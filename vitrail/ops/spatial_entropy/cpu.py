"""Spatial entropy and its gradient on the CPU: one numba pass per map, the maps shared out among threads."""

from __future__ import annotations

from math import log
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitrail.ops.compiled import compiled, share_out
from vitrail.ops.components.cpu import label_map


@compiled
def _entropy_maps(
    first: int, last: int, scores: Any, rows: int, columns: int, floor: float, entropy: Any, slope: Any
) -> None:
    cells = rows * columns
    above = np.empty(cells)
    mask = np.empty(cells, np.bool_)
    parent = np.empty(cells, np.int32)
    labels = np.empty(cells, np.int32)
    # One entry per label; two sides never touch inside a 2x1 block, so labels number at most half the cells.
    mass = np.empty(cells // 2 + 2)
    size = np.empty(cells // 2 + 2, np.int32)
    gain = np.empty(cells // 2 + 2)
    for index in range(first, last):
        mean = 0.0
        for cell in range(cells):
            mean += scores[index, cell]
        mean /= cells
        for cell in range(cells):
            above[cell] = scores[index, cell] - mean
            mask[cell] = above[cell] > 0
        count = label_map(mask, rows, columns, True, parent, labels)
        mass[: count + 1] = 0.0
        size[: count + 1] = 0
        for cell in range(cells):
            mass[labels[cell]] += above[cell]
            size[labels[cell]] += 1
        total = mass[1 : count + 1].sum()
        if not (floor < total < np.inf):  # constant, or holding inf or NaN
            entropy[index] = slope[index, :] = mean - mean  # 0, or NaN
            continue
        nats = 0.0
        for label in range(1, count + 1):
            share = max(mass[label] / total, 2.0**-1022)  # a share that underflows has no logarithm
            gain[label] = -log(share)
            nats += share * gain[label]
        gain[0] = mean_gain = 0.0
        for label in range(1, count + 1):
            gain[label] = (gain[label] - nats) / total
            mean_gain += gain[label] * size[label] / cells
        for cell in range(cells):
            slope[index, cell] = gain[labels[cell]] - mean_gain
        entropy[index] = nats


def entropy_and_slope(scores: Tensor, floor: float) -> tuple[Tensor, Tensor]:
    """As `vitrail.ops.spatial_entropy.entropy_and_slope`, for a non-empty tensor `[..., Y, X]` on the CPU."""
    rows, columns = scores.shape[-2:]
    cells = rows * columns
    wide = scores.to(torch.promote_types(scores.dtype, torch.float32)).contiguous()
    entropy = wide.new_empty(wide.shape[:-2])
    slope = torch.empty_like(wide)
    flat = wide.view(-1, cells).numpy()
    share_out(
        _entropy_maps,
        len(flat),
        cells,
        flat,
        rows,
        columns,
        floor,
        entropy.view(-1).numpy(),
        slope.view(-1, cells).numpy(),
    )
    return entropy, slope
