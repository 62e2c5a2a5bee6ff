"""Classifiers on tokens: LocLoc's own transformer with a head on patch tokens, and PPD's linear layer on class tokens.

    LFDM  tokens of a frozen embedding -> blocks of its own -> norm -> patches as a map [D, Y, X]
          -> 3x3 convolution [D], ReLU -> 3x3 convolution [classes], batch norm -> 3x3 mean -> mean = logits
    PPD   class tokens of the last four blocks, each normalized, side by side [4D] -> linear = logits

Sources: Xu et al., "LocLoc", 2023 (f^t and fc): with ViT-S/16 and 1000 classes, as published also for CUB's 200,
26,079,824 weights, 24.87 of 2^20; Xu et al., "Proxy Probing Decoder", 2022, whose classifier is that of DINO's linear
evaluation (Caron et al. 2021).

Deviations from the papers
- The released head has a ReLU after its batch norm: no logit is below 0, and the cross entropy of C classes cannot fall
  where all are 0. Here it is an option, `relu`.
- The head has as many outputs as there are classes; the released one has 1000 for CUB's 200, too.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from vitrail.config import Config


class LfdmConfig(Config):
    """LocLoc's classifier."""

    relu: bool = False
    """A ReLU on the logits before they are averaged, as in the released code."""


class Lfdm(nn.Module):
    """Embedded tokens `[B, T, D]` to logits `[B, C]`, by blocks of its own."""

    def __init__(self, config: LfdmConfig, blocks: nn.Sequential, norm: nn.Module, prefix: int, classes: int) -> None:
        """Args:
        config: settings.
        blocks, norm: of a ViT; they are copied, and the copies learn.
        prefix: how many class, distillation and register tokens stand before the patches.
        classes: C.
        """
        super().__init__()
        self.config, self.prefix = config, prefix
        self.blocks = copy.deepcopy(blocks).requires_grad_(True)
        self.norm = copy.deepcopy(norm).requires_grad_(True)
        width = next(value for value in self.norm.parameters()).numel()
        self.head = TokenClassifier(width, classes, relu=config.relu)

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Logits.

        Args:
            tokens: what a ViT's first block sees.
            grid: (Y, X) of the patches, which stand last.
        """
        found = self.norm(run_blocks(self.blocks, tokens, grid))
        return self.head(patch_map(found, self.prefix, grid))


class TokenClassifier(nn.Module):
    """`[B, D, Y, X]` -> logits `[B, C]`."""

    def __init__(self, features: int, classes: int, *, relu: bool = False) -> None:
        """Args:
        features: D.
        classes: C.
        relu: as in `LfdmConfig`.
        """
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(features, features, 3, padding=1), nn.ReLU(inplace=True))
        self.second = nn.Sequential(nn.Conv2d(features, classes, 3, padding=1, bias=False), nn.BatchNorm2d(classes))
        self.relu = nn.ReLU() if relu else nn.Identity()
        self.mean = nn.AvgPool2d(3, 1, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        """Logits, the mean over the map; the 3x3 mean before it counts cells beyond the rim as 0."""
        return self.mean(self.relu(self.second(self.first(features)))).mean((2, 3))


class ClassTokenProbe(nn.Module):
    """Class tokens of several blocks to logits `[B, C]`."""

    def __init__(self, features: int, classes: int, blocks: int = 4) -> None:
        """Args: features: D of one token. classes: C. blocks: how many tokens stand side by side."""
        super().__init__()
        self.blocks = blocks
        self.linear = nn.Linear(features * blocks, classes)
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)

    def forward(self, tokens: Sequence[Tensor]) -> Tensor:
        """Logits of normalized class tokens, `[B, D]` of each block, the last block's last.

        Raises:
            ValueError: for another number of blocks.
        """
        if len(tokens) != self.blocks:
            raise ValueError(f"{len(tokens)} class tokens are given, and the classifier reads {self.blocks}")
        return self.linear(torch.cat(list(tokens), -1))


def run_blocks(blocks: Iterable[nn.Module], tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Tokens `[B, T, D]` through transformer blocks, one by one; a block with an object-aware filter gets the grid."""
    for block in blocks:
        tokens = block(tokens, grid=grid) if getattr(block, "object_filter", None) is not None else block(tokens)
    return tokens


def patch_map(tokens: Tensor, prefix: int, grid: tuple[int, int]) -> Tensor:
    """The patches of tokens `[B, prefix + N, D]` as a map `[B, D, Y, X]`."""
    return tokens[:, prefix:].transpose(1, 2).unflatten(2, grid)
