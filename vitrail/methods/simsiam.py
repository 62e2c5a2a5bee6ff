"""SimSiam: one view predicts the embedding of the other, through which no gradient flows; nothing is pushed apart.

    L = - 1/2 cos(p_1, stop(z_2)) - 1/2 cos(p_2, stop(z_1)),   z = head(backbone(view)), p = predictor(z)

Source: Chen and He, "Exploring Simple Siamese Representation Learning", 2021 (arXiv 2011.10566).

Deviations from the paper
- Norms and biases are not decayed, as everywhere in this library.
- The predictor's learning rate falls with the others; the paper keeps it (68.1 instead of 67.7 % on ImageNet, its
  Sec. 4.2), and for CIFAR says nothing of it.
- Batch norm sees the views of this process alone; the paper's sees those of all.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field
from torch import nn

from vitrail.config import Config
from vitrail.contracts import Batch, Exported, Losses, Step
from vitrail.methods.two_views import Encoder, decayed, two_views, with_heads
from vitrail.nn.projection_head import ProjectionConfig, ProjectionHead
from vitrail.ops.contrast import negative_cosine, spread


class SimsiamConfig(Config):
    """How one view is predicted from the other."""

    kind: Literal["simsiam"] = "simsiam"
    head: ProjectionConfig = ProjectionConfig(layers=3, hidden_dim=2048, out_dim=2048, last_norm=True)
    """The paper's for ImageNet; two layers for CIFAR."""
    predictor_dim: int = Field(512, ge=1)
    """Hidden width of the predictor, a bottleneck of two layers."""
    weight_decay: float = Field(5e-4, ge=0)
    """Of matrices and kernels."""


class Simsiam(nn.Module):
    """A `backbone`, its projection `head` and its `predictor`. Fulfills `vitrail.contracts.Method`."""

    def __init__(self, config: SimsiamConfig, backbone: Encoder) -> None:
        super().__init__()
        self.config = config
        self.backbone = backbone
        self.head = ProjectionHead(config.head, backbone.embed_dim)
        width = config.head.out_dim
        self.predictor = ProjectionHead(ProjectionConfig(hidden_dim=config.predictor_dim, out_dim=width), width)

    def training_step(self, batch: Batch, step: Step) -> Losses:
        """The negative cosine of both directions, in [-1, 1]; part: the `spread` of embeddings, 0 at a collapse."""
        one, two = (self.head(self.backbone(view).cls) for view in two_views(batch))
        loss = negative_cosine(self.predictor(one), two) / 2 + negative_cosine(self.predictor(two), one) / 2
        return Losses(loss, {"spread": spread(one)})

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Backbone, head and predictor."""
        return decayed(self.backbone, self.head, self.predictor, weight_decay=self.config.weight_decay)

    def after_step(self, step: Step) -> None:
        """Nothing moves but the weights."""

    def export(self) -> Exported:
        """The backbone under timm's names, the heads under `projector.` and `predictor.`."""
        return with_heads(self.backbone, projector=self.head, predictor=self.predictor)
