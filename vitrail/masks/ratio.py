"""How many patches each image of a batch hides, when the number varies.

Source: iBOT's released training (Zhou et al. 2022, arXiv 2111.07832): with probability 0.5 an image is masked, at a
ratio uniform in mean +- spread, each image by itself. The default, 0.7 +- 0.05, goes with random masks (DPPMask's
Table 8); blocks were published with 0.3 +- 0.2.
"""

from __future__ import annotations

from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from vitrail.config import Config


class RatioConfig(Config):
    """Which share of its patches an image hides, and how often."""

    mean: float = Field(0.7, gt=0, lt=1, description="share of patches hidden in an image that is masked")
    spread: float = Field(0.05, ge=0, lt=0.5, description="the share is uniform in mean +- spread; 0: always mean")
    probability: float = Field(0.5, gt=0, le=1, description="that an image is masked at all; else it hides 0 patches")

    @model_validator(mode="after")
    def _inside(self) -> Self:
        if not (self.mean - self.spread > 0 and self.mean + self.spread < 1):
            raise ValueError(
                f"mean {self.mean} and spread {self.spread} give shares from {self.mean - self.spread:g} to "
                f"{self.mean + self.spread:g}; they lie inside (0, 1): lower the spread"
            )
        return self


def draw_numbers(config: RatioConfig, batch: int, patches: int, *, generator: torch.Generator | None = None) -> Tensor:
    """Numbers of hidden patches, int64 `[B]`, as masks take them.

    Each is 0 with probability 1 - `config.probability`, otherwise int(ratio * patches). They lie where the generator
    does, on the CPU by default; there masks can check them without waiting for a GPU.
    """
    place = generator.device if generator is not None else torch.device("cpu")
    draws = torch.rand(2, batch, generator=generator, device=place, dtype=torch.float64)
    ratio = config.mean + config.spread * (2 * draws[0] - 1)
    number = (ratio * patches).long().clamp(max=patches - 1)
    return torch.where(draws[1] < config.probability, number, 0)
