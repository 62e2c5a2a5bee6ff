"""The smallest set of patches that holds a given share of a map's attention.

Source: the attention masks of DINO (Caron et al. 2021) and of "Intriguing Properties of Vision Transformers"
(Naseer et al. 2021), as SAR scores them: sort the weights, keep from the top until the share is reached.
"""

from __future__ import annotations

import torch
from torch import Tensor


def mass_mask(weights: Tensor, share: float = 0.6, dims: int = 1) -> Tensor:
    """Mark the smallest set of cells whose weights add up to at least `share` of the map's total.

    Args:
        weights: `[..., N]`, or `[..., Y, X]` with `dims=2`: attention after the softmax, not negative,
            finite.
        share: in (0, 1]; 1 keeps every cell that has any weight.
        dims: how many trailing axes make up one map.

    Returns:
        bool, the shape of `weights`. Of equal weights at the border of the set the later ones in reading
        order are kept. A map of zeros, which has nothing to hold, is all False.

    Raises:
        ValueError: for a share outside (0, 1], for `dims` that the tensor does not have, for negative or
            non-finite weights (scores from before the softmax, say).
    """
    if not 0 < share <= 1:
        raise ValueError(f"share is {share}; it must lie in (0, 1], as in 0.6 for 60 % of the mass")
    if not 1 <= dims <= weights.ndim:
        raise ValueError(f"dims is {dims}, but weights have the shape {tuple(weights.shape)}; give 1 to {weights.ndim}")
    flat = weights.detach().flatten(-dims).double()
    if flat.numel() == 0:
        return torch.zeros_like(weights, dtype=torch.bool)
    low, high = (value.item() for value in flat.aminmax())
    if not (low >= 0 and high < torch.inf):
        raise ValueError(
            f"weights run from {low:.4g} to {high:.4g}; they must be finite and not negative: softmax first"
        )
    ascending, order = flat.sort(dim=-1, stable=True)
    below = ascending.cumsum(-1)
    total = below[..., -1:]
    # What is left out is the longest run from the bottom that holds at most 1 - share; to rounding, as in the
    # released code: 1 - 0.9 is a little less than 0.1.
    kept = (below > (1 - share) * total) & (ascending > 0)
    return torch.zeros_like(kept).scatter(-1, order, kept).view(weights.shape)
