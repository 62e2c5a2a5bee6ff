"""SimCLR: a view of an image finds the other view of it among the views of all images of the batch.

    L = mean over views a of  - log  exp(<z_a, z_b> / T) / sum over views c != a of exp(<z_a, z_c> / T)

z = head(backbone(view)), of length 1; b is the other view of a's image.

Source: Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", 2020 (arXiv 2002.05709).

Deviations from the paper
- Norms and biases are not decayed, as everywhere in this library; the optimizer is the recipe's, not LARS.
- Batch norm sees the views of this process alone; the paper's sees those of all. The loss is that of the whole batch,
  but for accumulation: a micro-batch contrasts with itself alone.
- Embeddings have batch norm in the hidden layer only (`head.last_norm` adds the other, as in the released code).
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn

from vitrail.config import Config
from vitrail.contracts import Batch, Exported, Losses, Step
from vitrail.methods.two_views import Encoder, decayed, two_views, with_heads
from vitrail.nn.across import joined
from vitrail.nn.projection_head import ProjectionConfig, ProjectionHead
from vitrail.ops.contrast import nt_xent, spread


class SimclrConfig(Config):
    """How views are contrasted."""

    kind: Literal["simclr"] = "simclr"
    head: ProjectionConfig = ProjectionConfig()
    temperature: float = Field(0.5, gt=0)
    """Divides the cosines; 0.5 is best for small images and long training, 0.1 for ImageNet."""
    weight_decay: float = Field(5e-4, ge=0)
    """Of matrices and kernels."""


class Simclr(nn.Module):
    """A `backbone` and its projection `head`. Fulfills `vitrail.contracts.Method`."""

    def __init__(self, config: SimclrConfig, backbone: Encoder) -> None:
        super().__init__()
        self.config = config
        self.backbone = backbone
        self.head = ProjectionHead(config.head, backbone.embed_dim)

    def training_step(self, batch: Batch, step: Step) -> Losses:
        """NT-Xent of all views of all processes; part: the `spread` of embeddings, 0 where they collapse."""
        embeddings = self.head(self.backbone(torch.cat(two_views(batch))).cls)
        one, two = embeddings.chunk(2)
        loss = nt_xent(one, two, self.config.temperature, gather=joined)
        return Losses(loss, {"spread": spread(embeddings)})

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Backbone and head."""
        return decayed(self.backbone, self.head, weight_decay=self.config.weight_decay)

    def after_step(self, step: Step) -> None:
        """Nothing moves but the weights."""

    def export(self) -> Exported:
        """The backbone under timm's names, the head under `projector.`."""
        return with_heads(self.backbone, projector=self.head)
