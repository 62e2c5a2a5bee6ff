"""What a teacher's logits become before a student learns from them: centered and sharpened, or balanced by Sinkhorn.

Without either, teacher and student agree on one prototype for everything. Centering works against that by an average
that moves, Sinkhorn-Knopp by using all prototypes equally within what one forward pass sees on all processes: with
accumulation, within each micro-batch.

Sources: Caron et al. 2021 (arXiv 2104.14294), Sec. 3.1; Caron et al. 2020 (arXiv 2006.09882) for Sinkhorn-Knopp.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from vitrail.config import Config
from vitrail.nn.across import largest, summed
from vitrail.ops.distillation import moved_center, sharpened
from vitrail.ops.sinkhorn import over_ranks, sinkhorn


class TargetConfig(Config):
    """From a teacher's logits to probabilities."""

    kind: Literal["centering", "sinkhorn"] = "centering"
    temperature: float = Field(0.07, gt=0)
    """Divides the logits; smaller is sharper."""
    warmup_temperature: float = Field(0.04, gt=0)
    """Where the temperature starts."""
    warmup_epochs: int = Field(30, ge=0)
    """Epochs in which it rises linearly, in steps of an epoch."""
    center_momentum: float = Field(0.9, ge=0, le=1)
    """Of the center, for "centering"."""
    sinkhorn_iterations: int = Field(3, ge=1)
    """For "sinkhorn"."""

    def temperature_at(self, epoch: int) -> float:
        """The temperature in epoch 0, 1, ...: it is reached in the last epoch of the warm-up, as published."""
        if epoch >= self.warmup_epochs:
            return self.temperature
        share = epoch / max(self.warmup_epochs - 1, 1)
        return self.warmup_temperature + (self.temperature - self.warmup_temperature) * share


class SoftTargets(nn.Module):
    """Logits to probabilities. The center is a buffer; it moves when it is told to, by what was seen since."""

    def __init__(self, config: TargetConfig, prototypes: int) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("center", torch.zeros(prototypes))
        # Seen since the center moved last: sum of logits, and how many. Never read by a loss, so not in a checkpoint.
        self.register_buffer("seen", torch.zeros(prototypes), persistent=False)
        self.register_buffer("count", torch.zeros(()), persistent=False)
        self.center: Tensor
        self.seen: Tensor
        self.count: Tensor

    @torch.no_grad()
    def forward(self, logits: Tensor, epoch: int) -> Tensor:
        """Probabilities of logits `[B, K]`, float32; all processes call it together."""
        temperature = self.config.temperature_at(epoch)
        if self.config.kind == "sinkhorn":
            return sinkhorn(logits, temperature, self.config.sinkhorn_iterations, combine=over_ranks(largest, summed))
        return sharpened(logits, self.center, temperature)

    @torch.no_grad()
    def note(self, mean_logits: Tensor, count: int) -> None:
        """Remember the mean `[K]` of `count` logits for the center's next move."""
        self.seen += mean_logits.float() * count
        self.count += count

    @torch.no_grad()
    def move(self) -> None:
        """Move the center toward the mean of what all processes noted. All of them call it together."""
        if self.config.kind == "centering":
            seen, count = summed(self.seen), summed(self.count)
            mean = seen / count.clamp(min=1)
            new = moved_center(self.center, mean, self.config.center_momentum)
            self.center.copy_(torch.where(count > 0, new, self.center))
        self.seen.zero_()
        self.count.zero_()
