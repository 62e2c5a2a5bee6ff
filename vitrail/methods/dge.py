"""DGE: regions of patches learn how many queries they need, within a budget of multiplications.

    L = cross entropy(mixed and smoothed labels) + weight * (cost - budget)^2

The cost is what the blocks multiply, over blocks and images of a batch, as a share of what plain blocks do. In training
each gate draws its granularity with Gumbel noise and passes the gradient straight through; afterwards the largest
output decides. The network is `vitrail.rankers.dge`.

Source: Song et al., "Dynamic Grained Encoder for Vision Transformers", 2021.

Deviations from the paper
- All granularities are computed, in training as in use, and the gates choose among the results: no time is saved. What
  would be saved is what `cost` says.
- The cost counts the blocks' matrix products; norms, softmax and the gates themselves, below a percent, are left out.
- Grids that whole regions do not fill get a ring of zeros, the mean color; the paper trains at 256 pixels, which need
  none.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field
from torch import Tensor, nn

from vitrail.backbones import TimmViT
from vitrail.backbones.parts import with_part
from vitrail.config import Config
from vitrail.contracts import Batch, Exported, Losses, Step
from vitrail.methods.answer import Answer
from vitrail.methods.labels import LabelConfig, Labels, fresh_head, with_classifier
from vitrail.nn.groups import parameter_groups
from vitrail.rankers.dge import PART, GatesConfig, GrainedVit


class DgeConfig(Config):
    """Which granularities there are, and how much they may cost."""

    kind: Literal["dge"] = "dge"
    gates: GatesConfig = GatesConfig()
    budget: float = Field(0.5, gt=0, le=1)
    """Multiplications of the blocks that are aimed at, as a share of those of plain blocks."""
    budget_weight: float = Field(1.0, ge=0)
    """Of the squared distance from the budget."""
    epochs: int | None = Field(None, ge=1)
    """Of the whole training; nothing here counts in epochs, a recipe fills it in."""
    labels: LabelConfig = LabelConfig()
    weight_decay: float = Field(0.05, ge=0)
    """AdamW's decay, on matrices only."""


class Dge(nn.Module):
    """A backbone with gates and a classifier on its class token. Fulfills `vitrail.contracts.Method`."""

    def __init__(
        self, config: DgeConfig, backbone: TimmViT, classes: tuple[str, ...], head: nn.Linear | None = None
    ) -> None:
        """Args: classes: names of the labels 0, 1, ...; head: a trained classifier of these, None for a fresh one.

        Raises `ValueError` for fewer than two classes.
        """
        super().__init__()
        self.config, self.classes = config, classes
        self.labels = Labels(config.labels, len(classes))
        self.network = GrainedVit(backbone, config.gates)
        self.head = head or fresh_head(backbone.embed_dim, len(classes))

    @property
    def backbone(self) -> TimmViT:
        """The network's."""
        return self.network.backbone

    def training_step(self, batch: Batch, step: Step) -> Losses:
        """Cross entropy and the budget's loss; parts: `cross_entropy`, `cost`, `top1` where unmixed."""
        images, targets = self.labels.mix(batch)
        found = self.network(images, noisy=True)
        logits = self.head(found.cls)
        loss, cost = self.labels.loss(logits, targets), found.cost.mean()
        total = loss + self.config.budget_weight * (cost - self.config.budget).square()
        parts = {"cross_entropy": loss.detach(), "cost": cost.detach()}
        return Losses(total, parts | self.labels.top1(logits, targets))

    def forward(self, images: Tensor) -> Tensor:
        """Logits `[B, classes]` of normalized images `[B, 3, H, W]`, without noise."""
        return self.answer(images).logits

    def answer(self, images: Tensor) -> Answer:
        """Logits, and the shares of `tokens` (patches) that are queries and of `multiplications` that these need."""
        found = self.network(images)
        patches = found.gates[0].shape[1] * found.gates[0].shape[2] * self.network.config.region**2
        used = {"tokens": self.network.queries(found.gates).mean(0) / patches, "multiplications": found.cost}
        return Answer(self.head(found.cls), used)

    def parts(self) -> dict[str, nn.Module]:
        """The gates."""
        return {PART: self.network.gates}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Backbone, gates and head at one rate; biases, norms and tokens undecayed."""
        decay = self.config.weight_decay
        modules = (self.backbone, self.network.gates, self.head)
        return [group for module in modules for group in parameter_groups(module, weight_decay=decay)]

    def after_step(self, step: Step) -> None:
        """Nothing moves between steps."""

    def export(self) -> Exported:
        """Backbone and classifier under timm's names, and the gates under `gates.`."""
        exported = with_classifier(self.backbone.export(), self.head, self.classes)
        return with_part(exported, PART, self.network.gates, self.network.config)
