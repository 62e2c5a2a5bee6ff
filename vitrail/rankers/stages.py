"""What networks that drop patches in stages share: where they drop, how many, and scores of who stayed longest."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

STAGES = 3


def blocks_of(asked: Sequence[int] | None, depth: int) -> tuple[int, ...]:
    """Blocks, counted from 0, at which patches are dropped: by default 3, 6, 9 of 12, and in that proportion.

    Raises:
        ValueError: blocks that are not there, not ascending or none, and a network of fewer than four blocks that
            nobody chose for.
    """
    if asked is None:
        if depth <= STAGES:
            raise ValueError(f"patches are dropped in {STAGES} stages, and there are {depth} blocks; choose the blocks")
        return tuple(depth * stage // (STAGES + 1) for stage in range(1, STAGES + 1))
    blocks = tuple(asked)
    if not blocks or list(blocks) != sorted(set(blocks)) or blocks[0] < 0 or blocks[-1] >= depth:
        raise ValueError(f"patches are to be dropped at blocks {blocks}; choose ascending ones of 0 to {depth - 1}")
    return blocks


def rate_for(number: int | None, patches: int, ranker: str, stages: int = STAGES) -> float:
    """The share to keep at each of several stages, so that about `number` of all patches are left: the root.

    Raises:
        ValueError: without a number, or for one outside 1 to N.
    """
    if number is None:
        raise ValueError(f"the ranker {ranker} prunes to a number of patches; pass number=, 1 to {patches}")
    if not 1 <= number <= patches:
        raise ValueError(f"{number} patches are to be kept of {patches}; choose 1 to {patches}")
    return (number / patches) ** (1 / stages)


def by_level(level: Tensor, soft: Tensor) -> Tensor:
    """Scores `[B, N]` that order by level first and by `soft` second: level + place among the image's soft scores.

    Args:
        level: `[B, N]`, whole numbers.
        soft: `[B, N]`, any finite values; of equal ones the smaller id comes first.

    Returns:
        float32; the level is the whole part, the place `(N - 1 - rank) / N` is in [0, 1). Where `soft` is NaN, the
        score is, too: it has no place.
    """
    count = soft.shape[1]
    order = soft.argsort(dim=1, descending=True, stable=True)
    places = (count - 1 - torch.arange(count, device=soft.device)).float() / count
    scores = level.float() + torch.zeros_like(soft, dtype=torch.float32).scatter(1, order, places.expand_as(order))
    return scores.masked_fill(soft.isnan(), torch.nan)


def take(tokens: Tensor, places: Tensor) -> Tensor:
    """Tokens `[B, k, D]` at places `[B, k]` of `[B, T, D]`."""
    return tokens.gather(1, places.unsqueeze(-1).expand(-1, -1, tokens.shape[2]))
