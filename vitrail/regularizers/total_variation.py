"""Total variation of the CLS query's similarity maps: the comparator of SAR's supplement.

Source: Peruzzo et al., "Spatial Entropy as an Inductive Bias for Vision Transformers", supplement B, Eq. 14:

    L_tv = (1/H) sum_h sum_(x,y) |S_x,y - S_x,y+1| + |S_x,y - S_x+1,y|

Deviations: the sum over cells is kept, so the loss grows with the grid as in the paper; differences that
reach over the border, which the equation leaves undefined, are left out; the mean also runs over the images
of the batch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vitrail.contracts import Tokens
from vitrail.regularizers.spatial_entropy import scores_of


class TotalVariation(nn.Module):
    """Sum of absolute differences of side neighbors, mean over heads and images; unit of the scores."""

    def __init__(self, block: int = -1) -> None:
        """Args: block: 0-based, negative from the last."""
        super().__init__()
        self.layers: tuple[int, ...] = ()
        self.scores: tuple[int, ...] = (block,)

    def forward(self, tokens: Tokens) -> Tensor:
        """A scalar in float32 (float64 for float64 scores)."""
        scores = scores_of(tokens, self.scores[0])
        # Hundreds of terms per map leave the precision of half types.
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        across = scores.diff(dim=-1).abs().sum((-2, -1))
        down = scores.diff(dim=-2).abs().sum((-2, -1))
        return (across + down).mean()
