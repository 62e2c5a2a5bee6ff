"""Uniform chance, which any ranker must beat. The same image has the same scores, unless a generator draws them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vitrail.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from vitrail.masks.ranking import uniform
from vitrail.ops.patches import grid_of, sides_of
from vitrail.rankers.source import Source, no_variant


def from_source(source: Source) -> Random:
    """Nothing is read but sizes, 224 and 16 by default."""
    no_variant(source, "random")
    size, patch = source.image_size or 224, source.patch_size or 16
    return Random(sides_of(size), (patch, patch))


class Random(nn.Module):
    """Independent scores, uniform in [0, 1). Fulfills `vitrail.contracts.Ranker`.

    Without a generator an image's pixels are the seed: two images get unlike scores, and one image the same ones
    wherever it stands in a batch.
    """

    needs_number = False

    def __init__(self, image_size: tuple[int, int] = (224, 224), patch_size: tuple[int, int] = (16, 16)) -> None:
        """Args: (height, width) in pixels of images and patches."""
        super().__init__()
        self.image_size, self.patch_size = image_size, patch_size
        self.mean: Sequence[float] = IMAGENET_MEAN
        self.std: Sequence[float] = IMAGENET_STD

    def forward(self, images: Tensor, *, number: int | None = None, generator: torch.Generator | None = None) -> Tensor:
        """Scores `[B, Y, X]` in [0, 1)."""
        grid = grid_of(images.shape[-2], images.shape[-1], self.patch_size)
        if generator is not None:
            return uniform((len(images), *grid), images.device, generator)
        drawn = [torch.rand(grid, generator=seeded_by(image)) for image in images]
        return torch.stack(drawn).to(images.device) if drawn else images.new_empty(0, *grid, dtype=torch.float32)


def seeded_by(image: Tensor) -> torch.Generator:
    """A generator on the CPU whose seed is a digest of the image's values as float32."""
    content = image.detach().float().cpu().contiguous().numpy().tobytes()
    digest = hashlib.blake2b(content, digest_size=7).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big"))
