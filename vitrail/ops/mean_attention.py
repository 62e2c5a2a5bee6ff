"""One map of attention for each image: the mean over some heads, stretched to [0, 1].

    m = mean over h of S[h],   a = (m - min m) / (max m - min m)

Source: PPD (Proxy Probing Decoder, 2022) and LocLoc take heads 0 to 2 of DINO's last block.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

HEADS = (0, 1, 2)


def mean_attention(attention: Tensor, heads: Sequence[int] | None = HEADS) -> Tensor:
    """Average and stretch.

    Args:
        attention: `[B, H, Y, X]`, floating point, one map a head.
        heads: which heads, counted from 0, negative from the last; None for all.

    Returns:
        `[B, Y, X]` in [0, 1], float32 or wider; each map has a 0 and a 1. One that is the same everywhere says nothing
        about places and becomes 0.

    Raises:
        ValueError: another shape, no head, one that is not there or named twice, and maps that are not finite, with
            their positions.
    """
    if attention.ndim != 4 or not attention.is_floating_point() or not attention.shape[1:].numel():
        raise ValueError(
            f"attention is {list(attention.shape)} of {attention.dtype}; give floating point [B, H, Y, X], not empty"
        )
    count = attention.shape[1]
    chosen = list(range(count)) if heads is None else check_heads(heads, count)
    mean = attention.to(torch.promote_types(attention.dtype, torch.float32))[:, chosen].mean(1)
    finite = mean.isfinite().flatten(1).all(1)
    if not finite.all():
        raise ValueError(
            f"attention of images {(~finite).nonzero()[:8, 0].tolist()} of the batch is NaN or infinite; check the "
            "weights, or use fp32"
        )
    return stretched(mean)


def stretched(maps: Tensor) -> Tensor:
    """Each map `[B, Y, X]` from its least to its greatest value stretched to [0, 1]; a constant one becomes 0."""
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    spread = high - low
    # To rounding: softmax of equal scores need not be equal to the last bit.
    flat = spread <= 4 * torch.finfo(maps.dtype).eps * high.abs()
    return torch.where(flat, 0.0, (maps - low) / torch.where(flat, 1.0, spread))


def check_heads(heads: Sequence[int], count: int) -> list[int]:
    """The heads counted from 0. Raises `ValueError` for none, one that is not among `count`, or one named twice."""
    strange = [head for head in heads if not -count <= head < count]
    if strange:
        raise ValueError(f"heads {strange} are not there; the block has {count}, 0 to {count - 1}")
    found = [head % count for head in heads]
    if not found or len(set(found)) < len(found):
        raise ValueError(f"heads are {list(heads)}; name at least one of {count}, each once")
    return found
