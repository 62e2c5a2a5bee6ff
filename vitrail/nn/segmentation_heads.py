"""Heads that turn a map of patch features into a map of class scores.

    linear  a 1x1 convolution, one logit vector a patch
    conv    ("FCN") three blocks of 1x1, 1x1 and 3x3 convolution, ReLU after each, and bilinear upsampling by 2; then a
            1x1 convolution to the classes. The map is 8 times as large as the grid.

Source: the transfer learning of "CoTAP", Appendix B.2, which states the layers of a block.

Deviations: it states neither the width of the blocks, nor where ReLU stands, nor what maps to the classes: 256
channels, after every convolution, and one more 1x1 convolution are chosen here.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

BLOCKS = 3


class LinearSegmenter(nn.Module):
    """`[B, D, Y, X]` -> logits `[B, C, Y, X]`."""

    def __init__(self, features: int, classes: int, *, batch_norm: bool = False, seed: int = 0) -> None:
        """Args:
        features: D.
        classes: C.
        batch_norm: normalize each feature over the batch first, without parameters of its own.
        seed: of the initial weights; PyTorch's initialization of a convolution.
        """
        super().__init__()
        self.norm = nn.BatchNorm2d(features, affine=False) if batch_norm else nn.Identity()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.classifier = nn.Conv2d(features, classes, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Logits of a map of features."""
        return self.classifier(self.norm(features))


class ConvSegmenter(nn.Module):
    """`[B, D, Y, X]` -> logits `[B, C, 8 Y, 8 X]`."""

    def __init__(self, features: int, classes: int, *, width: int = 256, seed: int = 0) -> None:
        """Args:
        features: D.
        classes: C.
        width: channels within the blocks.
        seed: of the initial weights; He's normal initialization (He et al. 2015), biases 0.
        """
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.blocks = nn.Sequential(*(_block(features if not n else width, width) for n in range(BLOCKS)))
            self.classifier = nn.Conv2d(width, classes, 1)
            self.apply(_he)

    def forward(self, features: Tensor) -> Tensor:
        """Logits of a map of features."""
        return self.classifier(self.blocks(features))


def _block(features: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(features, width, 1),
        nn.ReLU(),
        nn.Conv2d(width, width, 1),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1),
        nn.ReLU(),
        nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
    )


def _he(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
