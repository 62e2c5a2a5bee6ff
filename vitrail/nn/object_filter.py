"""The object-aware filter: patches ask a few object prototypes what they are, beside the last self-attention.

    h_q = W_q h,   U_k = W_k U,   U_v = W_v U               1 x 1 maps with biases; U: M prototypes of 3 x 3 cells
    mu  = h_q correlated with U_k over 3 x 3 patches        zeros outside of the image, [heads, M] numbers a patch
    o   = softmax over M of (mu / sqrt(d)) times the mean of U_v over its 9 cells
    out = Linear(a, o) = a + A a + B o + c                  a: what the self-attention gives, A = B = c = 0 at first

Source: Wen et al., "Semantic Concentration for Self-Supervised Dense Representations Learning" (CoTAP), Eq. 17 to 19
and Fig. 6; the prototypes learn by `vitrail.ops.prototype_entropy` (Eq. 15 and 16).

Deviations and readings, as no code is public:

- Eq. 18 prints U_q and h_k; Eq. 17 defines h_q and U_k alone, which are used. A score sums 9 d products and is divided
  by sqrt(d), d the channels of a head, as printed.
- Fig. 11 shows heads, and "other learnable layers" are as in the self-attention: as many heads, D' = D, biases.
- Eq. 19 ends at the concatenation, which is twice as wide as the block. A linear layer 2D -> D follows. It is kept as
  what it adds to `a`, at first nothing: a loaded checkpoint gives the same bits before the first step, in any
  precision, and weight decay draws it to the plain attention, not to zero.
- What h is: `ObjectFilterConfig.reads`. Whether the class token asks: `ObjectFilterConfig.class_token`.
- Prototypes start as truncated normal numbers of deviation 0.02, a length near 1: they can turn at the paper's learning
  rate of 3e-5.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from vitrail.config import Config
from vitrail.nn.open_block import OpenBlock

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer

CELLS = 3
"""Side of a prototype, in patches."""


class ObjectFilterConfig(Config):
    """What an object-aware filter is built from."""

    prototypes: int = Field(64, ge=1)
    """How many objects there are to ask."""
    heads: int | None = Field(None, ge=1)
    """Attention heads, a divisor of the width; null for as many as the block's self-attention has."""
    reads: Literal["input", "attention"] = "input"
    """What asks: the normalized input of the self-attention, so that both stand side by side, or what the
    self-attention gives, so that Eq. 19 holds to the letter (the result is concatenated with what asked). The paper
    says only "in the last attention block"."""
    class_token: bool = False
    """The class token asks, too. It has no neighbors: it is scored as if it stood in all 3 x 3 cells. Without, it
    passes as it is, and the filter, in the last block, does not change it in a forward pass; the paper speaks of
    patches."""


