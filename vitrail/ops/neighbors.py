"""Exact nearest neighbors in flat memory, and the vote of neighbors on a class.

Brute force over tiles of queries and bank, so that memory does not grow with either. Ties are settled by the
lower bank number, whatever the tile size: equal similarities keep their order because value and number are
compared as one integer. The vote is DINO's (Caron et al. 2021, after Wu et al. 2018).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Metric = Literal["cosine", "dot", "euclidean"]


def nearest(
    queries: Tensor, bank: Tensor, k: int, *, chunk: int = 2048, metric: Metric = "cosine"
) -> tuple[Tensor, Tensor]:
    """The k nearest entries of a bank, by brute force.

    Args:
        queries: `[Q, D]` floating point; may lie on another device than the bank, and is moved there in
            pieces.
        bank: `[M, D]` floating point.
        k: neighbors per query, 1 to M.
        chunk: queries and bank entries compared at once; memory grows with its square, results do not depend
            on it beyond the rounding of the matrix product.
        metric: "cosine" (a zero vector is similar to nothing, 0), "dot", or "euclidean".

    Returns:
        values `[Q, k]` float32, best first: similarities, falling; for "euclidean" distances, rising. And ids
        `[Q, k]` int64, rows of the bank; of equal values the lower id comes first. Both on the device of the
        bank.

    Raises:
        ValueError: for k outside 1..M, unequal widths, an unknown metric, inf or NaN.
    """
    _check(queries, bank, k, metric)
    queries, bank = queries.detach(), bank.detach()
    best_keys = [
        _nearest_keys(queries[start : start + chunk].to(bank.device), bank, k, chunk, metric)
        for start in range(0, len(queries), chunk)
    ]
    keys = torch.cat(best_keys) if best_keys else torch.empty((0, k), dtype=torch.int64, device=bank.device)
    values, ids = _unpack(keys)
    return (-values if metric == "euclidean" else values), ids


def knn_vote(values: Tensor, ids: Tensor, labels: Tensor, classes: int, temperature: float = 0.07) -> Tensor:
    """What the neighbors say about the class: each votes for its own with weight exp(value / temperature).

    Args:
        values: `[Q, k]` similarities, larger is nearer (negate distances).
        ids: `[Q, k]` int64, rows of the bank.
        labels: `[M]` int64 classes of the bank, in 0..classes-1.
        classes: number of classes.
        temperature: positive; DINO uses 0.07 with cosine similarity.

    Returns:
        `[Q, classes]`, the share of votes, each row sums to 1. For k' < k pass the first k' columns.

    Raises:
        ValueError: for a label outside the classes, or a temperature that is not positive.
    """
    if temperature <= 0:
        raise ValueError(f"temperature is {temperature}; it must be positive, as in 0.07")
    if labels.numel():
        low, high = (int(value) for value in labels.aminmax())
        if low < 0 or high >= classes:
            raise ValueError(f"labels run from {low} to {high}, but there are {classes} classes; labels start at 0")
    weights = (values / temperature).softmax(-1)  # the same votes, scaled to 1: exp alone overflows
    votes = weights.new_zeros((len(values), classes))
    return votes.scatter_add(1, labels.to(ids.device)[ids], weights)


def _check(queries: Tensor, bank: Tensor, k: int, metric: str) -> None:
    if metric not in ("cosine", "dot", "euclidean"):
        raise ValueError(f"metric is {metric!r}; give 'cosine', 'dot' or 'euclidean'")
    if queries.ndim != 2 or bank.ndim != 2 or queries.shape[1] != bank.shape[1]:
        raise ValueError(
            f"queries have the shape {tuple(queries.shape)} and the bank {tuple(bank.shape)};"
            " both need [rows, D] with one D"
        )
    if not 1 <= k <= len(bank):
        raise ValueError(f"k is {k}, but the bank has {len(bank)} entries; choose k from 1 to {len(bank)}")
    for name, rows in (("queries", queries), ("the bank", bank)):
        finite = rows.isfinite().all(1)
        if not finite.all():
            raise ValueError(f"{name} hold inf or NaN, first in row {int((~finite).nonzero()[0])} of {len(rows)}")


def _nearest_keys(queries: Tensor, bank: Tensor, k: int, chunk: int, metric: Metric) -> Tensor:
    best = torch.empty((len(queries), 0), dtype=torch.int64, device=bank.device)
    for start in range(0, len(bank), chunk):
        likeness = _likeness(queries, bank[start : start + chunk], metric)
        numbers = torch.arange(start, start + likeness.shape[1], device=bank.device)
        keys = torch.cat([best, _pack(likeness, numbers)], 1)
        best = keys.topk(min(k, keys.shape[1]), sorted=True).values
    return best


def _likeness(queries: Tensor, bank: Tensor, metric: Metric) -> Tensor:
    queries, bank = queries.float(), bank.float()
    if metric == "euclidean":
        # By differences: the product form |q|^2 - 2qb + |b|^2 loses near neighbors to cancellation.
        return -torch.cdist(queries, bank, compute_mode="donot_use_mm_for_euclid_dist")
    if metric == "cosine":
        queries, bank = functional.normalize(queries, dim=1), functional.normalize(bank, dim=1)
    return queries @ bank.T


def _pack(likeness: Tensor, numbers: Tensor) -> Tensor:
    # Bits of a float order as integers once the negative ones are turned round; + 0.0 makes -0.0 equal to
    # 0.0.
    bits = (likeness + 0.0).view(torch.int32).long()
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    return (ordered << 32) | (0xFFFFFFFF - numbers)


def _unpack(keys: Tensor) -> tuple[Tensor, Tensor]:
    ordered = keys >> 32
    bits = torch.where(ordered < 0, ordered ^ 0x7FFFFFFF, ordered)
    return bits.int().view(torch.float32), 0xFFFFFFFF - (keys & 0xFFFFFFFF)
