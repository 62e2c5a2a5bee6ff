"""Spatial entropy and its gradient on the CPU: one numba pass per map, the maps shared out among threads."""

from __future__ import annotations

from math import log
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitrail.ops.compiled import compiled, share_out
from vitrail.ops.components.cpu import label_places


@compiled
def _entropy_maps(
    first: int, last: int, scores: Any, rows: int, columns: int, floor: float, entropy: Any, slope: Any
) -> None:
    cells, width = rows * columns, columns + 1
    framed = np.empty(cells, np.int32)  # number of a cell in the map -> its place in the framed map
    for cell in range(cells):
        framed[cell] = (cell // columns + 1) * width + cell % columns + 1
    # Of the cells above the mean, in reading order: number in the map, place in the framed map, height.
    chosen = np.empty(cells, np.int32)
    places = np.empty(cells, np.int32)
    above = np.empty(cells)
    joins = np.empty(cells, np.int32)
    parent = np.empty((rows + 1) * width + 1, np.int32)
    labels = np.empty((rows + 1) * width + 1, np.int32)
    parts = np.empty((cells + 1, 4))
    mass = np.empty(cells + 1)
    gain = np.empty(cells + 1)
    for index in range(first, last):
        mean = 0.0
        for y in range(rows):
            row = 0.0  # by rows: sums that do not wait for each other
            for x in range(columns):
                row += scores[index, y * columns + x]
            mean += row
        mean /= cells
        count = 0
        for cell in range(cells):
            height = scores[index, cell] - mean
            chosen[count] = cell
            above[count] = height
            count += height > 0
        for number in range(count):
            places[number] = framed[chosen[number]]
        components = label_places(places, count, width, True, parent, joins, labels)
        parts[: components + 1] = 0.0
        for number in range(count):  # in four parts, for the same reason
            parts[labels[places[number]], number & 3] += above[number]
        total = 0.0
        for label in range(1, components + 1):
            mass[label] = parts[label].sum()
            total += mass[label]
        if not (floor < total < np.inf):  # constant, or holding inf or NaN
            entropy[index] = slope[index, :] = mean - mean  # 0, or NaN
            continue
        nats = 0.0
        for label in range(1, components + 1):
            share = max(mass[label] / total, 2.0**-1022)  # a share that underflows has no logarithm
            gain[label] = -log(share)
            nats += share * gain[label]
        for label in range(1, components + 1):
            gain[label] = (gain[label] - nats) / total
        mean_gain = 0.0
        for number in range(count):
            mean_gain += gain[labels[places[number]]]
        mean_gain /= cells
        slope[index, :] = -mean_gain
        for number in range(count):
            slope[index, chosen[number]] = gain[labels[places[number]]] - mean_gain
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
