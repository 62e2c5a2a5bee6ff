"""From a token to its likeness with prototypes: the head of DINO and iBOT.

    logits = g * <normalized prototypes, normalized MLP(token)>,   g = 1 unless it is learned

Source: Caron et al. 2021 (arXiv 2104.14294), Sec. 3.1 and appendix C: an MLP, an l2 bottleneck, and a weight-normalized
layer without bias.
"""

from __future__ import annotations

import itertools

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from vitrail.config import Config


class HeadConfig(Config):
    """Sizes of a prototype head."""

    prototypes: int = Field(65536, ge=2)
    """Outputs. 65,536 for ImageNet-1k in DINO, 8,192 in iBOT; fewer for less data."""
    hidden_dim: int = Field(2048, ge=1)
    """Width of the MLP."""
    bottleneck_dim: int = Field(256, ge=1)
    """Width before the prototypes, where tokens are normalized."""
    layers: int = Field(3, ge=1)
    """Linear layers of the MLP, the bottleneck's included."""
    fixed_norm: bool = True
    """Keep all prototypes at length 1; false lets each learn its own, which is better at times and less stable."""


class PrototypeHead(nn.Module):
    """Tokens `[..., width]` to logits `[..., prototypes]`."""

    def __init__(self, config: HeadConfig, width: int) -> None:
        super().__init__()
        sizes = [width, *[config.hidden_dim] * (config.layers - 1), config.bottleneck_dim]
        layers: list[nn.Module] = []
        for number, (taken, given) in enumerate(itertools.pairwise(sizes)):
            layers += [nn.GELU(), nn.Linear(taken, given)] if number else [nn.Linear(taken, given)]
        self.config = config
        self.mlp = nn.Sequential(*layers)
        self.prototypes = nn.Parameter(torch.empty(config.prototypes, config.bottleneck_dim))
        bound = config.bottleneck_dim**-0.5
        nn.init.uniform_(self.prototypes, -bound, bound)
        self.norms = None if config.fixed_norm else nn.Parameter(torch.ones(config.prototypes))
        for part in self.mlp:
            if isinstance(part, nn.Linear):
                nn.init.trunc_normal_(part.weight, std=0.02)
                nn.init.zeros_(part.bias)

    def forward(self, tokens: Tensor, frozen: bool = False) -> Tensor:
        """Logits; with `frozen` no gradient reaches the prototypes (it is zero, not absent, for all ranks alike)."""
        return self.compare(self.embed(tokens), frozen)

    def embed(self, tokens: Tensor) -> Tensor:
        """Tokens `[..., width]` in the bottleneck, of length 1: `[..., bottleneck]`."""
        return functional.normalize(self.mlp(tokens), dim=-1)

    def compare(self, embedded: Tensor, frozen: bool = False) -> Tensor:
        """Logits of embedded tokens; linear in them, so the logits of a mean are the mean of the logits."""
        directions = functional.normalize(self.prototypes, dim=-1)
        if self.norms is not None:
            directions = directions * self.norms[:, None]
        if frozen:
            directions = directions.detach() + 0 * directions
        return functional.linear(embedded, directions)
