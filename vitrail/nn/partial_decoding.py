"""MAE's decoder on some of its tokens, where the others are taken to be as they were in a whole pass before.

The others still are looked at: their keys and values of each block are kept from that pass. What is left out of both
groups is there for nobody.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from vitrail.nn.masked_autoencoder import MaskedDecoder
from vitrail.nn.open_block import why_closed


class Kept(NamedTuple):
    """Keys and values of one block, `[B, L, H, d]` each."""

    keys: Tensor
    values: Tensor


def whole_pass(decoder: MaskedDecoder, sequence: Tensor) -> tuple[Tensor, list[Kept]]:
    """The blocks on whole sequences `[B, L, W]`: what is before the decoder's norm, and each block's keys and values.

    Raises:
        ValueError: for blocks other than timm's plain ones.
    """
    kept = []
    for block in decoder.blocks:
        reason = why_closed(block)
        if reason is not None:
            raise ValueError(f"the decoder cannot run on some of its tokens: {reason}")
        query, key, value = _projected(block, sequence)
        kept.append(Kept(key, value))
        sequence = _attended(block, sequence, query, key, value)
    return sequence, kept


def partial_pass(decoder: MaskedDecoder, tokens: Tensor, kept: list[Kept], image: Tensor, still: Tensor) -> Tensor:
    """The blocks on some tokens.

    Args:
        decoder: as before.
        tokens: `[C, T, W]`, of the same kind as a sequence's.
        kept: from `whole_pass`.
        image: which of its sequences each belongs to, int64 `[C]`.
        still: places there of the tokens that are as they were, int64 `[C, U]`.

    Returns:
        `[C, T, W]` before the decoder's norm.
    """
    image = image.unsqueeze(1)
    for block, (keys, values) in zip(decoder.blocks, kept, strict=True):
        query, key, value = _projected(block, tokens)
        key, value = torch.cat((keys[image, still], key), dim=1), torch.cat((values[image, still], value), dim=1)
        tokens = _attended(block, tokens, query, key, value)
    return tokens


def first_influence(decoder: MaskedDecoder, sequence: Tensor, sources: Tensor) -> Tensor:
    """How far the attention of the first block moves in each place where one token is left out.

        o_j without i = o_j + p_ji / (1 - p_ji) (o_j - v_i)

    Args:
        decoder: as before.
        sequence: `[B, L, W]`.
        sources: places of the tokens that are left out, one at a time, int64 `[B, V]`.

    Returns:
        `[B, V, L]`, the length of that step over all heads.
    """
    query, key, value = (part.transpose(1, 2) for part in _projected(decoder.blocks[0], sequence))
    index = sources[:, None, :, None].expand(-1, key.shape[1], -1, key.shape[3])
    scores = query @ key.transpose(-1, -2) * key.shape[-1] ** -0.5
    weights = scores.float().softmax(-1)
    mixed, left_out = (weights.to(value.dtype) @ value).float(), value.gather(2, index).float()
    weights = weights.gather(3, sources[:, None, None, :].expand(-1, key.shape[1], key.shape[2], -1))
    products = (mixed @ left_out.transpose(-1, -2)) * 2
    squares = mixed.square().sum(-1, keepdim=True) + left_out.square().sum(-1).unsqueeze(2) - products
    steps = (weights / (1 - weights).clamp(min=1e-3)).square() * squares.clamp(min=0)
    return steps.sum(1).sqrt().transpose(1, 2)


def _projected(block: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values, `[B, T, H, d]` each."""
    query, key, value = block.attn.qkv(block.norm1(x)).unflatten(2, (3, block.attn.num_heads, -1)).unbind(2)
    return query, key, value


def _attended(block: Any, x: Tensor, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
    mixed = functional.scaled_dot_product_attention(query, key, value)
    x = x + block.attn.proj(mixed.transpose(1, 2).flatten(2))
    changed: Tensor = x + block.mlp(block.norm2(x))
    return changed
