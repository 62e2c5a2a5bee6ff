"""A light U-Net on a map of patch tokens: three poolings down, three bilinear enlargements up, joined by concatenation.

    x1 = F [D]   x2 = down(x1) [2b]   x3 = down(x2) [4b]   x4 = down(x3) [8b]        down: max-pooling by 2, two layers
    y1 = up(x4, x3) [4b]   y2 = up(y1, x2) [3b]   y3 = up(y2, x1) [C]                up: to the other's size, two layers

A layer is a 3x3 convolution without bias, batch norm and leaky ReLU; channels in brackets, b = 4. A map of 14 x 14 is
pooled to 7, 3 and 1, and enlarged to 3, 7 and 14: an odd row or column falls out, and comes back with the skip.

wiring   "text"      as above: three levels down and up
         "released"  y2 = up(x3, x2), which the released code computes: x4 and y1 lead nowhere. They keep their weights,
                     so that files and counts agree, learn nothing, and are not computed here

Source: Xu et al., "LocLoc: Low-level Cues and Local-area Guides for Weakly Supervised Object Localization", 2023, the
generator's f^u, and Table 1 of its supplement. For 384 features and 200 channels there are 1,132,544 weights, in the
released wiring 23,232 of them idle.

Deviations from the paper
- It states the number of levels. Widths are those that give the published number of weights; the slope of leaky ReLU,
  0.01, and half-pixel centers of the enlargement are chosen here.
- A side of one cell is not pooled further, so that maps below 8 x 8 are taken, too.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Wiring = Literal["text", "released"]


class UNet(nn.Module):
    """`[B, D, Y, X]` -> `[B, C, Y, X]`, for maps of any size."""

    def __init__(self, features: int, channels: int, *, base: int = 4, wiring: Wiring = "text") -> None:
        """Args:
            features: D.
            channels: C.
            base: b, a quarter of the channels at the second level below the map.
            wiring: see the top of this file.

        Raises:
            ValueError: for another wiring.
        """
        super().__init__()
        if wiring not in ("text", "released"):
            raise ValueError(f"wiring is {wiring!r}; choose 'text' or 'released'")
        self.wiring = wiring
        self.down_1 = _two_layers(features, 2 * base)
        self.down_2 = _two_layers(2 * base, 4 * base)
        self.down_3 = _two_layers(4 * base, 8 * base)
        self.up_1 = _two_layers(8 * base + 4 * base, 4 * base)
        self.up_2 = _two_layers(4 * base + 2 * base, 3 * base)
        self.up_3 = _two_layers(3 * base + features, channels)
        if wiring == "released":
            for idle in (self.down_3, self.up_1):
                idle.requires_grad_(False)  # else processes that train together would wait for their gradients

    def forward(self, features: Tensor) -> Tensor:
        """The map's new features, not negative but for the slope.

        Raises:
            ValueError: for another number of features.
        """
        taken = self.down_1[0].in_channels
        if features.ndim != 4 or features.shape[1] != taken:
            raise ValueError(f"features are {list(features.shape)}; this U-Net takes [B, {taken}, Y, X]")
        x2 = self.down_1(_pooled(features))
        x3 = self.down_2(_pooled(x2))
        deepest = x3 if self.wiring == "released" else self.up_1(_joined(self.down_3(_pooled(x3)), x3))
        return self.up_3(_joined(self.up_2(_joined(deepest, x2)), features))


def _two_layers(taken: int, given: int) -> nn.Sequential:
    return nn.Sequential(*_layer(taken, given), *_layer(given, given))


def _layer(taken: int, given: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(taken, given, 3, padding=1, bias=False), nn.BatchNorm2d(given), nn.LeakyReLU()


def _pooled(x: Tensor) -> Tensor:
    return functional.max_pool2d(x, (min(2, x.shape[2]), min(2, x.shape[3])))


def _joined(small: Tensor, large: Tensor) -> Tensor:
    grown = functional.interpolate(small, large.shape[-2:], mode="bilinear", align_corners=False)
    return torch.cat((large, grown), 1)
