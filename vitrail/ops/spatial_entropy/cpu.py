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
def _list_above(scores: Any, columns: int, chosen: Any, above: Any) -> tuple[float, int]:
    """List the cells above the mean, in reading order, with their heights; returns the mean and their number."""
    mean = 0.0
    for start in range(0, len(scores), columns):
        row = 0.0  # by rows: sums that do not wait for each other
        for cell in range(start, start + columns):
            row += scores[cell]
        mean += row
    mean /= len(scores)
    count = 0
    for cell in range(len(scores)):
        height = scores[cell] - mean
        chosen[count] = cell
        above[count] = height
        count += height > 0
    return mean, count


@compiled
def _mass_of_labels(places: Any, count: int, labels: Any, above: Any, components: int, mass: Any) -> float:
    """Sum the heights of each component into `mass[label, 0]`; returns the sum over all of them."""
    mass[: components + 1] = 0.0
    for number in range(count):  # in four sums per label, that need not wait for each other
        mass[labels[places[number]], number & 3] += above[number]
    total = 0.0
    for label in range(1, components + 1):
        mass[label, 0] += mass[label, 1] + mass[label, 2] + mass[label, 3]
        total += mass[label, 0]
    return total


@compiled
def _entropy_maps(
    first: int, last: int, scores: Any, rows: int, columns: int, floor: float, entropy: Any, slope: Any
) -> None:
    cells, width = rows * columns, columns + 1
    framed = np.empty(cells, np.int32)  # number of a cell in the map -> its place in the framed map
    for cell in range(cells):
        framed[cell] = (cell // columns + 1) * width + cell % columns + 1
    chosen, places, joins = np.empty(cells, np.int32), np.empty(cells, np.int32), np.empty(cells, np.int32)
    parent = np.empty((rows + 1) * width + 1, np.int32)
    labels = np.empty((rows + 1) * width + 1, np.int32)
    above, mass, gain = np.empty(cells), np.empty((cells + 1, 4)), np.empty(cells + 1)
    for index in range(first, last):
        mean, count = _list_above(scores[index], columns, chosen, above)
        for number in range(count):
            places[number] = framed[chosen[number]]
        components = label_places(places, count, width, True, parent, joins, labels)
        total = _mass_of_labels(places, count, labels, above, components, mass)
        if not (floor < total < np.inf):  # constant, or holding inf or NaN
            entropy[index] = slope[index, :] = mean - mean  # 0, or NaN
            continue
        nats = 0.0
        for label in range(1, components + 1):
            share = max(mass[label, 0] / total, 2.0**-1022)  # a share that underflows has no logarithm
            gain[label] = -log(share)
            nats += share * gain[label]
        mean_gain = 0.0
        for number in range(count):
            above[number] = (gain[labels[places[number]]] - nats) / total
            mean_gain += above[number]
        mean_gain /= cells
        slope[index, :] = -mean_gain
        for number in range(count):
            slope[index, chosen[number]] = above[number] - mean_gain
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
