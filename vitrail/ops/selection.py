"""From scores of patches to the patches that are kept: exactly k ids, unique, ascending, nothing left to chance.

`keep=` of a backbone takes the ids as they are.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vitrail.ops.cluster import dpc_knn, draw_members, member_counts
from vitrail.ops.shares import check_share


def select(scores: Tensor, number: int) -> Tensor:
    """Ids of the patches with the largest scores.

    Args:
        scores: `[B, Y, X]` or `[B, N]`, any float type; of equal ones the smaller id is taken.
        number: k, how many are kept, 1 to N.

    Returns:
        int64 `[B, k]`, unique and ascending, raster order.

    Raises:
        ValueError: for another shape, a number outside 1 to N, or scores that are NaN.
    """
    flat = flat_scores(scores)
    check_number(number, flat.shape[1])
    order = flat.argsort(dim=1, descending=True, stable=True)
    return order[:, :number].sort(dim=1).values


@torch.no_grad()
def mixed(
    scores: Tensor,
    points: Tensor,
    number: int,
    share: float = 0.7,
    neighbors: int = 5,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Ids of the patches with the largest scores, and for the rest of the number patches unlike one another.

    The `int(share * k)` largest scores are taken. The patches fall into k clusters (DPC-KNN), each with a
    representative; of those that are not taken yet, the ones of the largest clusters fill up, of equally large ones
    those of the more central cluster.

    Args:
        scores: `[B, Y, X]` or `[B, N]`, as in `select`.
        points: `[B, N, D]`, what clusters are made of; the source takes the patches' normalized pixels
            (`vitrail.ops.patches.patchify`).
        number: k, how many are kept, 1 to N.
        share: of the number that the scores choose, in [0, 1]; 1 is `select`.
        neighbors: 1 to N, of a point's density, see `vitrail.ops.cluster`.
        generator: draws each cluster's representative among its members; without one it is the center.

    Returns:
        int64 `[B, k]`, unique and ascending, raster order.

    Raises:
        ValueError: as `select` and `dpc_knn`; for another number of points than scores, a share outside [0, 1].

    Source: the released code of Luo et al., "LTRP"; its text takes the largest scores alone.
    """
    flat = flat_scores(scores)
    check_number(number, flat.shape[1])
    if not 0 <= share <= 1:
        raise ValueError(f"share is {share:g}; it is the part of the number that scores choose, 0 to 1")
    if points.ndim != 3 or points.shape[:2] != flat.shape:
        raise ValueError(f"points are {list(points.shape)} and scores {list(flat.shape)}; give points [B, N, D]")
    best = flat.argsort(dim=1, descending=True, stable=True)[:, : _whole(share * number)]
    missing = number - best.shape[1]
    if not missing:
        return best.sort(dim=1).values
    found = dpc_knn(points, number, neighbors)
    members = found.centers if generator is None else draw_members(found.assignment, number, generator)
    taken = torch.zeros_like(flat, dtype=torch.bool).scatter(1, best, True)
    sizes = member_counts(found.assignment, number).masked_fill(taken.gather(1, members), 0)
    largest = sizes.argsort(dim=1, descending=True, stable=True)[:, :missing]
    return torch.cat((best, members.gather(1, largest)), 1).sort(dim=1).values


def number_kept(keep: float, patches: int) -> int:
    """How many of N patches a share keeps: `int(keep * N)`, and never none.

    Raises:
        ValueError: for a share outside (0, 1].
    """
    check_share(keep)
    return max(_whole(keep * patches), 1)


def flat_scores(scores: Tensor) -> Tensor:
    """Scores as `[B, N]`, checked: `ValueError` for another shape, no patch, or NaN."""
    if scores.ndim not in (2, 3) or not scores[0:1].numel():
        raise ValueError(f"scores are {list(scores.shape)}; they are [B, Y, X] or [B, N] with at least one patch")
    if not scores.is_floating_point():
        raise ValueError(f"scores are {scores.dtype}; they are floating point numbers")
    if bool(scores.isnan().any()):
        lost = scores.flatten(1).isnan()
        images = lost.any(1).nonzero().flatten().tolist()
        raise ValueError(
            f"{int(lost.sum())} of {lost.numel()} scores are NaN, in image{'s' * (len(images) > 1)} "
            f"{', '.join(map(str, images[:5]))}{' ...' * (len(images) > 5)} of the batch; look at the ranker's weights"
        )
    return scores.flatten(1)


def check_number(number: int, patches: int) -> None:
    """`ValueError` for a number of kept patches that is no whole number or outside 1 to N."""
    if number != int(number):
        raise ValueError(f"{number} patches are to be kept; give a whole number, or a share of them to number_kept")
    if not 1 <= number <= patches:
        raise ValueError(f"{number} patches are to be kept of {patches}; choose 1 to {patches}")


def mask_of(ids: Tensor, grid: tuple[int, int]) -> Tensor:
    """Which patches are kept, bool `[B, Y, X]`, of their ids `[B, k]`."""
    flat = torch.zeros(len(ids), grid[0] * grid[1], dtype=torch.bool, device=ids.device)
    return flat.scatter(1, ids, True).view(len(ids), *grid)


def _whole(product: float) -> int:
    # The nearest number where the product misses it by rounding: 0.29 * 100 is 28.999999999999996.
    return int(product + 1e-9)
