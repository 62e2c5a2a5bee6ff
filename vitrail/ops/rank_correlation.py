"""Kendall's tau-b: how far two lists agree on which of each two items comes first.

    tau = (agreeing pairs - disagreeing pairs) / sqrt(pairs untied in a * pairs untied in b)

Source: Kendall, "The treatment of ties in ranking problems", 1945.
"""

from __future__ import annotations

from torch import Tensor


def kendall(one: Tensor, two: Tensor) -> Tensor:
    """Tau-b of each list, in [-1, 1]; 0 where one of them has no two different values.

    Args:
        one, two: `[..., N]`, compared within the last axis.

    Returns:
        Float32 `[...]`, without gradient.

    Raises:
        ValueError: for shapes that differ, or less than two items.
    """
    if one.shape != two.shape or one.ndim == 0 or one.shape[-1] < 2:
        raise ValueError(f"lists are {list(one.shape)} and {list(two.shape)}; both are [..., N] with N from 2 on")
    first, second = (_signs(values.detach()) for values in (one, two))
    untied = first.abs().sum((-2, -1)) * second.abs().sum((-2, -1))
    return (first * second).sum((-2, -1)) / untied.clamp(min=1).sqrt()


def _signs(values: Tensor) -> Tensor:
    """Which of each two items is larger, `[..., N, N]`: -1, 0 or 1."""
    return (values.unsqueeze(-1) > values.unsqueeze(-2)).float() - (values.unsqueeze(-1) < values.unsqueeze(-2)).float()
