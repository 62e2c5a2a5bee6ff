"""SAR: the spatial entropy of the CLS query's similarity maps, averaged over heads and images.

Source: Peruzzo et al., "Spatial Entropy as an Inductive Bias for Vision Transformers", Eq. 9. The mathematics
stands in `vitrail.ops.spatial_entropy`; `docs/sar.md` lists what differs from the paper and from its released
code.
"""

from __future__ import annotations

from torch import Tensor, nn

from vitrail.contracts import Tokens
from vitrail.ops.spatial_entropy import spatial_entropy


def scores_of(tokens: Tokens, block: int) -> Tensor:
    """The similarity maps `[B, H, Y, X]` of a block; ValueError where the backbone was not asked for them."""
    if block not in tokens.scores:
        raise ValueError(
            f"tokens hold scores of the blocks {sorted(tokens.scores)}, not of {block};"
            f" call backbone(images, scores=({block},))"
        )
    return tokens.scores[block]


def check_maps(rows: int, columns: int) -> None:
    """Raise `ValueError` for maps of 2 x 2 and smaller, where all cells above the mean touch: it would always be 0."""
    if max(rows, columns) <= 2:
        raise ValueError(
            f"the spatial entropy is to be taken of maps of {rows} x {columns} keys, on which it is always 0, "
            "since all cells touch; take larger images (of 96 pixels and more for PVT and CvT) or smaller patches"
        )


class SpatialEntropy(nn.Module):
    """Mean spatial entropy in nats, >= 0: low where each head attends to few large regions."""

    def __init__(self, block: int = -1) -> None:
        """Args: block: 0-based, negative from the last; the paper takes the last."""
        super().__init__()
        self.layers: tuple[int, ...] = ()
        self.scores: tuple[int, ...] = (block,)

    def forward(self, tokens: Tokens) -> Tensor:
        """A scalar in float32 (float64 for float64 scores). A map with inf or NaN makes it NaN.

        Raises:
            ValueError: see `check_maps`.
        """
        maps = scores_of(tokens, self.scores[0])
        check_maps(*maps.shape[-2:])
        return spatial_entropy(maps).mean()
