"""MAE's decoder on some of its tokens, where others are taken to be as they were in a whole pass before.

These are still looked at: their keys and values of each block are kept from that pass. What is in neither group is
there for nobody. A whole sequence without one token is the case in which all others are fresh; its first block reads
what the whole pass has computed already, and its last one computes only what is asked for.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from vitrail.nn.masked_autoencoder import MaskedDecoder
from vitrail.nn.open_block import why_closed


class Kept(NamedTuple):
    """Of one block, `[B, L, H, d]` each."""

    queries: Tensor
    keys: Tensor
    values: Tensor


def need_plain(decoder: MaskedDecoder) -> None:
    """Raises:
    ValueError: for a decoder of blocks other than timm's plain ones.
    """
    for block in decoder.blocks:
        reason = why_closed(block)
        if reason is not None:
            raise ValueError(f"the decoder cannot run on some of its tokens: {reason}")


def whole_pass(decoder: MaskedDecoder, sequence: Tensor, blocks: int | None = None) -> tuple[Tensor, list[Kept]]:
    """The blocks on whole sequences.

    Args:
        decoder: of timm's plain blocks.
        sequence: `[B, L, W]`.
        blocks: how many blocks' queries, keys and values are kept, from the first on; None for all.

    Returns:
        What is before the decoder's norm, `[B, L, W]`, and what is kept.
    """
    kept: list[Kept] = []
    for number, block in enumerate(decoder.blocks):
        found = _projected(block, sequence)
        if blocks is None or number < blocks:
            kept.append(found)
        sequence = _attended(block, sequence, *found)
    return sequence, kept


def partial_pass(
    decoder: MaskedDecoder,
    sequence: Tensor,
    kept: list[Kept],
    image: Tensor,
    still: Tensor,
    fresh: Tensor,
    wanted: Tensor,
) -> Tensor:
    """The blocks on some tokens.

    Args:
        decoder: as before.
        sequence: `[B, L, W]`, as before.
        kept: from `whole_pass`: of all blocks, or of the first where nothing is `still`.
        image: which sequence each belongs to, int64 `[C]`.
        still: places there of the tokens that are as they were, int64 `[C, U]`.
        fresh: places there of the tokens that are computed, int64 `[C, T]`.
        wanted: of which of these, int64 `[C, M]` below T.

    Returns:
        `[C, M, W]` before the decoder's norm.
    """
    row, places = image.unsqueeze(1), torch.cat((still, fresh), dim=1)
    tokens = sequence[row, fresh]
    for number, block in enumerate(decoder.blocks):
        if number == 0:  # no token has changed yet
            query, key, value = kept[0].queries[row, fresh], kept[0].keys[row, places], kept[0].values[row, places]
        else:
            query, key, value = _projected(block, tokens)
            if still.shape[1]:
                key, value = (
                    _beside(kept[number].keys, key, row, places),
                    _beside(kept[number].values, value, row, places),
                )
        if number == len(decoder.blocks) - 1:
            each = torch.arange(len(image), device=image.device).unsqueeze(1)
            tokens, query = tokens[each, wanted], query[each, wanted]
        tokens = _attended(block, tokens, query, key, value)
    return tokens


def first_influence(first: Kept, sources: Tensor) -> Tensor:
    """How far the attention of the first block moves in each place where one token is left out.

        o_j without i = o_j + p_ji / (1 - p_ji) (o_j - v_i)

    Args:
        first: the first block's, from `whole_pass`.
        sources: places of the tokens that are left out, one at a time, int64 `[B, V]`.

    Returns:
        `[B, V, L]`, the length of that step over all heads, float32 or wider.
    """
    query, key, value = (wide(part).transpose(1, 2) for part in first)
    index = sources[:, None, :, None].expand(-1, key.shape[1], -1, key.shape[3])
    with torch.autocast(query.device.type, enabled=False):
        weights = (query @ key.transpose(-1, -2) * key.shape[-1] ** -0.5).softmax(-1)
        mixed, left_out = weights @ value, value.gather(2, index)
        weights = weights.gather(3, sources[:, None, None, :].expand(-1, key.shape[1], key.shape[2], -1))
        products = (mixed @ left_out.transpose(-1, -2)) * 2
    squares = mixed.square().sum(-1, keepdim=True) + left_out.square().sum(-1).unsqueeze(2) - products
    steps = (weights / (1 - weights).clamp(min=1e-3)).square() * squares.clamp(min=0)
    return steps.sum(1).sqrt().transpose(1, 2)


def wide(values: Tensor) -> Tensor:
    """Float32, or float64 where it was that."""
    return values if values.dtype == torch.float64 else values.float()


def _beside(old: Tensor, new: Tensor, row: Tensor, places: Tensor) -> Tensor:
    """`[C, U + T, H, d]`: of places that are still what was kept, then what is new."""
    both = old[row, places]
    both[:, -new.shape[1] :] = new
    return both


def _projected(block: Any, x: Tensor) -> Kept:
    return Kept(*block.attn.qkv(block.norm1(x)).unflatten(2, (3, block.attn.num_heads, -1)).unbind(2))


def _attended(block: Any, x: Tensor, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
    mixed = functional.scaled_dot_product_attention(query, key, value)
    x = x + block.attn.proj(mixed.transpose(1, 2).flatten(2))
    changed: Tensor = x + block.mlp(block.norm2(x))
    return changed
