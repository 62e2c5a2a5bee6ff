"""k-means by cosine: clusters of directions.

    assign    every point to the center of largest cosine
    update    every center to the mean of its points' directions, divided by its length

The mean cosine of points and their centers never falls. Centers start as k-means++ draws them: each next one with a
probability in proportion to 1 - the largest cosine to a center so far. A center that loses all its points is put on the
point that is served worst.

Sources: Dhillon and Modha 2001 (spherical k-means); Arthur and Vassilvitskii 2007 (k-means++).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

CHUNK = 16384  # points that are compared with all centers at once


class Means(NamedTuple):
    """What `cosine_kmeans` returns."""

    centers: Tensor  # [K, D] float32, of length 1
    assignment: Tensor  # [M] int64
    likeness: float  # mean cosine of points and their centers, in [-1, 1]
    iterations: int


@torch.no_grad()
def cosine_kmeans(
    points: Tensor, clusters: int, *, iterations: int = 50, tolerance: float = 1e-5, seed: int = 0
) -> Means:
    """Cluster points by direction.

    Args:
        points: `[M, D]`, any float type, not zero.
        clusters: K, 1 to M.
        iterations: at most.
        tolerance: it ends when the mean cosine grows by no more.
        seed: of the first centers, drawn on the CPU.

    Raises:
        ValueError: another shape, a K outside 1..M, or values that are not finite.
    """
    if points.ndim != 2 or not 1 <= clusters <= len(points):
        raise ValueError(
            f"points have the shape {list(points.shape)} and clusters is {clusters}; give [M, D], and 1 to M clusters"
        )
    if not bool(points.isfinite().all()):
        raise ValueError("points hold NaN or infinite values; check the weights, or use fp32")
    points = functional.normalize(points.float(), dim=1)
    centers = _first(points, clusters, torch.Generator().manual_seed(seed))
    before, done = -2.0, 0
    while True:
        cosines, assignment = nearest_center(points, centers)
        likeness = cosines.double().mean().item()
        if done == iterations or likeness - before <= tolerance:
            return Means(centers, assignment, likeness, done)
        before, done = likeness, done + 1
        centers = _moved(points, assignment, cosines, centers)


def nearest_center(points: Tensor, centers: Tensor) -> tuple[Tensor, Tensor]:
    """Largest cosine `[M]` and its center's number `[M]` int64, of points `[M, D]` and centers `[K, D]`; of equal ones
    the first."""
    directions = functional.normalize(centers.float(), dim=1)
    found = [(functional.normalize(part.float(), dim=1) @ directions.T).max(1) for part in points.split(CHUNK)]
    return torch.cat([part.values for part in found]), torch.cat([part.indices for part in found])


def _first(points: Tensor, clusters: int, generator: torch.Generator) -> Tensor:
    count = len(points)
    chosen = [int(torch.randint(count, (), generator=generator))]
    apart = 1 - points @ points[chosen[0]]
    for _ in range(clusters - 1):
        weights = apart.clamp(min=0).double().cumsum(0)
        draw = float(torch.rand((), generator=generator, dtype=torch.float64)) * float(weights[-1])
        place = min(
            int(torch.searchsorted(weights, torch.tensor([draw], device=weights.device), right=True)), count - 1
        )
        chosen.append(place)
        apart = torch.minimum(apart, 1 - points @ points[place])
    return points[chosen]


def _moved(points: Tensor, assignment: Tensor, cosines: Tensor, centers: Tensor) -> Tensor:
    """Each center to the mean direction of its points; those without a point to the points that are served worst."""
    sums = torch.zeros_like(centers).index_add_(0, assignment, points)
    sizes = torch.bincount(assignment, minlength=len(centers))
    empty = (sizes == 0).nonzero().flatten()
    moved = functional.normalize(sums, dim=1)
    # Points that cancel out leave no direction; such a center stays.
    moved = torch.where(sums.norm(dim=1, keepdim=True) > 1e-12, moved, centers)
    if len(empty):
        moved[empty] = points[cosines.argsort(stable=True)[: len(empty)]]
    return moved
