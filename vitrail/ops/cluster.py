"""DPC-KNN: clusters around points that are dense and far from anything denser.

    rho_i = exp(- mean of the squared distances to the n nearest points, itself among them)
    delta_i = distance to the nearest point of higher density; for the densest, the largest distance of all

Centers are the k points of largest rho * delta; every point joins the center next to it. Distances are Euclidean, over
sqrt(D).

Sources: Rodriguez and Laio 2014; Du et al. 2016 (k nearest neighbors); Luo et al., "LTRP", which clusters patches with
it. There, noise settles which of two equally dense points is the denser; here the one of smaller index is, so that
nothing is left to chance.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Clusters(NamedTuple):
    """Clusters of N points, of which k are centers."""

    centers: Tensor
    """int64 `[B, k]`, indices of points, unique, the most central first."""
    assignment: Tensor
    """int64 `[B, N]`, which of the k centers each point belongs to; a center belongs to itself."""
    density: Tensor
    """`[B, N]`, rho, in (0, 1]."""
    distance: Tensor
    """`[B, N]`, delta."""


@torch.no_grad()
def dpc_knn(points: Tensor, clusters: int, neighbors: int = 5) -> Clusters:
    """Cluster points by density peaks.

    Args:
        points: `[B, N, D]`, any float type; distances are computed in float32 or wider.
        clusters: k, 1 to N.
        neighbors: n, 1 to N, the point itself among them.

    Raises:
        ValueError: for another shape, a k or n outside 1 to N, or values that are not finite.
    """
    if points.ndim != 3 or not points.shape[1]:
        raise ValueError(f"points are {list(points.shape)}; give [B, N, D] with N from 1 on")
    count = points.shape[1]
    for name, value in (("clusters", clusters), ("neighbors", neighbors)):
        if not 1 <= value <= count:
            raise ValueError(f"{name} is {value} and there are {count} points; give 1 to {count}")
    wide = points if points.dtype == torch.float64 else points.float()
    if not bool(wide.isfinite().all()):
        raise ValueError(f"{int((~wide.isfinite()).sum())} of {wide.numel()} values are NaN or infinite")
    apart = torch.cdist(wide, wide, compute_mode="donot_use_mm_for_euclid_dist") / points.shape[2] ** 0.5
    density = (-apart.topk(neighbors, -1, largest=False).values.square().mean(-1)).exp()
    distance = _to_denser(apart, density)
    centers = (density * distance).argsort(dim=-1, descending=True, stable=True)[:, :clusters]
    to_centers = apart.gather(2, centers[:, None].expand(-1, count, -1))
    assignment = to_centers.argmin(-1)
    own = torch.arange(clusters, device=points.device).expand(len(points), -1)
    return Clusters(centers, assignment.scatter(1, centers, own), density, distance)


@torch.no_grad()
def draw_members(assignment: Tensor, clusters: int, generator: torch.Generator | None = None) -> Tensor:
    """One member of each cluster, all members alike likely.

    Args:
        assignment: int64 `[B, N]`, 0 to k - 1, each of them at least once in every row.
        clusters: k.
        generator: of the chance; torch's global one by default.

    Returns:
        int64 `[B, k]`, indices of points; place c holds a member of cluster c.

    Raises:
        ValueError: where a cluster has no member.
    """
    place = generator.device if generator is not None else assignment.device
    order = torch.rand(assignment.shape, generator=generator, device=place).argsort(dim=1).to(assignment.device)
    shuffled = assignment.gather(1, order)
    sizes = member_counts(assignment, clusters)
    if not bool(sizes.all()):
        row, empty = (sizes == 0).nonzero()[0].tolist()
        raise ValueError(f"cluster {empty} of set {row} has no member; number the clusters 0 to {clusters - 1}")
    firsts = sizes.cumsum(1) - sizes  # where each cluster begins once the shuffled points stand cluster by cluster
    return order.gather(1, shuffled.argsort(dim=1, stable=True).gather(1, firsts))


def member_counts(assignment: Tensor, clusters: int) -> Tensor:
    """How many points each of k clusters has: int64 `[B, k]` of an assignment `[B, N]`."""
    counts = torch.zeros(len(assignment), clusters, dtype=torch.int64, device=assignment.device)
    return counts.scatter_add(1, assignment, torch.ones_like(assignment))


def _to_denser(apart: Tensor, density: Tensor) -> Tensor:
    """The distance `[B, N]` to the nearest denser point, of equally dense ones to those of smaller index."""
    place = density.argsort(dim=-1, descending=True, stable=True).argsort(-1)  # 0: the densest
    denser = place[:, None, :] < place[:, :, None]
    nearest = apart.masked_fill(~denser, torch.inf).amin(-1)
    return torch.where(place == 0, apart.amax((1, 2))[:, None], nearest)
