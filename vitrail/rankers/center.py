"""The center prior: patches in the middle first. What a ranker must beat, since photographers center their subject."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vitrail.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from vitrail.ops.patches import grid_of, sides_of
from vitrail.rankers.source import Source, no_variant


def from_source(source: Source) -> Center:
    """Nothing is read but sizes, 224 and 16 by default."""
    no_variant(source, "center")
    size, patch = source.image_size or 224, source.patch_size or 16
    return Center(sides_of(size), (patch, patch))


class Center(nn.Module):
    """Minus the distance of a patch's center from the image's, in units of half the image's sides.

    Fulfills `vitrail.contracts.Ranker`; reads nothing of an image but its size.
    """

    needs_number = False

    def __init__(self, image_size: tuple[int, int] = (224, 224), patch_size: tuple[int, int] = (16, 16)) -> None:
        """Args: (height, width) in pixels of images and patches."""
        super().__init__()
        self.image_size, self.patch_size = image_size, patch_size
        self.mean: Sequence[float] = IMAGENET_MEAN
        self.std: Sequence[float] = IMAGENET_STD

    def forward(self, images: Tensor, *, number: int | None = None, generator: torch.Generator | None = None) -> Tensor:
        """Scores `[B, Y, X]` in [-sqrt(2), 0]."""
        rows, columns = grid_of(images.shape[-2], images.shape[-1], self.patch_size)
        y = (torch.arange(rows, device=images.device) + 0.5) / rows * 2 - 1
        x = (torch.arange(columns, device=images.device) + 0.5) / columns * 2 - 1
        return -(y[:, None].square() + x.square()).sqrt().expand(len(images), -1, -1).float()