class ObjectFilter(nn.Module):
    """Tokens of a block's self-attention to tokens, see the top of this file.

    `prototypes [M, D, 3, 3]`, `query`, `key` and `value` are W_q, W_k and W_v, `join` is (A, B) with c. What depends on
    the parameters alone (U_k and the mean of U_v) is computed once a call for the whole batch. It is kept between calls
    only inside of `held`: parameters move in too many ways to be sure of a copy elsewhere.
    """

    def __init__(self, config: ObjectFilterConfig, width: int, heads: int) -> None:
        """For tokens `width` wide; `heads` is the self-attention's number. `ValueError` where heads do not fit."""
        super().__init__()
        self.config = config
        self.heads = config.heads or heads
        if width % self.heads:
            raise ValueError(
                f"object_filter.heads {self.heads} does not divide the width {width}; choose a divisor, or null for "
                f"the block's own {heads}"
            )
        self.prototypes = nn.Parameter(torch.empty(config.prototypes, width, CELLS, CELLS))
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.join = nn.Linear(2 * width, width)
        nn.init.trunc_normal_(self.prototypes, std=0.02)
        for part in (self.query, self.key, self.value):
            nn.init.trunc_normal_(part.weight, std=0.02)
            nn.init.zeros_(part.bias)
        nn.init.zeros_(self.join.weight)
        nn.init.zeros_(self.join.bias)
        self._held: tuple[Tensor, Tensor] | None = None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Inside, the prototypes' keys and values are constants: for evaluation, where no parameter moves."""
        with torch.no_grad():
            self._held = self._keys(), self._values()
        try:
            yield
        finally:
            self._held = None

    def forward(self, normed: Tensor, attended: Tensor, grid: tuple[int, int]) -> Tensor:
        """What the self-attention gives, with what the prototypes say.

        Args:
            normed: its input `[B, T, D]`, the patches last.
            attended: its output `[B, T, D]`.
            grid: (Y, X) of the patches; the T - Y * X tokens before them are the class token, then others.

        Returns:
            `[B, T, D]`. Tokens that are no patches pass as they are, but the class token where it asks.

        Raises:
            ValueError: for fewer tokens than the grid has patches.
        """
        asking = normed if self.config.reads == "input" else attended
        others = _others(asking, grid)
        keys = self._keys()
        scores = self._scores(asking, grid, keys)
        first = min(others, 1) if self.config.class_token else 0
        if first:
            scores = torch.cat((self._scores_of_one(asking[:, :1], keys), scores), dim=3)
        chosen = torch.cat((attended[:, :first], attended[:, others:]), dim=1)
        both = torch.cat((chosen, self._mixed(scores).to(chosen.dtype)), dim=-1)
        changed = chosen + self.join(both)
        return torch.cat((changed[:, :first], attended[:, first:others], changed[:, first:]), dim=1)

    def filtered(self, asking: Tensor, grid: tuple[int, int]) -> Tensor:
        """o of Eq. 19 for the patches, `[B, N, D]`, of tokens `[B, T, D]` with the patches last."""
        return self._mixed(self._scores(asking, grid, self._keys()))

    def attention(self, asking: Tensor, grid: tuple[int, int]) -> Tensor:
        """How much each head of each patch takes of each prototype: `[B, heads, M, Y, X]`, over M it sums to 1.

        `asking [B, T, D]` are the tokens that `config.reads` names, the patches last.
        """
        return _softmax(self._scores(asking, grid, self._keys())).unflatten(3, grid)

    def extra_repr(self) -> str:
        """Sizes and switches."""
        return f"prototypes={len(self.prototypes)}, heads={self.heads}, reads={self.config.reads!r}"

    def _keys(self) -> Tensor:
        """U_k by heads, `[heads, M, d, 3, 3]`."""
        if self._held is not None:
            return self._held[0]
        keys = self.key(self.prototypes.movedim(1, -1)).movedim(-1, 1)
        return keys.unflatten(1, (self.heads, -1)).transpose(0, 1)

    def _values(self) -> Tensor:
        """The mean of U_v over its cells, by heads, `[heads, M, d]`."""
        if self._held is not None:
            return self._held[1]
        values = self.value(self.prototypes.mean((-2, -1)))  # W_v is linear: the mean of U_v is that of the mean
        return values.unflatten(1, (self.heads, -1)).transpose(0, 1)

    def _scores(self, tokens: Tensor, grid: tuple[int, int], keys: Tensor) -> Tensor:
        """mu / sqrt(d) of the patches, `[B, heads, M, N]`."""
        query = self.query(tokens[:, _others(tokens, grid) :])
        # Zeros around h_q and not around h: its bias would stand outside of the image.
        pictures = query.transpose(1, 2).unflatten(2, grid)
        scores = functional.conv2d(pictures, keys.flatten(0, 1), padding=CELLS // 2, groups=self.heads)
        return scores.unflatten(1, (self.heads, -1)).flatten(3) * keys.shape[2] ** -0.5

    def _scores_of_one(self, token: Tensor, keys: Tensor) -> Tensor:
        """The same for a token `[B, 1, D]` that stands in all cells, `[B, heads, M, 1]`."""
        query = self.query(token).unflatten(2, (self.heads, -1)).movedim(1, -1)
        return keys.sum((-2, -1)) @ query * keys.shape[2] ** -0.5

    def _mixed(self, scores: Tensor) -> Tensor:
        """Values by their scores `[B, heads, M, N]`: `[B, N, D]`."""
        values = self._values()
        mixed = _softmax(scores).to(values.dtype).transpose(2, 3) @ values
        return mixed.transpose(1, 2).flatten(2)


def install(vit: VisionTransformer, config: ObjectFilterConfig) -> ObjectFilter:
    """Put a filter into the last block of a timm `VisionTransformer`, in place, on its device and in its precision.

    Its weights stand under `blocks.N.object_filter.`; the others keep timm's names.

    Raises:
        ValueError: for a block that has one, or that is no plain timm block, and heads that do not divide the width.
    """
    last = vit.blocks[-1]
    if getattr(last, "object_filter", None) is not None:
        raise ValueError("the last block has an object-aware filter already; it is trained on as it is")
    opened = last if isinstance(last, OpenBlock) else OpenBlock(last)
    like = opened.attn.proj.weight
    made = ObjectFilter(config, like.shape[0], opened.attn.num_heads).to(like.device, like.dtype)
    opened.object_filter = made
    vit.blocks[-1] = opened.train(last.training)
    return made


def _others(tokens: Tensor, grid: tuple[int, int]) -> int:
    """How many tokens stand before the patches."""
    others = tokens.shape[1] - grid[0] * grid[1]
    if others < 0:
        raise ValueError(
            f"{tokens.shape[1]} tokens are fewer than the {grid[0]} x {grid[1]} patches that the object-aware filter "
            "looks at; it needs the whole image"
        )
    return others


def _softmax(scores: Tensor) -> Tensor:
    return scores.to(torch.promote_types(scores.dtype, torch.float32)).softmax(2)
