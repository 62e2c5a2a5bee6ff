"""From a token to its likeness with prototypes: the head of DINO and iBOT.

    logits = g * <normalized prototypes, normalized MLP(token)>,   g = 1 unless it is learned

Source: Caron et al. 2021 (arXiv 2104.14294), Sec. 3.1 and appendix C: an MLP, an l2 bottleneck, and a weight-normalized
layer without bias. Lengths and likenesses are computed in float32, whatever autocast says: what comes of them is
divided by temperatures down to 0.04.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from vitrail.config import Config
from vitrail.nn.groups import parameter_groups
from vitrail.nn.published_head import from_published


class HeadConfig(Config):
    """Sizes of a prototype head."""

    prototypes: int = Field(65536, ge=0)
    """Outputs. 65,536 for ImageNet-1k in DINO, 8,192 in iBOT, 300 in Leopart; fewer for less data. 0 compares with
    none: the bottleneck's entries, of length 1 together, are the outputs."""
    hidden_dim: int = Field(2048, ge=1)
    """Width of the MLP."""
    bottleneck_dim: int = Field(256, ge=1)
    """Width before the prototypes, where tokens are normalized."""
    layers: int = Field(3, ge=1)
    """Linear layers of the MLP, the bottleneck's included."""
    fixed_norm: bool = True
    """Keep all prototypes at length 1; false lets each learn its own, which is better at times and less stable."""

    @property
    def outputs(self) -> int:
        """How many logits there are."""
        return self.prototypes or self.bottleneck_dim

    @model_validator(mode="after")
    def _several(self) -> Self:
        if self.outputs < 2:
            raise ValueError(
                f"prototypes {self.prototypes} with bottleneck_dim {self.bottleneck_dim} leave {self.outputs} output; "
                "give at least 2 prototypes, or 0 for the bottleneck itself"
            )
        if not self.prototypes and not self.fixed_norm:
            raise ValueError("fixed_norm is false and there are no prototypes; set fixed_norm=true")
        return self


class PrototypeHead(nn.Module):
    """Tokens `[..., width]` to logits `[..., prototypes]`, or to the bottleneck where there are none."""

    def __init__(self, config: HeadConfig, width: int) -> None:
        super().__init__()
        sizes = [width, *[config.hidden_dim] * (config.layers - 1), config.bottleneck_dim]
        layers: list[nn.Module] = []
        for number, (taken, given) in enumerate(itertools.pairwise(sizes)):
            layers += [nn.GELU(), nn.Linear(taken, given)] if number else [nn.Linear(taken, given)]
        self.config = config
        self.mlp = nn.Sequential(*layers)
        self.prototypes = None
        if config.prototypes:
            bound = config.bottleneck_dim**-0.5
            self.prototypes = nn.Parameter(
                torch.empty(config.prototypes, config.bottleneck_dim).uniform_(-bound, bound)
            )
        self.norms = None if config.fixed_norm else nn.Parameter(torch.ones(config.prototypes))
        for part in self.mlp:
            if isinstance(part, nn.Linear):
                nn.init.trunc_normal_(part.weight, std=0.02)
                nn.init.zeros_(part.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of tokens."""
        return self.compare(self.embed(tokens))

    def embed(self, tokens: Tensor) -> Tensor:
        """Tokens `[..., width]` in the bottleneck, of length 1: `[..., bottleneck]`."""
        return functional.normalize(_wide(self.mlp(tokens)), dim=-1)

    def compare(self, embedded: Tensor) -> Tensor:
        """Logits of embedded tokens; linear in them, so the logits of a mean are the mean of the logits."""
        if self.prototypes is None:
            return _wide(embedded)
        with torch.autocast(embedded.device.type, enabled=False):
            directions = functional.normalize(_wide(self.prototypes), dim=-1)
            if self.norms is not None:
                directions = directions * self.norms[:, None]
            return functional.linear(_wide(embedded), directions)

    def groups(self, *, frozen_until: float, **decay: Any) -> list[dict[str, Any]]:
        """Optimizer groups (`contracts.Method`): prototypes and their lengths rest until a share of training is over.

        Args:
            frozen_until: that share, in [0, 1]; 0 for no rest.
            decay: `weight_decay`, `weight_decay_end`, as `vitrail.nn.groups.parameter_groups` takes them.
        """
        groups = parameter_groups(self, **decay)
        resting = [value for value in (self.prototypes, self.norms) if value is not None]
        for group in groups[:]:
            mine = [value for value in group["params"] if any(value is each for each in resting)]
            if mine and frozen_until:
                group["params"] = [value for value in group["params"] if all(value is not each for each in mine)]
                groups.append(group | {"params": mine, "frozen_until": frozen_until})
        return [group for group in groups if group["params"]]

    def translated(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A head's state under this one's names: of a head like this, or of DINO's and iBOT's (`nn.published_head`).

        Raises:
            ValueError: for a published head that is built otherwise, or prototypes of unequal length where this head
                keeps them at 1. Sizes are not looked at.
        """
        found = from_published(state)
        norms = found.pop("norms", None)
        if self.norms is not None:
            found["norms"] = self.norms.new_ones(self.norms.shape) if norms is None else norms
        elif norms is not None and bool((norms != 1).any()):
            raise ValueError(
                f"the prototypes have learned lengths, from {norms.min():.4g} to {norms.max():.4g}, and this head "
                "keeps all at 1; set fixed_norm=false (method.head.fixed_norm=false)"
            )
        return found


def _wide(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))
