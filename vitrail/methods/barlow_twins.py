"""Barlow Twins: each feature agrees between two views, and tells nothing that another one tells.

    L = s (sum_i (1 - C_ii)^2 + w sum_{i != j} C_ij^2)

C [D, D] is the correlation over the batch between features of one view and of the other.

Source: Zbontar et al., "Barlow Twins: Self-Supervised Learning via Redundancy Reduction", 2021 (arXiv 2103.03230).

Deviations from the paper
- Norms and biases are not decayed, as everywhere in this library; the optimizer is the recipe's, not LARS, under which
  the size of the loss would not matter. With SGD it does, and the factor s (`scale`) is there for that; the paper
  has 1.
- Embeddings are standardized over the batch of all processes, and what batch norm inside sees is this process's. With
  accumulation, each micro-batch has a correlation of its own.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field
from torch import nn

from vitrail.config import Config
from vitrail.contracts import Batch, Exported, Losses, Step
from vitrail.methods.two_views import Encoder, decayed, two_views, with_heads
from vitrail.nn.across import joined
from vitrail.nn.projection_head import ProjectionConfig, ProjectionHead
from vitrail.ops.contrast import barlow_twins, spread


class BarlowTwinsConfig(Config):
    """How features are kept apart."""

    kind: Literal["barlow_twins"] = "barlow_twins"
    head: ProjectionConfig = ProjectionConfig(layers=3, hidden_dim=8192, out_dim=8192)
    """The paper's for ImageNet."""
    redundancy: float = Field(0.005, ge=0)
    """Weight w of what different features have in common."""
    scale: float = Field(1.0, gt=0)
    """Factor s on the whole loss."""
    weight_decay: float = Field(5e-4, ge=0)
    """Of matrices and kernels."""


class BarlowTwins(nn.Module):
    """A `backbone` and its projection `head`. Fulfills `vitrail.contracts.Method`."""

    def __init__(self, config: BarlowTwinsConfig, backbone: Encoder) -> None:
        super().__init__()
        self.config = config
        self.backbone = backbone
        self.head = ProjectionHead(config.head, backbone.embed_dim)

    def training_step(self, batch: Batch, step: Step) -> Losses:
        """The loss of the batch of all processes; part: the `spread` of embeddings, 0 where they collapse."""
        one, two = (self.head(self.backbone(view).cls) for view in two_views(batch))
        loss = self.config.scale * barlow_twins(one, two, self.config.redundancy, gather=joined)
        return Losses(loss, {"spread": spread(one)})

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Backbone and head."""
        return decayed(self.backbone, self.head, weight_decay=self.config.weight_decay)

    def after_step(self, step: Step) -> None:
        """Nothing moves but the weights."""

    def export(self) -> Exported:
        """The backbone under timm's names, the head under `projector.`."""
        return with_heads(self.backbone, projector=self.head)
