"""The CoTAP loss and its gradient on any device, all rows at once: sort, sum over lower targets, the same mirrored.

What is summed over lower targets is left to `levels` (plain torch) or `cuda` (Triton). No atomics and no host sync: the
same numbers on every run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Layout(NamedTuple):
    """Items `[rows, N]` in rising order of p; of equal p, the one with the larger q comes first."""

    scores: Tensor
    """p, finite."""
    start: Tensor
    """How many items have a smaller q, int64: equal q have equal starts."""
    position: Tensor
    """Place in the rising order of q, int64; start <= position."""


class Dominated(NamedTuple):
    """For each item of a layout, over the items j of smaller start, with their weights w; float64 `[rows, N]`.

    The kernels leave `value` and `passed` unset where weights are given: the gradient needs the other alone.
    """

    value: Tensor
    """Sum of w_j l(p_i - p_j); rounding may make a sum of 0 negative."""
    steepness: Tensor
    """Sum of w_j l'(p_i - p_j)."""
    passed: Tensor
    """How many such j stand before i."""


Sum = Callable[[Layout, Tensor | None, float], Dominated]


class _Moments(NamedTuple):
    layout: Layout
    stop: Tensor  # how many items have a q that is not larger
    order: Tensor  # the item at each place
    misranked: Tensor
    ahead: Tensor
    steepness: Tensor
    q: Tensor


def loss_and_slope(
    p: Tensor, q: Tensor, tau1: float, tau2: float, dominated: Sum, slope: bool = True
) -> tuple[Tensor, Tensor]:
    """As `vitrail.ops.ranking_ap.loss_and_slope`, for p and q of one type, with the sums by `dominated`."""
    shape, count = p.shape, p.shape[-1]
    finite = _finite(p, q)
    found = _moments(p, q, finite, tau2, dominated)
    gamma = (found.q.to(found.ahead.dtype) - tau1).clamp(min=0) / count
    share = 1 / (found.misranked + found.ahead)
    loss = (gamma * found.misranked * share).sum(-1).where(finite, torch.nan)
    if not slope:
        return loss.reshape(shape[:-1]).to(p.dtype), p.new_empty((0, count))
    weight = gamma * found.ahead * share * share
    pull = dominated(_mirrored(found.layout, found.stop), weight.flip(-1), tau2).steepness.flip(-1)
    gradient = (weight * found.steepness - pull).where(finite[:, None], torch.nan).to(p.dtype)
    return loss.reshape(shape[:-1]).to(p.dtype), _put_back(gradient, found.order).reshape(shape)


def moments(p: Tensor, q: Tensor, tau2: float, dominated: Sum) -> tuple[Tensor, Tensor]:
    """As `vitrail.ops.ranking_ap.cotap_moments`, for p and q of one type, with the sums by `dominated`."""
    finite = _finite(p, q)
    found = _moments(p, q, finite, tau2, dominated)
    misranked = found.misranked.where(finite[:, None], torch.nan)
    ahead = found.ahead.long().where(finite[:, None], -1)
    return _put_back(misranked, found.order).reshape(p.shape), _put_back(ahead, found.order).reshape(p.shape)


def _finite(p: Tensor, q: Tensor) -> Tensor:
    count = p.shape[-1]
    return p.reshape(-1, count).isfinite().all(-1) & q.reshape(-1, count).isfinite().all(-1)


def _moments(p: Tensor, q: Tensor, finite: Tensor, tau2: float, dominated: Sum) -> _Moments:
    # Broken rows are computed as rows of zeros, which keeps their indices inside.
    flat = [each.reshape(-1, each.shape[-1]).where(finite[:, None], 0.0) for each in (p, q)]
    count = p.shape[-1]
    q_sorted, by_q = flat[1].sort(dim=-1, stable=True)
    scores, from_top = flat[0].gather(-1, by_q).flip(-1).sort(dim=-1, stable=True)
    position = count - 1 - from_top
    start = torch.searchsorted(q_sorted, q_sorted).gather(-1, position)
    stop = torch.searchsorted(q_sorted, q_sorted, right=True).gather(-1, position)
    layout = Layout(scores, start, position)
    found = dominated(layout, None, tau2)
    smaller = torch.searchsorted(scores, scores)
    ahead = (count - start - smaller) + found.passed
    order = by_q.gather(-1, position)
    return _Moments(
        layout, stop, order, found.value.clamp(min=0), ahead, found.steepness, q_sorted.gather(-1, position)
    )


def _mirrored(layout: Layout, stop: Tensor) -> Layout:
    """The items with -p and -q: the sums over lower targets are then those over higher ones."""
    count = stop.shape[-1]
    return Layout(-layout.scores.flip(-1), count - stop.flip(-1), count - 1 - layout.position.flip(-1))


def _put_back(values: Tensor, order: Tensor) -> Tensor:
    return torch.empty_like(values).scatter_(-1, order, values)
