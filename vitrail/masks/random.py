"""Uniform random masking.

Source: He et al., "Masked autoencoders are scalable vision learners" (2022), arXiv 2111.06377. All sets of as many
patches are equally likely.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vitrail.masks.counts import numbers, patch_size
from vitrail.masks.ranking import hide_lowest, uniform


class Random:
    """Hides patches drawn uniformly without replacement. A `vitrail.contracts.Mask`."""

    needs_attention = False

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
        wanted = numbers(hidden, len(images), count, images.device)
        return hide_lowest(uniform((len(images), count), images.device, generator), wanted)
