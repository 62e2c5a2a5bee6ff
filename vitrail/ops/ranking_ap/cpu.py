"""The CoTAP loss and its gradient on the CPU: O(N log N) time and O(N) memory a row, rows shared out among threads.

Items lie in the order of p. A node holds the items of a range of q ranks; cutting the range in halves gives each
upper item its misranked partners among the lower ones, in one walk along the node with running sums. Items of equal
q have one rank, so that no cut comes between them. The gradient is the same walk over the mirrored items (-p, -q),
with weights. All sums are float64, and p is centered before.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitrail.ops.compiled import compiled, share_out

_DIGITS, _BITS = 6, 11  # of a float64 as an integer that sorts as the number does
_WORK = 30  # cells of a map that cost as much as one item


@compiled
def _sort(values: Any, order: Any, spare: Any, keys: Any, counts: Any) -> None:
    """Sort `order` stably by `values[order]`: one counting pass for each digit in which the values differ."""
    raw = values.view(np.int64)
    counts[:] = 0
    for item in range(len(values)):
        key = np.uint64(raw[item] ^ ((raw[item] >> 63) | np.int64(-(2**63))))
        keys[item] = key
        for digit in range(_DIGITS):
            counts[digit, (key >> np.uint64(_BITS * digit)) & np.uint64(2**_BITS - 1)] += 1
    for digit in range(_DIGITS):
        shift, mask = np.uint64(_BITS * digit), np.uint64(2**_BITS - 1)
        if counts[digit, (keys[0] >> shift) & mask] == len(values):
            continue
        total = 0
        for bucket in range(2**_BITS):
            counts[digit, bucket], total = total, total + counts[digit, bucket]
        for number in range(len(values)):
            item = order[number]
            bucket = (keys[item] >> shift) & mask
            spare[counts[digit, bucket]] = item
            counts[digit, bucket] += 1
        order[:] = spare


@compiled
def _order_items(p: Any, q: Any) -> Any:
    """The items in rising order of p and, in that order, how many different targets lie under that of each.

    Of equal p, the one with the larger q comes first: of the items with a smaller q, those before it have a smaller p.
    """
    order, rank, spare = np.arange(len(p)), np.empty(len(p), np.int64), np.empty(len(p), np.int64)
    keys = np.empty(len(p), np.uint64)
    counts = np.empty((_DIGITS, 2**_BITS), np.int64)
    _sort(q, order, spare, keys, counts)
    group = 0
    for number in range(len(q)):
        group += number > 0 and q[order[number]] != q[order[number - 1]]
        rank[order[number]] = group
    spare[:] = order
    order[:] = spare[::-1]
    _sort(p, order, spare, keys, counts)
    return order, rank[order]


@compiled
def _sum_below(rank: Any, values: Any) -> Any:
    """For each item the sum of `values` over the items of lower rank."""
    totals, out = np.zeros(len(rank) + 1), np.empty(len(rank))
    for item in range(len(rank)):
        totals[rank[item] + 1] += values[item]
    for group in range(len(rank)):
        totals[group + 1] += totals[group]
    for item in range(len(rank)):
        out[item] = totals[rank[item]]
    return out


@compiled
def _cut(p: Any, weight: Any, rank: Any, item: Any, middle: int, upper: Any, upper_index: Any) -> Any:
    """Part a node stably by rank: the lower items stay, the upper ones go to `upper` with the sums they have passed.

    `upper` [n, 5] is p, weight and the sums of w, w p and w p^2 over the lower items before; `upper_index` [n, 3] is
    rank, item and how many lower items came before. Every item is written to both, and one of the two is overwritten:
    a branch here would be guessed wrong half of the time.
    """
    low = high = np.uintp(0)
    mass = first = second = 0.0
    for number in range(np.uintp(len(p))):
        x, w, r, who = p[number], weight[number], rank[number], item[number]
        p[low], weight[low], rank[low], item[low] = x, w, r, who
        upper[high, 0], upper[high, 1] = x, w
        upper[high, 2], upper[high, 3], upper[high, 4] = mass, first, second
        upper_index[high, 0], upper_index[high, 1], upper_index[high, 2] = r, who, low
        lower = r < middle
        w *= lower
        mass, first, second = mass + w, first + w * x, second + w * x * x
        low, high = low + np.uintp(lower), high + np.uintp(not lower)
    return low


@compiled
def _collect(
    p: Any,
    weight: Any,
    rank: Any,
    item: Any,
    low: int,
    upper: Any,
    upper_index: Any,
    tau2: float,
    sums: Any,
    passed: Any,
) -> None:
    """Put the upper items behind the lower ones, and add what they passed to their sums."""
    lag = np.uintp(0)
    mass = first = second = 0.0
    for number in range(np.uintp(len(p) - low)):
        x, w = upper[number, 0], upper[number, 1]
        m, f, s = upper[number, 2], upper[number, 3], upper[number, 4]
        who = upper_index[number, 1]
        there = low + number
        p[there], weight[there], rank[there], item[there] = x, w, upper_index[number, 0], who
        y = x - tau2
        while lag < low and p[lag] < y:
            wx = weight[lag] * p[lag]
            mass, first, second, lag = mass + weight[lag], first + wx, second + wx * p[lag], lag + np.uintp(1)
        sums[who, 0] += (x * m - f) - (y * mass - first)
        sums[who, 1] += (x * (x * m - 2 * f) + s) - (y * (y * mass - 2 * first) + second)
        passed[who] += upper_index[number, 2]


@compiled
def _walk(p: Any, weight: Any, rank: Any, tau2: float) -> Any:
    """Sums over the items of lower rank, for items in the order of p; the three arrays are put into that of q.

    Returns [N, 2]: the sums of w (x - [x - tau2]) and of w (x^2 - [x - tau2]^2), where x = p_i - p_j and brackets
    count where they are positive; and [N]: how many items of lower rank stand before.
    """
    count = len(p)
    sums, passed, item = np.zeros((count, 2)), np.zeros(count, np.int64), np.arange(count).astype(np.uint32)
    upper, upper_index, stack = np.empty((count, 5)), np.empty((count, 3), np.uint32), np.empty((128, 4), np.int64)
    stack[0] = 0, count, 0, rank.max() + 1
    depth = 1
    while depth:
        depth -= 1
        start, stop, least, most = stack[depth]
        if most - least < 2:
            continue
        middle = (least + most) // 2
        node = p[start:stop], weight[start:stop], rank[start:stop], item[start:stop]
        low = _cut(*node, middle, upper, upper_index)
        _collect(*node, low, upper, upper_index, tau2, sums, passed)
        stack[depth, 0], stack[depth, 1], stack[depth, 2], stack[depth, 3] = start, start + low, least, middle
        depth += 1
        stack[depth, 0], stack[depth, 1], stack[depth, 2], stack[depth, 3] = start + low, stop, middle, most
        depth += 1
    return sums, passed


@compiled
def _dominated(x: Any, weight: Any, rank: Any, tau2: float) -> Any:
    """Of each item, over the items of lower rank: the weighed surrogate, its slope, and how many come before.

    Args:
        x: [N] scores, rising.
        weight: [N], of the items summed over.
        rank: [N] of the targets.
    """
    mass, first = _sum_below(rank, weight), _sum_below(rank, weight * x)
    sums, passed = _walk(x.copy(), weight.copy(), rank.astype(np.uint32), tau2)
    value = mass - 2 / tau2 * (x * mass - first) + sums[:, 1] / tau2**2
    return value, 2 / tau2 * (sums[:, 0] / tau2 - mass), passed


@compiled
def _moments(p: Any, q: Any, tau2: float) -> Any:
    """A, R and dA_i/dp_i of one row with finite scores, in the order of p, that order, the ranks and p centered."""
    order, rank = _order_items(p, q)
    ones = np.ones(len(p))
    below = _sum_below(rank, ones)
    x = p[order]
    smaller = np.zeros(len(p))
    for number in range(1, len(p)):
        smaller[number] = number if x[number] > x[number - 1] else smaller[number - 1]
    x -= p.mean()
    misranked, steepness, passed = _dominated(x, ones, rank, tau2)
    return np.maximum(misranked, 0.0), len(p) - below - smaller + passed, steepness, order, rank, x


@compiled
def _widen(values: Any, wide: Any) -> bool:
    """Copy to float64, without negative zeros, which sort apart; whether all are finite."""
    finite = True
    for item in range(len(values)):
        wide[item] = values[item] + 0.0
        finite &= wide[item] - wide[item] == 0
    return finite


@compiled
def _moments_of_rows(first: int, last: int, p: Any, q: Any, tau2: float, misranked: Any, ahead: Any) -> None:
    wide_p, wide_q = np.empty(p.shape[1]), np.empty(p.shape[1])
    for row in range(first, last):
        if _widen(p[row], wide_p) & _widen(q[row], wide_q):
            a, r, _, order, _, _ = _moments(wide_p, wide_q, tau2)
            misranked[row, order], ahead[row, order] = a, r
        else:
            misranked[row, :], ahead[row, :] = np.nan, -1


@compiled
def _losses_of_rows(first: int, last: int, p: Any, q: Any, tau1: float, tau2: float, loss: Any, slope: Any) -> None:
    count = p.shape[1]
    wide_p, wide_q = np.empty(count), np.empty(count)
    for row in range(first, last):
        if not (_widen(p[row], wide_p) & _widen(q[row], wide_q)):
            loss[row] = np.nan
            slope[row : row + 1] = np.nan
            continue
        misranked, ahead, steepness, order, rank, x = _moments(wide_p, wide_q, tau2)
        gamma = np.maximum(wide_q[order] - tau1, 0.0) / count
        share = 1.0 / (misranked + ahead)
        loss[row] = (gamma * misranked * share).sum()
        if len(slope):
            weight = gamma * ahead * share * share
            _, pull, _ = _dominated(-x[::-1], weight[::-1].copy(), rank.max() - rank[::-1], tau2)
            slope[row, order] = weight * steepness - pull[::-1]


def loss_and_slope(p: Tensor, q: Tensor, tau1: float, tau2: float, slope: bool = True) -> tuple[Tensor, Tensor]:
    """As `vitrail.ops.ranking_ap.loss_and_slope`, for tensors on the CPU."""
    count = p.shape[-1]
    losses = torch.empty(p.shape[:-1], dtype=p.dtype)
    slopes = torch.empty(p.shape if slope else (0, count), dtype=p.dtype)
    flat_p, flat_q = (each.detach().contiguous().numpy().reshape(-1, count) for each in (p, q))
    flat = losses.numpy().reshape(-1), slopes.numpy().reshape(-1, count)
    share_out(_losses_of_rows, losses.numel(), _WORK * count, flat_p, flat_q, float(tau1), float(tau2), *flat)
    return losses, slopes


def moments(p: Tensor, q: Tensor, tau2: float) -> tuple[Tensor, Tensor]:
    """As `vitrail.ops.ranking_ap.cotap_moments`, for tensors on the CPU."""
    count = p.shape[-1]
    misranked, ahead = torch.empty(p.shape, dtype=torch.float64), torch.empty(p.shape, dtype=torch.int64)
    flat = [each.detach().contiguous().numpy().reshape(-1, count) for each in (p, q)]
    into = misranked.numpy().reshape(-1, count), ahead.numpy().reshape(-1, count)
    share_out(_moments_of_rows, p.numel() // count, _WORK * count, *flat, float(tau2), *into)
    return misranked, ahead
