"""LOST: an object is what the patch that resembles fewest others resembles.

    degree(p) = number of patches q with <f_p, f_q> >= 0
    seed      = the patch of lowest degree                               objects are smaller than what is around them
    S         = {s among the k patches of lowest degree: <f_s, f_seed> >= 0}
    r(q)      = sum over s in S of <f_q, f_s>
    mask      = the connected component of {r >= 0} that holds the seed

Source: Siméoni et al. 2021, "Localizing objects with self-supervised Transformers and no labels" (arXiv 2109.14279),
Section 3. f are the keys of a ViT's last block, heads side by side, and k is 100.

Deviations: the released code takes > 0 for >= 0. With >= the seed always lies in its mask, also where features are
zero. Of patches of equal degree, which are common, the first in reading order comes first; the released code leaves
that to an unstable sort. Components are joined by sides (4), as in the released code, of which the text says nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from vitrail.ops.components import component_at
from vitrail.ops.token_graph import check_features, products


class Expanded(NamedTuple):
    """What LOST finds in each image."""

    mask: Tensor
    """`[B, Y, X]` bool, the component that holds the seed."""
    likeness: Tensor
    """`[B, Y, X]` float64, r: how much a patch resembles the seed and those that joined it."""
    seeds: Tensor
    """int64 `[B]`, number of the patch in reading order."""
    degrees: Tensor
    """int64 `[B, N]`, 1 to N but for features of zero length, which resemble everything."""


@torch.no_grad()
def expand_seed(features: Tensor, grid: tuple[int, int], k: int = 100, connectivity: int = 4) -> Expanded:
    """LOST's mask of one object an image, computed in float64.

    Args:
        features: `[B, N, D]` of patches in reading order; no normalization is needed.
        grid: (Y, X), Y * X = N.
        k: how many patches of lowest degree may join the seed; N where there are fewer.
        connectivity: 4 (sides, as released) or 8 (sides and corners).

    Raises:
        ValueError: for shapes that do not fit, features that are not finite, a k below 1 or another connectivity.
    """
    check_features(features, grid)
    check_k(k)
    likeness = products(features)  # [B, N, N]
    degrees = (likeness >= 0).sum(2)
    order = degrees.argsort(dim=1, stable=True)
    seeds, lowest = order[:, 0], order[:, :k]
    like_seed = likeness.gather(1, seeds[:, None, None].expand(-1, 1, likeness.shape[2])).squeeze(1)
    joins = torch.zeros_like(like_seed).scatter(1, lowest, 1.0) * (like_seed >= 0)
    total = (joins[:, None] @ likeness).squeeze(1)
    mask = component_at((total >= 0).unflatten(1, grid), seeds, connectivity)
    return Expanded(mask, total.unflatten(1, grid), seeds, degrees)


def check_k(k: int) -> None:
    """`ValueError` for less than one patch."""
    if k < 1:
        raise ValueError(f"k is {k}; it is at least 1, as the seed itself is one of the patches of lowest degree")
