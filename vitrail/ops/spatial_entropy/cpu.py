"""Spatial entropy and its gradient on the CPU: one numba pass per map, the maps shared out among threads."""

from __future__ import annotations

from math import log
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitrail.ops.compiled import compiled, fast_sums, share_out
from vitrail.ops.components.cpu import label_cells, list_cells, scratch_for


@fast_sums
def _mean(scores: Any) -> float:
    total = 0.0
    for cell in range(len(scores)):
        total += scores[cell]
    return total / len(scores)


@compiled
def _list_above(scores: Any, mean: float, above: Any, chosen: Any) -> Any:
    """List the cells above the mean, in reading order; returns their number."""
    for cell in range(len(scores)):  # a loop of its own, that compares many cells at a time
        above[cell] = scores[cell] > mean
    return list_cells(above, chosen)


@compiled
def _mass_of_labels(
    scores: Any, mean: float, chosen: Any, count: int, labels: Any, components: int, mass: Any
) -> float:
    """Sum the heights of each component into `mass[label, 0]`; returns the sum over all of them."""
    mass[: components + 1] = 0.0
    for number in range(np.uintp(count)):  # in four sums per label, that need not wait for each other
        mass[np.uintp(labels[number]), number & np.uintp(3)] += scores[np.uintp(chosen[number])] - mean
    total = 0.0
    for label in range(1, components + 1):
        mass[label, 0] += mass[label, 1] + mass[label, 2] + mass[label, 3]
        total += mass[label, 0]
    return total


@compiled
def _entropy_of_masses(mass: Any, total: float, components: int, gain: Any) -> float:
    """Entropy in nats; `gain[label]` becomes the derivative by the height of a cell in that component."""
    nats = 0.0
    for label in range(1, components + 1):
        share = max(mass[label, 0] / total, 2.0**-1022)  # a share that underflows has no logarithm
        gain[label] = -log(share)
        nats += share * gain[label]
    for label in range(1, components + 1):
        gain[label] = (gain[label] - nats) / total
    return nats


@fast_sums
def _slope_of_gains(gain: Any, labels: Any, chosen: Any, count: int, slope: Any) -> None:
    mean_gain = 0.0
    for number in range(np.uintp(count)):
        mean_gain += gain[np.uintp(labels[number])]
    mean_gain /= len(slope)
    slope[:] = -mean_gain
    for number in range(np.uintp(count)):
        slope[np.uintp(chosen[number])] = gain[np.uintp(labels[number])] - mean_gain


@compiled
def _entropy_maps(first: int, last: int, scores: Any, columns: int, floor: float, entropy: Any, slope: Any) -> None:
    cells = scores.shape[1]
    scratch = scratch_for(cells // columns, columns)
    above, chosen, labels = np.empty(cells, np.bool_), np.empty(cells, np.uint32), np.empty(cells, np.uint32)
    mass, gain = np.empty((cells + 1, 4)), np.empty(cells + 1)
    for index in range(first, last):
        mean = _mean(scores[index])
        count = _list_above(scores[index], mean, above, chosen)
        components = label_cells(chosen, count, columns, True, scratch, labels)
        total = _mass_of_labels(scores[index], mean, chosen, count, labels, components, mass)
        if floor < total < np.inf:
            entropy[index] = _entropy_of_masses(mass, total, components, gain)
            _slope_of_gains(gain, labels, chosen, count, slope[index])
        else:  # constant, or holding inf or NaN
            entropy[index] = slope[index, :] = mean - mean  # 0, or NaN


def entropy_and_slope(scores: Tensor, floor: float) -> tuple[Tensor, Tensor]:
    """As `vitrail.ops.spatial_entropy.entropy_and_slope`, for a non-empty tensor `[..., Y, X]` on the CPU."""
    rows, columns = scores.shape[-2:]
    wide = scores if scores.dtype in (torch.float32, torch.float64) else scores.float()
    wide = wide.detach().contiguous()
    entropy, slope = torch.empty(scores.shape[:-2], dtype=wide.dtype), torch.empty_like(wide)
    flat, flat_slope = (each.numpy().reshape(-1, rows * columns) for each in (wide, slope))
    share_out(_entropy_maps, len(flat), rows * columns, flat, columns, floor, entropy.numpy().reshape(-1), flat_slope)
    return entropy, slope
