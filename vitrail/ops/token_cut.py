"""TokenCut: the patches of an image, cut in two where they resemble each other least.

    E_ij = 1 if cos(f_i, f_j) >= tau, else epsilon                D = diagonal of the row sums of E
    (D - E) y = lambda D y,   y of the second smallest lambda     the relaxed normalized cut
    seed = the patch of largest |y|;  y is turned so that y(seed) > 0
    mask = the connected component of {y > mean of y} that holds the seed

With z = D^(1/2) y this is the symmetric problem (1 - D^(-1/2) E D^(-1/2)) z = lambda z. y is of length 1 in the sense
of D, y' D y = 1.

Source: Wang et al. 2022, "Self-supervised Transformers for unsupervised object discovery using normalized cut" (arXiv
2202.11539), Section 3, after Shi and Malik 2000. f are the keys of a ViT's last block, heads side by side; tau is 0.2,
epsilon 1e-5.

Deviations: the released code takes > tau for >= tau. Values of |y| within a millionth of the largest count as equal,
and the first such patch in reading order is the seed: within one cluster they differ by rounding alone. Where all
pairs of patches have the same weight there is nothing to cut, any y would do, and the mask is the whole image, with
y = 0. Components are joined by sides (4), as in the released code. The saliency maps' bilateral solver is left out.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from vitrail.ops.components import component_at
from vitrail.ops.token_graph import check_features, products

EQUAL = 1e-6  # share of the largest |y| by which equal ones may differ


class Cut(NamedTuple):
    """What TokenCut finds in each image."""

    mask: Tensor
    """`[B, Y, X]` bool, the component that holds the seed."""
    eigenvector: Tensor
    """`[B, Y, X]` float64, y, positive at the seed; 0 where there is nothing to cut."""
    seeds: Tensor
    """int64 `[B]`, number of the patch in reading order."""


@torch.no_grad()
def cut_tokens(
    features: Tensor, grid: tuple[int, int], tau: float = 0.2, epsilon: float = 1e-5, connectivity: int = 4
) -> Cut:
    """TokenCut's mask of one object an image, computed in float64; time grows with N^3.

    Args:
        features: `[B, N, D]` of patches in reading order; they are normalized here. A zero vector is like nothing.
        grid: (Y, X), Y * X = N.
        tau: cosine from which two patches are joined, in [-1, 1].
        epsilon: weight of the other pairs, in (0, 1); it keeps the graph in one piece.
        connectivity: 4 (sides, as released) or 8 (sides and corners).

    Raises:
        ValueError: for shapes that do not fit, features that are not finite, or numbers out of range.
    """
    check_features(features, grid)
    check_graph(tau, epsilon)
    cosines = products(functional.normalize(features.double(), dim=2))
    weights = torch.full_like(cosines, epsilon).masked_fill_(cosines >= tau, 1.0)
    vector = _second_vector(weights)
    vector = torch.where(_all_alike(weights)[:, None], 0.0, vector)
    size = vector.abs()
    seeds = (size >= (1 - EQUAL) * size.amax(1, keepdim=True)).int().argmax(1)  # the first of the largest
    own = vector.gather(1, seeds[:, None])
    vector = torch.where(own < 0, -vector, vector)
    above = (vector > vector.mean(1, keepdim=True)) | (own == 0)
    return Cut(component_at(above.unflatten(1, grid), seeds, connectivity), vector.unflatten(1, grid), seeds)


def check_graph(tau: float, epsilon: float) -> None:
    """`ValueError` for a cosine outside [-1, 1], or an epsilon outside (0, 1)."""
    if not (-1 <= tau <= 1 and 0 < epsilon < 1):
        raise ValueError(f"tau {tau}, epsilon {epsilon}; a cosine is in [-1, 1], and epsilon is in (0, 1)")


def _second_vector(weights: Tensor) -> Tensor:
    """`[B, N]`, y of the second smallest lambda of `[B, N, N]`; of one patch the only one."""
    root = weights.sum(2).rsqrt()
    count = weights.shape[1]
    normal = torch.eye(count, dtype=weights.dtype, device=weights.device) - root[:, :, None] * weights * root[:, None]
    return torch.linalg.eigh(normal).eigenvectors[:, :, min(1, count - 1)] * root


def _all_alike(weights: Tensor) -> Tensor:
    """Bool `[B]`: whether all pairs of two patches have one weight; so of one patch."""
    count = weights.shape[1]
    pairs = weights[:, ~torch.eye(count, dtype=torch.bool, device=weights.device)]
    return pairs.amin(1) == pairs.amax(1) if count > 1 else torch.ones_like(weights[:, 0, 0], dtype=torch.bool)
