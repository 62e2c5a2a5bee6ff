"""Which patches of two images mean each other: mutual nearest neighbors by cosine similarity.

Source: Amir et al. 2021, "Deep ViT features as dense visual descriptors" (arXiv 2112.05814): best
buddies.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


class Matches(NamedTuple):
    """Pairs of patches, the most similar first; of equal similarities the lower place in the first image first."""

    first: Tensor  # [n] int64, places in the first image, each at most once
    second: Tensor  # [n] int64, places in the second
    similarity: Tensor  # [n] float32 in [-1, 1]


def mutual_nearest(first: Tensor, second: Tensor) -> Matches:
    """Patches that are each other's nearest.

    Args:
        first: `[N, D]` features of the first image's patches, of any length.
        second: `[M, D]`.

    Returns:
        At most min(N, M) pairs. Of several nearest ones the first in order counts.

    Raises:
        ValueError: other shapes, no patch, or features that are not finite.
    """
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1] or not (len(first) and len(second)):
        raise ValueError(
            f"first is {list(first.shape)} and second {list(second.shape)}; give patches [N, D] and [M, D] of one D"
        )
    if not (first.isfinite().all() and second.isfinite().all()):
        raise ValueError("patches hold NaN or infinite values; check the weights, or use fp32")
    likeness = functional.normalize(first.float(), dim=1) @ functional.normalize(second.float(), dim=1).T
    best, partner = likeness.max(1)
    mutual = likeness.argmax(0)[partner] == torch.arange(len(first), device=first.device)
    order = best[mutual].sort(descending=True, stable=True).indices
    return Matches(*(part[mutual][order] for part in (torch.arange(len(first), device=first.device), partner, best)))
