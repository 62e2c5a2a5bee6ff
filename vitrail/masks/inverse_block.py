"""Inverse block masking: rectangles stay visible, the rest is hidden.

Sources: Baevski et al., "Efficient self-supervised learning with contextualized target representations for vision,
speech and language" (data2vec 2.0, 2023), arXiv 2212.07525, which keeps blocks instead of hiding them; Assran et al.,
"Self-supervised learning from images with a joint-embedding predictive architecture" (I-JEPA, 2023),
arXiv 2301.08243, whose context is a block.

Deviations: the rectangles are those of `vitrail.masks.block`, of random area and aspect ratio, so one to a few of
them are visible; data2vec 2.0 keeps blocks of one fixed size. I-JEPA's targets, several blocks inside of what is
hidden, are not part of a mask.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vitrail.masks.block import check_shape, rectangle_order
from vitrail.masks.counts import numbers, patch_size
from vitrail.masks.ranking import hide_lowest


class InverseBlock:
    """Keeps rectangles. A `vitrail.contracts.Mask`."""

    needs_attention = False

    def __init__(self, least: float = 16, aspect: float = 0.3) -> None:
        """Say what rectangles there are.

        Args:
            least: smallest area of a rectangle, patches of a 14x14 grid.
            aspect: height / width is log-uniform in [aspect, 1 / aspect]; in (0, 1].

        Raises:
            ValueError: for values out of range.
        """
        check_shape(least, aspect)
        self.least, self.aspect = least, aspect

    def __call__(
        self,
        images: Tensor,
        grid: tuple[int, int],
        hidden: float | Tensor,
        *,
        attention: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Bool `[B, N]`, True is hidden; `attention` is not looked at."""
        patch_size(images, grid)
        count = grid[0] * grid[1]
        kept = count - numbers(hidden, len(images), count, images.device)
        return ~hide_lowest(rectangle_order(grid, kept, self.least, self.aspect, generator), kept)
