"""AdaViT: a classifier whose blocks decide, image by image, which patches, heads and layers they use.

    L = cross entropy + usage_weight ((mean t - tokens)^2 + (mean h - heads)^2 + (mean l - layers)^2)

Means run over the images of a batch and the blocks that decide. The network is `vitrail.rankers.ada_vit`.

Source: Meng et al., "AdaViT: Adaptive Vision Transformers for Efficient Image Recognition", 2022 (arXiv 2111.15668),
Eq. 10 to 12.

Deviations from the paper
- A patch's decision reads the normalized token that the attention reads, as the released weights want it; the text has
  the token itself. Those of heads and layers read the class token as it is.
- Decision networks start with a bias of 2, so that 88 % is used at first; the text does not say.
- The authors' code adds terms that the text does not have: the same budgets block by block, an entropy of the
  decisions, a floor of the shares, and a teacher. It gives the losses of usage a weight of 2, and stops the gradient of
  token decisions at the attention. None of it is done here; the gradient of a token that is not used is what using it
  would change, not the slope, which has no bound (`vitrail.nn.policy_attention`).
- `usage="decided"` is ours: the shares that the loss draws with noise are not those of the decisions after training, a
  sigmoid of 0.6 is drawn in 60 % of the cases and always used in the end.
- The backbone is a plain ViT; most of the paper's numbers are of T2T-ViT.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from vitrail.backbones import TimmViT
from vitrail.backbones.parts import with_part
from vitrail.config import Config
from vitrail.contracts import Batch, Exported, Losses, Step
from vitrail.methods.answer import Answer
from vitrail.methods.labels import LabelConfig, Labels, fresh_head, with_classifier
from vitrail.nn.groups import parameter_groups
from vitrail.rankers.ada_vit import PART, Adapted, adapt, decisions, hardened


class AdaVitConfig(Config):
    """What may be used, and what is learned beside the labels."""

    kind: Literal["ada_vit"] = "ada_vit"
    tokens: float = Field(0.5, ge=0, le=1)
    """Share of the patches that blocks are to use, on average."""
    heads: float = Field(0.5, ge=0, le=1)
    """Share of the heads."""
    layers: float = Field(0.5, ge=0, le=1)
    """Share of the layers; a block has two, attention and MLP."""
    usage_weight: float = Field(1.0, ge=0)
    """Of the squares of what misses these shares."""
    usage: Literal["drawn", "decided"] = "drawn"
    """Whose shares are held to these. drawn: of the noisy decisions in training, as in the paper, which need not be
    those of the decisions after training; decided: of these, so that the budgets hold in the end."""
    first: int = Field(1, ge=0)
    """The first block that decides, counted from 0."""
    threshold: float = Field(0.5, gt=0, lt=1)
    """A patch is used where its sigmoid is above this; heads and layers above 0.5."""
    partial_heads: bool = False
    """A head that is not used hands each token its own value, instead of nothing."""
    decision_rate: float = Field(1.0, gt=0)
    """Factor on the learning rate of the decision networks; a short training from a trained classifier wants 10."""
    epochs: int | None = Field(None, ge=1)
    """Of the whole training; nothing refers to it, recipes fill it in."""
    labels: LabelConfig = LabelConfig()
    weight_decay: float = Field(0.05, ge=0)
    """AdamW's decay, on matrices only."""


class AdaVit(nn.Module):
    """A backbone, its decision networks and a classifier. Fulfills `vitrail.contracts.Method`."""

    def __init__(
        self, config: AdaVitConfig, backbone: TimmViT, classes: tuple[str, ...], head: nn.Linear | None = None
    ) -> None:
        """Args: classes: names of the labels 0, 1, ...; head: a trained classifier of these, None for a fresh one.

        Raises `ValueError` for fewer than two classes, and blocks that cannot decide.
        """
        super().__init__()
        self.config, self.classes = config, classes
        self.backbone = backbone
        self.labels = Labels(config.labels, len(classes))
        self.head = head or fresh_head(backbone.embed_dim, len(classes))
        self.decisions = decisions(backbone, config.first)

    def training_step(self, batch: Batch, step: Step) -> Losses:
        """Cross entropy and usage; parts: these, the shares that were used, and `top1` where unmixed."""
        images, targets = self.labels.mix(batch)
        adapted = self._adapted(images, noisy=True)
        logits = self.head(adapted.cls)
        entropy = self.labels.loss(logits, targets)
        held = decided(adapted, self.config.threshold) if self.config.usage == "decided" else adapted
        used = {name: share.mean() for name, share in shares(held).items()}
        usage = usage_loss(used, {name: getattr(self.config, name) for name in used})
        parts = {"cross_entropy": entropy.detach(), "usage": usage.detach()}
        parts |= {f"used_{name}": share.detach() for name, share in used.items()}
        return Losses(entropy + self.config.usage_weight * usage, parts | self.labels.top1(logits, targets))

    def forward(self, images: Tensor) -> Tensor:
        """Logits `[B, classes]` of normalized images `[B, 3, H, W]`, with decisions as after training."""
        return self.answer(images).logits

    def answer(self, images: Tensor) -> Answer:
        """Logits, and the shares of `tokens`, `heads` and `layers` that the deciding blocks used."""
        adapted = self._adapted(images, noisy=False)
        return Answer(self.head(adapted.cls), shares(adapted))

    def parts(self) -> dict[str, nn.Module]:
        """The decision networks, which stand beside backbone and head in the exported file."""
        return {PART: self.decisions}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Backbone and head at one rate, decision networks at theirs; biases, norms and tokens undecayed."""
        decay, groups = self.config.weight_decay, []
        for module, rate in ((self.backbone, 1.0), (self.head, 1.0), (self.decisions, self.config.decision_rate)):
            groups += [group | {"lr_scale": rate} for group in parameter_groups(module, weight_decay=decay)]
        return groups

    def after_step(self, step: Step) -> None:
        """Nothing moves between steps."""

    def export(self) -> Exported:
        """Backbone and classifier under timm's names, the decision networks under `decisions.`."""
        exported = with_classifier(self.backbone.export(), self.head, self.classes)
        about = {"threshold": self.config.threshold, "partial_heads": self.config.partial_heads}
        return with_part(exported, PART, self.decisions, about)

    def _adapted(self, images: Tensor, noisy: bool) -> Adapted:
        config = self.config
        return adapt(
            self.backbone,
            self.decisions,
            images,
            noisy=noisy,
            threshold=config.threshold,
            partial_heads=config.partial_heads,
        )


def decided(adapted: Adapted, threshold: float) -> Adapted:
    """The same with decisions as they would be without noise, for the tokens that noisy ones have led to."""
    used = tuple(
        each._replace(
            tokens=hardened(each.soft_tokens, threshold),
            heads=hardened(each.soft_heads),
            layers=hardened(each.soft_layers),
        )
        for each in adapted.used
    )
    return adapted._replace(used=used)


def shares(adapted: Adapted) -> dict[str, Tensor]:
    """What each image has used of `tokens`, `heads` and `layers`, `[B]`, mean over the blocks that decide."""
    return {
        name: torch.stack([getattr(block, name).mean(1) for block in adapted.used]).mean(0)
        for name in ("tokens", "heads", "layers")
    }


def usage_loss(used: dict[str, Tensor], budgets: dict[str, float]) -> Tensor:
    """The sum of the squares of what shares, [] each, miss their budgets by."""
    return torch.stack([(share - budgets[name]).square() for name, share in used.items()]).sum()
