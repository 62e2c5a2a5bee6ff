"""How much a reconstructed picture changes: by structure, by error, or in the eyes of a network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from vitrail.contracts import Backbone
from vitrail.ops.image_quality import dissimilarity, psnr
from vitrail.ops.patches import patchify, unpatchify

PictureMetric = Literal["ssim", "psnr", "perceptual"]
LIMIT = 120.0
"""dB, PSNR of pictures that are the same."""


class PictureChange(nn.Module):
    """Predicted patches to pictures, and pairs of pictures to one number, larger for more change.

    Pictures are pixels as in a file, in [0, 1] but for what the decoder overshoots, where the backbone says by which
    `mean` and `std` it was normalized; of one that does not, pixels are taken as they are.
    """

    def __init__(
        self, metric: PictureMetric, backbone: Backbone, perceptual: Backbone | None, normalized_targets: bool
    ) -> None:
        """Args: normalized_targets: predictions are normalized within each patch; the true patch's mean and spread
        are put back.

        Raises:
            ValueError: the metric "perceptual" without a network.
        """
        super().__init__()
        if metric == "perceptual" and perceptual is None:
            raise ValueError(
                "the metric perceptual needs a network whose patch features are compared; give perceptual=, a backbone"
            )
        self.metric = metric
        self.patch_size = backbone.patch_size
        self.normalized_targets = normalized_targets
        self.perceptual = perceptual if metric == "perceptual" else None
        self.mean, self.std = _pixels(backbone)

    def pictures(self, images: Tensor, ids: Tensor, predictions: Tensor, grid: tuple[int, int]) -> Tensor:
        """`[B, 3, H, W]`: predictions `[B, M, P]` in the places `ids` `[B, M]`, elsewhere the images' own pixels."""
        true = patchify(images.to(predictions.dtype), self.patch_size)
        index = ids.unsqueeze(2).expand(-1, -1, true.shape[2])
        if self.normalized_targets:
            variance, mean = torch.var_mean(true.gather(1, index), dim=-1, keepdim=True)
            predictions = predictions * (variance + 1e-6).sqrt() + mean
        pictures = unpatchify(true.scatter(1, index, predictions), grid, self.patch_size)
        return pictures * _channels(self.std, pictures) + _channels(self.mean, pictures)

    def seen(self, pictures: Tensor) -> Tensor:
        """What is compared of pictures `[B, 3, H, W]`: themselves, or features `[B, N, D]` in the eyes of a network."""
        if self.perceptual is None:
            return pictures
        mean, std = _pixels(self.perceptual)
        found = self.perceptual((pictures - _channels(mean, pictures)) / _channels(std, pictures))
        return found.patches.to(pictures.dtype)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Of what `seen` gave, `[B]`, 0 where it is the same: 1 - SSIM, dB of PSNR below `LIMIT`, or 1 - cosine."""
        if self.metric == "ssim":
            return dissimilarity(first, second)
        if self.metric == "psnr":
            return LIMIT - psnr(first, second, limit=LIMIT)
        # 1 - cosine, so that float32 tells features apart that nearly agree.
        return (functional.normalize(first, dim=-1) - functional.normalize(second, dim=-1)).square().sum(-1).mean(1) / 2


def _pixels(backbone: Any) -> tuple[Sequence[float], Sequence[float]]:
    return getattr(backbone, "mean", (0.0, 0.0, 0.0)), getattr(backbone, "std", (1.0, 1.0, 1.0))


def _channels(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(tuple(values), dtype=like.dtype, device=like.device).view(-1, 1, 1)
