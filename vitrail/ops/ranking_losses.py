"""Losses that a ranker may learn by instead of ListMLE: the ablation of LTRP.

All take scores and targets `[..., N]`, larger comes first, and a mask of the items; none gives a gradient to targets.

- `ranknet`: each pair is a coin, P(i before j) = sigmoid(y_i - y_j); cross entropy with 1, 1/2 or 0.
- `listnet`: cross entropy of two softmax distributions over the list.
- `pointwise`: mean square of the difference.
- `top_focused`: ListMLE among the leaders, RankNet between each leader and each other item.

Sources: Burges et al. 2005 (RankNet); Cao et al. 2007 (ListNet); Luo et al., "LTRP", supplement.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from vitrail.ops.listmle import Reduction, items_of, listmle, reduced


def ranknet(
    scores: Tensor,
    targets: Tensor,
    mask: Tensor | None = None,
    *,
    margin: float = 1e-3,
    reduction: Reduction = "mean",
) -> Tensor:
    """Cross entropy of all pairs of a list, mean over its pairs.

    Args:
        scores: `[..., N]`, logits.
        targets: `[..., N]`.
        mask: bool `[..., N]`, True is an item.
        margin: targets that differ by less are equal: their pair wants 1/2.
        reduction: over lists, as in `listmle`. A list of less than two items has the loss 0 and does not count.

    Raises:
        ValueError: as `listmle`, and for a negative margin.
    """
    inside = items_of(scores, targets, mask)
    if margin < 0:
        raise ValueError(f"margin is {margin}; it is 0 or more")
    pairs = (inside[..., :, None] & inside[..., None, :]).triu(1)
    return _of_pairs(scores, targets, pairs, margin, reduction)


def listnet(
    scores: Tensor,
    targets: Tensor,
    mask: Tensor | None = None,
    *,
    temperature: float = 1.0,
    reduction: Reduction = "mean",
) -> Tensor:
    """Cross entropy of the softmax of scores with that of targets, sum over the list.

    Args:
        scores: `[..., N]`, logits.
        targets: `[..., N]`.
        mask: bool `[..., N]`, True is an item.
        temperature: divides the targets, positive; errors of reconstruction differ little, so 1 makes all alike.
        reduction: over lists, as in `listmle`.

    Raises:
        ValueError: as `listmle`, and for a temperature that is not positive.
    """
    inside = items_of(scores, targets, mask)
    if temperature <= 0:
        raise ValueError(f"temperature is {temperature}; it must be positive")
    lowest = torch.finfo(torch.float32).min / 2
    wanted = (_wide(targets) / temperature).masked_fill(~inside, lowest).softmax(-1).detach()
    logs = _wide(scores).masked_fill(~inside, lowest).log_softmax(-1)
    losses = -torch.where(inside, wanted * logs, 0.0).sum(-1)
    return reduced(losses, inside.any(-1), reduction)


def pointwise(scores: Tensor, targets: Tensor, mask: Tensor | None = None, *, reduction: Reduction = "mean") -> Tensor:
    """Square of the difference, mean over the list: regression, which needs targets on the scale of scores.

    Args and errors: as `listmle`.
    """
    inside = items_of(scores, targets, mask)
    squares = (_wide(scores) - _wide(targets).detach()).masked_fill(~inside, 0) ** 2
    return reduced(squares.sum(-1) / inside.sum(-1).clamp(min=1), inside.any(-1), reduction)


def top_focused(
    scores: Tensor,
    targets: Tensor,
    mask: Tensor | None = None,
    *,
    top: int = 20,
    margin: float = 1e-3,
    reduction: Reduction = "mean",
) -> Tensor:
    """ListMLE of the `top` items of largest target among themselves, plus RankNet of each of them with each other item.

    Args:
        scores: `[..., N]`, logits.
        targets: `[..., N]`.
        mask: bool `[..., N]`, True is an item.
        top: number of leaders, 1 or more; where a list is not longer, this is ListMLE.
        margin: as in `ranknet`.
        reduction: over lists, as in `listmle`.

    Raises:
        ValueError: as `listmle` and `ranknet`.
    """
    inside = items_of(scores, targets, mask)
    if top < 1:
        raise ValueError(f"top is {top}; there is at least one leader")
    order = targets.masked_fill(~inside, -torch.inf).argsort(dim=-1, descending=True, stable=True)
    leads = torch.zeros_like(inside).scatter(-1, order[..., :top], True) & inside
    follows = inside & ~leads
    among = listmle(scores, targets, leads, reduction=reduction)
    pairs = leads[..., :, None] & follows[..., None, :]
    return among + _of_pairs(scores, targets, pairs, margin, reduction)


def _of_pairs(scores: Tensor, targets: Tensor, pairs: Tensor, margin: float, reduction: Reduction) -> Tensor:
    """Mean over pairs `[..., N, N]` of a list, then over lists that have pairs."""
    wide, wanted = _wide(scores), _wide(targets).detach()
    logits = wide[..., :, None] - wide[..., None, :]
    apart = wanted[..., :, None] - wanted[..., None, :]
    coin = torch.where(apart.abs() < margin, 0.5, (apart > 0).to(logits.dtype))
    entropy = functional.binary_cross_entropy_with_logits(logits, coin, reduction="none")
    number = pairs.sum((-2, -1))
    losses = torch.where(pairs, entropy, 0.0).sum((-2, -1)) / number.clamp(min=1)
    return reduced(losses, number > 0, reduction)


def _wide(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()
