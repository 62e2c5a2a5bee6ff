"""Token merging: which tokens are alike enough to become one, and the average that they become.

Tokens stand alternately in two sets, A (places 0, 2, 4, ...) and B (1, 3, 5, ...). Each token of A points to the token
of B with the most similar key (cosine). The r most similar pairs are kept, and of each the token of A goes into that of
B; several may go into one. What is left of A comes first then, B after it, both in their order; protected tokens, as
the class token, stay in front of both.

    merged = sum of s_i x_i / sum of s_i        s_i: how many tokens token i stands for

Source: Bolya et al., "Token merging: your ViT but faster", 2023 (arXiv 2210.09461), Section 3; written from its text.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


@torch.no_grad()
def match_tokens(keys: Tensor, merges: int, protected: int = 1) -> Tensor:
    """Where each token goes when the most similar ones are merged.

    Args:
        keys: `[B, T, D]`, any float type, compared by their direction; a key of zeros is like no other.
        merges: r, how many tokens go into another one; at most half of those that are not protected, rounded down.
        protected: the first tokens that are never merged, nor merged into (class, distillation, register tokens).

    Returns:
        int64 `[B, T]`, places from 0 to T - r - 1; merged tokens share one. Protected tokens keep their place, and
        without merges all do. Of equally similar pairs that of smaller place is kept.

    Raises:
        ValueError: for another shape, more merges than there can be, or keys that are not finite.
    """
    if keys.ndim != 3 or not 0 <= protected <= keys.shape[1]:
        raise ValueError(f"keys are {list(keys.shape)} with {protected} protected; give [B, T, D] and 0 to T")
    batch, count, _ = keys.shape
    if not 0 <= merges <= most_merges(count, protected):
        raise ValueError(
            f"{merges} merges among {count} tokens of which {protected} are protected; at most "
            f"{most_merges(count, protected)} can be, so give 0 to that"
        )
    if not merges:
        return torch.arange(count, device=keys.device).expand(batch, -1)
    partner, order = _pairs(keys, protected)
    gone, left = order[:, :merges], order[:, merges:].sort(dim=1).values
    places = torch.empty(batch, count, dtype=torch.int64, device=keys.device)
    evens = torch.empty_like(order).scatter(1, left, _numbered(left))
    odds = torch.arange(count // 2, device=keys.device).expand(batch, -1) + left.shape[1]
    evens.scatter_(1, gone, odds.gather(1, partner.gather(1, gone)))
    places[:, ::2], places[:, 1::2] = evens, odds
    return _protected_first(count - merges, left.shape[1], protected).to(keys.device)[places]


def most_merges(count: int, protected: int = 1) -> int:
    """How many of `count` tokens can be merged at once: half of those that are not protected, rounded down."""
    return max(count - protected, 0) // 2


def merge_tokens(tokens: Tensor, sizes: Tensor, places: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Tokens that go to one place become their average, weighted by how many tokens each stands for.

    Args:
        tokens: `[B, T, D]`.
        sizes: `[B, T]`, positive; float32 where tokens are narrower, so that sums are exact.
        places: int64 `[B, T]`, 0 to count - 1, as `match_tokens` returns them.
        count: how many tokens are left.

    Returns:
        Tokens `[B, count, D]` and sizes `[B, count]`; gradients flow to tokens.
    """
    weights = torch.zeros_like(sizes[:, :count]).scatter_add(1, places, sizes)
    weighted = tokens * sizes.unsqueeze(2)
    totals = torch.zeros_like(weighted[:, :count])
    totals = totals.scatter_add(1, places.unsqueeze(2).expand_as(weighted), weighted)
    return (totals / weights.unsqueeze(2)).to(tokens.dtype), weights


def _pairs(keys: Tensor, protected: int) -> tuple[Tensor, Tensor]:
    """Of each token of A its partner in B, `[B, A]`, and A's tokens in the order in which they would be merged."""
    wide = keys if keys.dtype == torch.float64 else keys.float()
    if not bool(wide.isfinite().all()):
        raise ValueError(f"{int((~wide.isfinite()).sum())} of {wide.numel()} values of the keys are NaN or infinite")
    wide = functional.normalize(wide, dim=-1)
    alike = wide[:, ::2] @ wide[:, 1::2].transpose(1, 2)
    alike[:, : (protected + 1) // 2] = -torch.inf
    alike[:, :, : protected // 2] = -torch.inf
    nearest = alike.max(dim=2)
    return nearest.indices, nearest.values.argsort(dim=1, descending=True, stable=True)


def _protected_first(count: int, left: int, protected: int) -> Tensor:
    """New place `[count]` of each place among `left` tokens of A and then those of B."""
    front = [token // 2 + left * (token % 2) for token in range(protected)]
    behind = sorted(set(range(count)) - set(front))
    return torch.tensor([*front, *behind]).argsort()


def _numbered(left: Tensor) -> Tensor:
    return torch.arange(left.shape[1], device=left.device).expand_as(left)
