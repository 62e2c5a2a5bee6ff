"""Small rankers, for the tests of the protocols."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from vitrail.evaluation.selecting import renormalized


class Brightness(nn.Module):
    """Mean pixel of a patch; fulfills `vitrail.contracts.Ranker`. Remembers what it was asked."""

    def __init__(self, image_size: int = 48, patch: int = 8, sign: float = 1.0, needs_number: bool = False) -> None:
        super().__init__()
        self.image_size, self.patch_size = (image_size, image_size), (patch, patch)
        self.mean, self.std = (0.5, 0.4, 0.3), (0.2, 0.2, 0.2)
        self.sign, self.needs_number = sign, needs_number
        self.numbers: list[int | None] = []
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor, *, number: int | None = None, generator: torch.Generator | None = None) -> Tensor:
        self.numbers.append(number)
        plain = renormalized(images, self, Plain)
        self.seen.append(plain)
        return functional.avg_pool2d(plain.mean(1, keepdim=True), self.patch_size)[:, 0] * self.sign


class Plain:
    """Pixels as they are, in [0, 1]."""

    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
