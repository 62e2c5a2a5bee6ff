"""How alike the patches of two images are, pair by pair, and the pairwise loss on it that CoTAP replaces.

Source: the CoTAP paper, Eq. 2 (whose + 5 stands for + 0.5) and Eq. 8.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

ScoreScale = Literal["half", "raw"]


def correspondence(features_u: Tensor, features_v: Tensor, score_scale: ScoreScale = "half") -> Tensor:
    """Cosine of each patch of u with each patch of v, one row for each image pair.

    Args:
        features_u: `[B, N, D]`, of any length: they are normalized here.
        features_v: `[B, M, D]`.
        score_scale: "half": cosine / 2 + 1/2, in [0, 1] up to rounding, as in the paper; "raw": the cosine.

    Returns:
        Float32 `[B, N * M]`, or float64 for float64 features; pair (a, b) stands at a * M + b. Under autocast too, and
        without TF32: products are taken in float64 where the device has it. Scores that are rounded coarsely tie, and a
        ranking loss takes ties for equals.

    Raises:
        ValueError: for features whose batch or width differ, or another score_scale.
    """
    fits = features_u.ndim == features_v.ndim == 3 and features_u.shape[::2] == features_v.shape[::2]
    if not fits:
        raise ValueError(
            f"features are {list(features_u.shape)} and {list(features_v.shape)};"
            " they are [B, N, D] and [B, M, D], with one B and one D"
        )
    if score_scale not in ("half", "raw"):
        raise ValueError(f"score_scale is {score_scale!r}; it is 'half' (cosine / 2 + 1/2) or 'raw' (cosine)")
    result = torch.promote_types(torch.promote_types(features_u.dtype, features_v.dtype), torch.float32)
    wide = result if features_u.device.type == "mps" else torch.float64  # mps has no float64, and no TF32
    u, v = (functional.normalize(features.to(wide), dim=-1) for features in (features_u, features_v))
    cosine = (u @ v.mT).flatten(1)
    return (cosine / 2 + 0.5 if score_scale == "half" else cosine).to(result)


def correspondence_bce(p: Tensor, q: Tensor) -> Tensor:
    """Binary cross entropy of each pair with q as its soft label, mean over the pairs of a row: Eq. 8, the ablation.

    Args:
        p: `[..., N]` in [0, 1], as `correspondence` gives them with score_scale "half".
        q: `[..., N]` in [0, 1]; takes no gradient.

    Returns:
        `[...]` nats, float32 or wider. Probabilities within 1.2e-7 of 0 or 1 are taken as that far away, so that the
        loss is finite; such p take no gradient.

    Raises:
        ValueError: for shapes that differ, no pairs, or, on the CPU, scores outside [0, 1] by more than rounding.
    """
    if p.shape != q.shape or p.ndim == 0 or p.shape[-1] == 0:
        raise ValueError(f"p is {list(p.shape)} and q {list(q.shape)}; both are [..., N] with N from 1 on")
    wide = torch.promote_types(p.dtype, torch.float32)
    p, q = p.to(wide), q.detach().to(wide)
    for name, scores in (("p", p), ("q", q)):
        if scores.device.type == "cpu" and scores.numel():
            _check_probabilities(name, scores)
    eps = torch.finfo(torch.float32).eps
    p = p.clamp(eps, 1 - eps)
    return -(q * p.log() + (1 - q) * (-p).log1p()).mean(-1)


def _check_probabilities(name: str, scores: Tensor) -> None:
    low, high = (float(each) for each in scores.detach().aminmax())
    if low < -1e-3 or high > 1 + 1e-3:
        raise ValueError(
            f"{name} runs from {low:.3g} to {high:.3g}; cross entropy needs scores in [0, 1], as score_scale 'half'"
        )
