"""Attention by positive random features, whose cost grows with the number of tokens and not with its square.

    phi(x)[i] = exp(w_i . x - |x|^2 / 2) / sqrt(m)                      i = 0 ... m - 1
    y_t       = sum_s (phi(q_t) . phi(k_s)) v_s / (sum_s phi(q_t) . phi(k_s) + 1e-8)

For normal w the mean of phi(q) . phi(k) over w is exp(q . k): softmax attention without a scale. The sum over s is done
once for all queries.

Source: Choromanski et al., "Rethinking Attention with Performers", 2021 (arXiv 2009.14794), Lemma 1; the directions and
the 1e-8 are those of T2T-ViT (Yuan et al., 2021, arXiv 2101.11986): w has orthogonal rows of length sqrt(m).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

EPSILON = 1e-8


def performer_attention(query: Tensor, key: Tensor, value: Tensor, directions: Tensor) -> Tensor:
    """Mix the values.

    Args:
        query, key: `[B, T, d]`, unscaled.
        value: `[B, T, V]`.
        directions: w, `[m, d]`.

    Returns:
        `[B, T, V]` in float32 or wider, also under autocast: the exponentials leave the range of half precision.
    """
    wide = torch.promote_types(query.dtype, torch.float32)
    with torch.autocast(device_type=query.device.type, enabled=False):
        directions = directions.to(wide)
        asking, asked = _features(query.to(wide), directions), _features(key.to(wide), directions)
        mixed = asking @ (asked.transpose(1, 2) @ value.to(wide))
        total = asking @ asked.sum(1).unsqueeze(-1)
        return mixed / (total + EPSILON)


def draw_directions(count: int, width: int) -> Tensor:
    """w of fresh weights, `[count, width]` with count at most width: rows of a rotation, times sqrt(count)."""
    return torch.nn.init.orthogonal_(torch.empty(count, width)) * math.sqrt(count)


def _features(x: Tensor, directions: Tensor) -> Tensor:
    return torch.exp(x @ directions.T - x.square().sum(-1, keepdim=True) / 2) / math.sqrt(len(directions))
