"""ML-Decoder: a classifier head that asks all tokens of an image, class by class or group by group.

G groups have a query each; one layer of cross-attention lets every query read the tokens, a feed-forward layer
follows, and each query answers for its classes, C / G of them, with weights of their own:

    Q1 = norm(Q)                                   queries [G, W]
    Q2 = norm(Q1 + attention(Q1, E, E))            E = relu(tokens A + a), [K, W]
    Q3 = norm(Q2 + mlp(Q2))
    logit of class c = <weight of c, Q3[floor(c G / C)]> + bias of c

There is no self-attention between the queries, so the cost is linear in their number. Source: Ridnik et al.,
"ML-Decoder: Scalable and Versatile Classification Head", 2021 (arXiv 2111.12933), Section 2.

Deviations from the paper
- Where G does not divide C, groups differ by one class at most; the paper's ceil(C / G) each would leave the last ones
  short, or without a class.
"""

from __future__ import annotations

from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from vitrail.config import Config


class MlDecoderConfig(Config):
    """Sizes of the head; the published ones by default."""

    width: int = Field(768, ge=1)
    """Channels of queries and keys."""
    heads: int = Field(8, ge=1)
    """Attention heads; they divide the width."""
    groups: int | None = Field(None, ge=1)
    """Queries; null for one a class up to 100, the published number."""
    hidden: int = Field(2048, ge=1)
    """Width of the feed-forward layer's middle."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Of attention's output, and inside and after the feed-forward layer."""
    learned_queries: bool = False
    """Train the queries; the authors leave them as they are drawn, the layers around them learn."""

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.width % self.heads:
            raise ValueError(
                f"width {self.width} does not split into {self.heads} heads; take a multiple of {self.heads}"
            )
        return self


class MlDecoder(nn.Module):
    """Tokens `[B, K, D]` to logits `[B, C]`, whatever K is and in whatever order they come."""

    queries: Tensor  # [G, W]

    def __init__(self, config: MlDecoderConfig, features: int, classes: int) -> None:
        """Args: features: D. classes: C.

        Raises `ValueError` for more groups than classes: a group without a class would learn nothing.
        """
        super().__init__()
        groups = min(classes, 100) if config.groups is None else config.groups
        if groups > classes:
            raise ValueError(f"{groups} groups are more than the {classes} classes; set groups to {classes} or fewer")
        width = config.width
        self.config, self.classes, self.groups = config, classes, groups
        self.embed = nn.Linear(features, width)
        queries = torch.randn(groups, width)
        if config.learned_queries:
            self.queries = nn.Parameter(queries)
        else:
            self.register_buffer("queries", queries)
        self.norm_queries = nn.LayerNorm(width)
        self.query, self.key, self.value, self.proj = (nn.Linear(width, width) for _ in range(4))
        self.norm_attention = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, config.hidden), nn.ReLU(), nn.Dropout(config.dropout), nn.Linear(config.hidden, width)
        )
        self.norm_mlp = nn.LayerNorm(width)
        self.drop = nn.Dropout(config.dropout)
        self.weight = nn.Parameter(torch.empty(classes, width))
        self.bias = nn.Parameter(torch.zeros(classes))
        for layer in (self.query, self.key, self.value, self.proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        nn.init.xavier_normal_(self.weight)
        members, places = _shared_out(classes, groups)
        self.register_buffer("members", members, persistent=False)
        self.register_buffer("places", places, persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits `[B, C]` of tokens `[B, K, D]`, K at least 1."""
        if tokens.ndim != 3 or not tokens.shape[1] or tokens.shape[2] != self.embed.in_features:
            raise ValueError(
                f"tokens are {list(tokens.shape)}; this head takes [B, K, {self.embed.in_features}] with at least one "
                "token"
            )
        tokens = F.relu(self.embed(tokens))
        queries = self.norm_queries(self.queries).expand(len(tokens), -1, -1)
        queries = self.norm_attention(queries + self.drop(self._attention(queries, tokens)))
        queries = self.norm_mlp(queries + self.drop(self.mlp(queries)))
        answers = torch.einsum("bgw,gmw->bgm", queries, self.weight[self.get_buffer("members")])
        return answers.flatten(1)[:, self.get_buffer("places")] + self.bias

    def _attention(self, queries: Tensor, tokens: Tensor) -> Tensor:
        heads = self.config.heads
        q, k, v = (
            layer(given).unflatten(2, (heads, -1)).transpose(1, 2)
            for layer, given in ((self.query, queries), (self.key, tokens), (self.value, tokens))
        )
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def _shared_out(classes: int, groups: int) -> tuple[Tensor, Tensor]:
    """Classes of each group `[G, M]`, short ones filled up with class 0, and where class c stands in that, `[C]`."""
    group = torch.arange(classes) * groups // classes
    first = torch.searchsorted(group, torch.arange(groups))
    rank = torch.arange(classes) - first[group]
    most = int(rank.max()) + 1
    members = torch.zeros(groups, most, dtype=torch.int64)
    members[group, rank] = torch.arange(classes)
    return members, group * most + rank
