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
    """Keys and values of one block, `[B, H, U, d]` each."""

    keys: Tensor
    values: Tensor


def whole_pass(decoder: MaskedDecoder, sequence: Tensor, still: Tensor) -> tuple[Tensor, list[Kept]]:
    """The blocks on whole sequences, and what later passes need of the tokens that will stay as they are.

    Args:
        decoder: of timm's plain blocks, as it is made.
        sequence: `[B, L, W]`, from `MaskedDecoder.sequence`.
        still: places of these tokens, int64 `[B, U]`.

    Returns:
        `[B, L, W]` before the decoder's norm, and keys and values for each block.

    Raises:
        ValueError: for blocks of another kind.
    """
    kept = []
    for block in decoder.blocks:
        reason = why_closed(block)
        if reason is not None:
            raise ValueError(f"the decoder cannot run on some of its tokens: {reason}")
        query, key, value = _projected(block, sequence)
        index = still[:, None, :, None].expand(-1, key.shape[1], -1, key.shape[3])
        kept.append(Kept(key.gather(2, index), value.gather(2, index)))
        sequence = _rest(block, sequence, functional.scaled_dot_product_attention(query, key, value))
    return sequence, kept


def partial_pass(decoder: MaskedDecoder, tokens: Tensor, kept: list[Kept], image: Tensor) -> Tensor:
    """The blocks on some tokens.

    Args:
        decoder: as before.
        tokens: `[C, T, W]`, of the same kind as a sequence's.
        kept: from `whole_pass`, of other tokens.
        image: which of its sequences each belongs to, int64 `[C]`.

    Returns:
        `[C, T, W]` before the decoder's norm.
    """
    for block, (keys, values) in zip(decoder.blocks, kept, strict=True):
        query, key, value = _projected(block, tokens)
        key, value = torch.cat((keys[image], key), dim=2), torch.cat((values[image], value), dim=2)
        tokens = _rest(block, tokens, functional.scaled_dot_product_attention(query, key, value))
    return tokens


def _projected(block: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values, `[B, H, T, d]` each."""
    query, key, value = block.attn.qkv(block.norm1(x)).unflatten(2, (3, block.attn.num_heads, -1)).unbind(2)
    return query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)


def _rest(block: Any, x: Tensor, mixed: Tensor) -> Tensor:
    x = x + block.attn.proj(mixed.transpose(1, 2).flatten(2))
    changed: Tensor = x + block.mlp(block.norm2(x))
    return changed
