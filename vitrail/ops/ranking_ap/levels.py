"""Sums over the items of smaller targets in plain torch, level by level: for devices without a kernel.

The nodes of a level hold items whose starts share their upper bits, each in the order of p. The next bit parts every
node into lower and upper items; running sums over the lower ones, read where an upper item stands and where p - tau2
would, give the upper ones their share. O(N log N) time, O(N) memory.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from vitrail.ops.ranking_ap.batched import Dominated, Layout


class _Items(NamedTuple):
    """Items `[rows, N]` of one level, node after node."""

    item: Tensor  # its place in the layout
    x: Tensor
    weight: Tensor
    rank: Tensor
    begin: Tensor  # of its node
    end: Tensor
    lag: Tensor  # the first place of its node where the score is not under x - tau2
    value: Tensor
    steepness: Tensor
    passed: Tensor


def dominated(layout: Layout, weight: Tensor | None, tau2: float) -> Dominated:
    """The sums of `Dominated`; in float32 on a device that has no float64.

    Args:
        layout: `[rows, N]`.
        weight: `[rows, N]` in the order of the layout; None: all 1.
        tau2: positive.
    """
    x = layout.scores.to(torch.float32 if layout.scores.device.type == "mps" else torch.float64)
    x = x - x.mean(-1, keepdim=True)
    weight = torch.ones_like(x) if weight is None else weight.to(x.dtype)
    count = x.shape[-1]
    place = torch.arange(count, device=x.device).expand_as(layout.start).contiguous()
    lag, nothing = torch.searchsorted(x, x - tau2), torch.zeros_like(x)
    begin, end = torch.zeros_like(place), torch.full_like(place, count)
    items = _Items(place, x, weight, layout.start, begin, end, lag, nothing, nothing, nothing)
    for level in reversed(range((count - 1).bit_length())):
        items = _next_level(items, place, (items.rank >> level) & 1, tau2)
    back = [torch.empty_like(each).scatter_(-1, items.item, each) for each in items[-3:]]
    return Dominated(*back)


def _next_level(items: _Items, place: Tensor, upper: Tensor, tau2: float) -> _Items:
    lower = _running(1 - upper)
    first, number, self_number, lag_number = (lower.gather(-1, at) for at in (items.begin, items.end, place, items.lag))
    number, self_number, lag_number = number - first, self_number - first, lag_number - first
    items = _with_sums(items, place, upper, self_number, tau2)
    middle, is_upper = items.begin + number, upper == 1
    target = torch.where(is_upper, middle + place - items.begin - self_number, items.begin + self_number)
    items = items._replace(
        lag=torch.where(is_upper, middle + items.lag - items.begin - lag_number, items.begin + lag_number),
        begin=torch.where(is_upper, middle, items.begin),
        end=torch.where(is_upper, items.end, middle),
    )
    return _Items(*(torch.empty_like(each).scatter_(-1, target, each) for each in items))


def _with_sums(items: _Items, place: Tensor, upper: Tensor, passed: Tensor, tau2: float) -> _Items:
    """Give upper items their sums over the lower ones of their node.

    l(x) = 1 - 2x/tau2 + ([x]^2 - [x - tau2]^2) / tau2^2, where a bracket counts if it is positive.
    """
    x, y = items.x, items.x - tau2
    lower_weight = items.weight * (1 - upper)
    powers = [_running(lower_weight * power) for power in (1, x, x * x)]
    starts = [power.gather(-1, items.begin) for power in powers]
    mass, first = (power.gather(-1, items.end) - start for power, start in zip(powers[:2], starts))
    near, far = ([power.gather(-1, at) - start for power, start in zip(powers, starts)] for at in (place, items.lag))
    slopes = (x * near[0] - near[1]) - (y * far[0] - far[1])
    squares = (x * (x * near[0] - 2 * near[1]) + near[2]) - (y * (y * far[0] - 2 * far[1]) + far[2])
    value, steepness = mass - 2 / tau2 * (x * mass - first) + squares / tau2**2, 2 / tau2 * (slopes / tau2 - mass)
    return items._replace(
        value=items.value + upper * value,
        steepness=items.steepness + upper * steepness,
        passed=items.passed + upper * passed,
    )


def _running(values: Tensor) -> Tensor:
    """Sums of all values before each place, `[rows, N + 1]`."""
    return torch.nn.functional.pad(values.cumsum(-1), (1, 0))
