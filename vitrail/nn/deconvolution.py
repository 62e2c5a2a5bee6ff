"""From a map of patch tokens to a map of the object: the generators of LocLoc and PPD.

    enlarge   three transposed convolutions of 4x4 in steps of 2 to 256 channels, without bias; batch norm, ReLU

    GEG   F [D, Y, X] -> U-Net [C, Y, X] -> enlarge [256, 8Y, 8X] -> 3x3 convolution to 1 -> batch norm -> sigmoid
    PPD   F [D, Y, X] -> 3x3 convolution to 2048, batch norm, ReLU -> 3x3 max-pooling in steps of 2 -> enlarge
          -> 1x1 convolution to 1                                                         [4Y, 4X], of 16 x 16 64 x 64

Sources: Xu et al., "LocLoc", 2023 (f^u, f^d and Eq. of F^a), and its supplement's Table 1: 4,052,738 and 17,569,537
weights for 384 features, 3.86 and 16.76 of 2^20; Xu et al., "Proxy Probing Decoder for Weakly Supervised Object
Localization", 2022.

Deviations from the papers
- The number of channels C between f^u and f^d is that of CUB's classes in the released code, which do not decide it; it
  is a setting here, and labels are not needed to train a generator.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from vitrail.config import Config
from vitrail.nn.unet import UNet

STAGES = 3


class GegConfig(Config):
    """Sizes of LocLoc's generator; the published ones by default."""

    wiring: Literal["text", "released"] = "text"
    """Of the U-Net: three levels as the text says, or two as the released code computes, see `vitrail.nn.unet`."""
    channels: int = Field(200, ge=1)
    """What the U-Net gives to f^d."""
    base: int = Field(4, ge=1)
    """The U-Net's width: 2, 4 and 8 times as many channels on the way down."""
    width: int = Field(256, ge=1)
    """Channels of f^d."""


class PpdGeneratorConfig(Config):
    """Sizes of PPD's generator; the published ones by default."""

    hidden: int = Field(2048, ge=1)
    """Channels of the first convolution."""
    width: int = Field(256, ge=1)
    """Channels of the transposed convolutions."""


class Geg(nn.Module):
    """LocLoc's generator: `[B, D, Y, X]` -> `[B, 8Y, 8X]` in (0, 1)."""

    def __init__(self, config: GegConfig, features: int) -> None:
        """Args: features: D."""
        super().__init__()
        self.config = config
        self.unet = UNet(features, config.channels, base=config.base, wiring=config.wiring)
        self.enlarge = enlarging(config.channels, config.width)
        self.last = nn.Sequential(nn.Conv2d(config.width, 1, 3, padding=1, bias=False), nn.BatchNorm2d(1))

    def forward(self, features: Tensor) -> Tensor:
        """How much each cell belongs to the object."""
        return self.last(self.enlarge(_inside_out(self.unet(features)))).squeeze(1).sigmoid()


class PpdGenerator(nn.Module):
    """PPD's generator: `[B, D, Y, X]` -> `[B, 8 ceil(Y / 2), 8 ceil(X / 2)]`, trained to be 0 or 1 and not bounded."""

    def __init__(self, config: PpdGeneratorConfig, features: int) -> None:
        """Args: features: D."""
        super().__init__()
        self.config = config
        self.first = nn.Sequential(
            nn.Conv2d(features, config.hidden, 3, padding=1, bias=False),
            nn.BatchNorm2d(config.hidden),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2, padding=1),
        )
        self.enlarge = enlarging(config.hidden, config.width)
        self.last = nn.Conv2d(config.width, 1, 1)

    def forward(self, features: Tensor) -> Tensor:
        """How much each cell belongs to the object."""
        return self.last(self.enlarge(self.first(_inside_out(features)))).squeeze(1)


def enlarging(features: int, width: int) -> nn.Sequential:
    """`[B, D, Y, X]` -> `[B, width, 8Y, 8X]`: transposed convolutions, each with batch norm and ReLU."""
    layers: list[nn.Module] = []
    for stage in range(STAGES):
        taken = width if stage else features
        layers += [nn.ConvTranspose2d(taken, width, 4, 2, padding=1, bias=False), nn.BatchNorm2d(width)]
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


def _inside_out(features: Tensor) -> Tensor:
    """The same with channels last in memory, in which wide convolutions take half the time, on CPUs and GPUs."""
    return features.contiguous(memory_format=torch.channels_last)
