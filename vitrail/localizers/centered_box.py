"""A box in the middle of the image, of a fixed share of its sides. What a localizer must beat on photos of one subject.

The share that is best on a data set is a floor of an evaluator, which chooses it on held-out images; here it is given,
or 0.7, about half of the image.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vitrail.contracts import Located
from vitrail.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from vitrail.localizers.maps import box_map
from vitrail.ops.patches import sides_of
from vitrail.rankers.source import Source, no_variant


def from_source(source: Source, *, share: float = 0.7) -> CenteredBox:
    """Nothing is read but the image size, 224 by default; `share` of each side, in (0, 1]."""
    no_variant(source, "centered_box", "localizer")
    size = source.image_size or 224
    return CenteredBox(sides_of(size), share)


class CenteredBox(nn.Module):
    """Fulfills `vitrail.contracts.Localizer`; reads nothing of an image but its size, and does not classify."""

    classes: tuple[str, ...] | None = None
    any_threshold = True

    def __init__(self, image_size: tuple[int, int] = (224, 224), share: float = 0.7) -> None:
        """Args: (height, width) in pixels; the box's share of each side, in (0, 1]."""
        super().__init__()
        if not 0 < share <= 1:
            raise ValueError(f"share is {share}; it is the box's part of each side, in (0, 1]")
        self.image_size, self.share = image_size, share
        self.mean: Sequence[float] = IMAGENET_MEAN
        self.std: Sequence[float] = IMAGENET_STD

    def forward(self, images: Tensor, *, labels: Tensor | None = None) -> Located:
        """Maps `[B, H, W]`, 1 in the box, whose sides lie on pixels, at least one of them, and 0 around it."""
        mask = torch.zeros(len(images), *images.shape[-2:], dtype=torch.bool, device=images.device)
        (top, bottom), (left, right) = (_middle(side, self.share) for side in images.shape[-2:])
        mask[:, top:bottom, left:right] = True
        return Located(box_map(mask))


def _middle(side: int, share: float) -> tuple[int, int]:
    """Where a centered part of a side begins and ends."""
    start = min(round(side * (1 - share) / 2), (side - 1) // 2)
    return start, side - start
