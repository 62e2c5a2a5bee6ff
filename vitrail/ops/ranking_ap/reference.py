"""The CoTAP loss and what it is built from, word for word: every pair of items, plain torch and autograd.

The yardstick, and for few items: `[..., N, N]` of memory (`multi_threshold_ap` has `[..., N, N, N]`).
"""

from __future__ import annotations

import torch
from torch import Tensor


def one_sided_huber(margin: Tensor, tau2: float) -> Tensor:
    """Eq. 11, a bound on 1[x <= 0]: 1 - 2x/tau2 below 0, (1 - x/tau2)^2 up to tau2, 0 beyond. Convex and smooth."""
    reach = (1 - margin / tau2).clamp(min=0)
    near = reach.clamp(max=1)
    return near * near + 2 * (reach - near)


def cotap_moments(p: Tensor, q: Tensor, tau2: float = 0.5) -> tuple[Tensor, Tensor]:
    """As `vitrail.ops.ranking_ap.cotap_moments`, R in the type of `p`; A has a gradient by `p`."""
    below = q[..., None, :] < q[..., :, None]
    misranked = (one_sided_huber(p[..., :, None] - p[..., None, :], tau2) * below).sum(-1)
    return misranked, _ahead(p, ~below)


def cotap_loss(p: Tensor, q: Tensor, tau1: float = -0.2, tau2: float = 0.5) -> Tensor:
    """As `vitrail.ops.ranking_ap.cotap_loss`, in the types given; twice differentiable by `p`."""
    misranked, rank = cotap_moments(p, q.detach(), tau2)
    return ((q.detach() - tau1).clamp(min=0) * misranked / (misranked + rank)).mean(-1)


def ap_loss(p: Tensor, q: Tensor, threshold: Tensor | float) -> Tensor:
    """Eq. 9: one minus the average precision of `p` for the positives {q >= threshold}, `[..., N]` to `[...]`.

    Args:
        p: `[..., N]` scores.
        q: `[..., N]` targets.
        threshold: a number, or one for each row `[...]`.

    Returns:
        `[...]` in [0, 1); 0 where there is no positive.
    """
    positive = q >= torch.as_tensor(threshold, dtype=q.dtype, device=q.device)[..., None]
    above = _ahead(p, positive[..., None, :])
    wrong = _ahead(p, ~positive[..., None, :])
    share = torch.where(positive, wrong / (above + wrong), 0.0)
    return share.sum(-1) / positive.sum(-1).clamp(min=1)


def multi_threshold_ap(p: Tensor, q: Tensor, gamma: Tensor) -> Tensor:
    """Eq. 10: the AP losses with each q_k as the threshold, weighed by gamma_k, mean over k. Three sums.

    Args:
        p, q: `[..., N]`.
        gamma: `[..., N]`, the weight of each threshold.
    """
    return (gamma * ap_loss(p[..., None, :], q[..., None, :], q)).mean(-1)


def ap_bound(p: Tensor, q: Tensor, weight: Tensor) -> Tensor:
    """The bound of Proposition 1 on `multi_threshold_ap`: q_i itself is the threshold for item i, indicators are hard.

    Args:
        p, q: `[..., N]`.
        weight: `[..., N]`, gamma~ of the paper; `bound_weight` makes it of gamma.
    """
    below = q[..., None, :] < q[..., :, None]
    wrong, above = _ahead(p, below), _ahead(p, ~below)
    return (weight * wrong / (above + wrong)).mean(-1)


def bound_weight(q: Tensor, gamma: Tensor) -> Tensor:
    """gamma~_i = sum of gamma_k / r_k over {q_k <= q_i}, where r_k = #{q_j >= q_k}; `[..., N]`."""
    reached = q[..., None, :] <= q[..., :, None]  # [i, k]: q_k <= q_i
    rank = reached.sum(-2)
    return (reached * (gamma / rank)[..., None, :]).sum(-1)


def _ahead(p: Tensor, among: Tensor) -> Tensor:
    """How many of `among` `[..., N (i), N (j)]`, or `[..., 1, N]`, have p_j >= p_i; `[..., N]`, in the type of p."""
    return (among & (p[..., None, :] >= p[..., :, None])).sum(-1).to(p.dtype)
