"""ListMLE: how likely is the right order, where items are drawn one after the other in proportion to exp(score).

    loss = sum over positions k of [ log sum_{j >= k} exp(y_j) - y_k ],  y in the order of falling targets

is minus the log of the Plackett-Luce probability of that order. The tails are one reversed `logcumsumexp`, so the loss
is finite for any finite scores, exact, and does not change where all scores of a list are shifted; nothing is added
inside the logarithm.

Sources: Xia et al., "Listwise Approach to Learning to Rank", 2008; Luo et al., "LTRP", supplement, with the sum over a
list and the mean over lists.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Reduction = Literal["mean", "sum", "none"]


def listmle(
    scores: Tensor,
    targets: Tensor,
    mask: Tensor | None = None,
    *,
    top: int | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Minus the log probability of the order that targets give.

    Args:
        scores: `[..., N]`, logits, any float type; they are summed in float32 or wider.
        targets: `[..., N]`, larger comes first; of equal ones the first. They take no gradient.
        mask: bool `[..., N]`, True is a list's item; None: all are.
        top: count the first `top` positions alone, 1 or more: which items lead matters, and their order. None: all.
        reduction: over lists; "mean" is over those that have items. "none" keeps `[...]`, with 0 for empty lists.

    Returns:
        Nats, a scalar or `[...]`.

    Raises:
        ValueError: for shapes that differ, no items at all, NaN or infinite targets, or a `top` below 1.
    """
    inside = items_of(scores, targets, mask)
    if top is not None and top < 1:
        raise ValueError(f"top is {top}; it counts positions, from 1 on, or is None for all of them")
    ordered, counted = in_order(scores, targets, inside)
    tails = ordered.flip(-1).logcumsumexp(-1).flip(-1)
    losses = torch.where(counted, tails - ordered, 0.0)[..., :top].sum(-1)
    return reduced(losses, inside.any(-1), reduction)


def in_order(scores: Tensor, targets: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    """Scores `[..., N]` in the order of falling targets, float32 or wider, and which of them count, bool `[..., N]`.

    Those that do not count stand last, with a score that adds nothing to a sum of exponentials.
    """
    wide = scores if scores.dtype == torch.float64 else scores.float()
    order = targets.masked_fill(~inside, -torch.inf).argsort(dim=-1, descending=True, stable=True)
    lowest = torch.finfo(wide.dtype).min / 2
    return wide.masked_fill(~inside, lowest).gather(-1, order), inside.gather(-1, order)


def reduced(losses: Tensor, counted: Tensor, reduction: Reduction) -> Tensor:
    """The losses `[...]` of lists as one number; the mean is over the lists that count, 0 where none does."""
    if reduction == "none":
        return losses
    if reduction == "sum":
        return losses.sum()
    if reduction == "mean":
        return losses.sum() / counted.sum().clamp(min=1)
    raise ValueError(f"reduction is {reduction!r}; it is 'mean', 'sum' or 'none'")


def items_of(scores: Tensor, targets: Tensor, mask: Tensor | None) -> Tensor:
    """Which items count, bool `[..., N]`; raises `ValueError` where scores, targets and mask are not the same lists."""
    if scores.shape != targets.shape or scores.ndim == 0 or not scores.shape[-1]:
        raise ValueError(
            f"scores are {list(scores.shape)} and targets {list(targets.shape)}; both must be [..., N] with N from 1 on"
        )
    if mask is not None and (mask.shape != scores.shape or mask.dtype != torch.bool):
        raise ValueError(
            f"the mask is {list(mask.shape)} of {mask.dtype} and the scores are {list(scores.shape)};"
            " it must be bool and as large"
        )
    inside = torch.ones_like(targets, dtype=torch.bool) if mask is None else mask
    finite = targets.isfinite() | ~inside
    if not bool(finite.all()):
        raise ValueError(
            f"{int((~finite).sum())} of {targets.numel()} targets are NaN or infinite; mask them, or mend them"
        )
    return inside
