"""From scores of patches to the patches that are kept: exactly k ids, unique, ascending, nothing left to chance.

`keep=` of a backbone takes the ids as they are.
"""

from __future__ import annotations

import torch
from torch import Tensor


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


def number_kept(keep: float, patches: int) -> int:
    """How many of N patches a share keeps: `int(keep * N)`, and never none.

    Raises:
        ValueError: for a share outside (0, 1].
    """
    if not 0 < keep <= 1:
        raise ValueError(f"keep is {keep:g}; it is the share of the patches that stay, above 0 and at most 1")
    # The nearest number where the product misses it by rounding: 0.29 * 100 is 28.999999999999996.
    return max(int(keep * patches + 1e-9), 1)


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
    """`ValueError` for a number of kept patches outside 1 to N."""
    if not 1 <= number <= patches:
        raise ValueError(f"{number} patches are to be kept of {patches}; choose 1 to {patches}")


def mask_of(ids: Tensor, grid: tuple[int, int]) -> Tensor:
    """Which patches are kept, bool `[B, Y, X]`, of their ids `[B, k]`."""
    flat = torch.zeros(len(ids), grid[0] * grid[1], dtype=torch.bool, device=ids.device)
    return flat.scatter(1, ids, True).view(len(ids), *grid)
