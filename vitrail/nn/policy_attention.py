"""Self-attention in which tokens and heads are switched off by numbers, so that the switches get gradients.

    A_ij = exp(P_ij) G_ij / sum_k exp(P_ik) G_ik,    G_ij = 1 where i = j, else D_j,    P = Q K^T / sqrt(d)

With D of ones it is plain attention; with zeros and ones nobody attends to a token that is switched off but itself, as
if it were not there.

The gradient of D_j is not the slope at D_j, which has no bound where a token that is off has a larger score than all
that are on, but the mean slope up to D_j = 1: times 1 - D_j it is what switching the token on would change. At D_j = 1
both are the same. The papers do not say so; their backbones hardly move while decisions are learned.

Source: Rao et al., "DynamicViT", 2021, Section 3.3 (tokens); Meng et al., "AdaViT", 2022, Section 3.2 (heads).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from vitrail.nn.open_block import gathered, projections


def policy_attention(
    attn: Any, x: Tensor, tokens: Tensor, heads: Tensor | None = None, *, as_identity: bool = False
) -> Tensor:
    """timm's self-attention under a policy.

    Args:
        attn: timm's `Attention`.
        x: normalized tokens `[B, T, D]`.
        tokens: D, `[B, T]` in [0, 1].
        heads: `[B, H]` in [0, 1]; None for all of them.
        as_identity: a head that is switched off hands each token its own value, instead of nothing.

    Returns:
        `[B, T, D]`.
    """
    query, key, value = projections(attn, x)
    attention = _attention(query, key, tokens).to(value.dtype)
    mixed = F.dropout(attention, attn.attn_drop.p, attn.training) @ value
    if heads is not None:
        share = heads[:, :, None, None].to(mixed.dtype)
        mixed = mixed * share + (value * (1 - share) if as_identity else 0)
    return gathered(attn, x, mixed)


def _attention(query: Tensor, key: Tensor, tokens: Tensor) -> Tensor:
    """A `[B, H, T, T]`, in float32 or wider also under autocast."""
    wide = torch.promote_types(query.dtype, torch.float32)
    with torch.autocast(device_type=query.device.type, enabled=False):
        scores = query.to(wide) * query.shape[-1] ** -0.5 @ key.to(wide).transpose(-2, -1)
        own = torch.eye(tokens.shape[1], dtype=wide, device=tokens.device)
        gate = own + (1 - own) * tokens.to(wide)[:, None, None, :]
        each = (scores - scores.amax(-1, keepdim=True).detach()).exp()
        # All that is switched on may lie so far below the largest score that nothing is left of it.
        tiny = torch.finfo(wide).tiny
        with torch.no_grad():  # from the slope at D to the mean slope up to 1
            total = (each * gate).sum(-1, keepdim=True).clamp(min=tiny)
            share = total / (total + each * (1 - gate))
        weights = each * (gate.detach() + (gate - gate.detach()) * share)
        return weights / weights.sum(-1, keepdim=True).clamp(min=tiny)
