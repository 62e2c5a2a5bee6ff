"""EViT: a classifier that drops the patches its class token does not attend to, and fuses them into one token.

    L = cross entropy(mixed and smoothed labels)

The share of tokens that stay at a stage falls from 1 to its target along half a cosine, so that the class token has
learned where to look before patches are taken from it. The network is `vitrail.rankers.evit`.

Source: Liang et al., "Not All Patches Are What You Need: Expediting Vision Transformers via Token Reorganizations",
2022 (arXiv 2202.07800).

Deviations from the paper
- The share falls with every step, and which of two equal attentions stays is decided by the smaller id.
- The last annealed epoch is counted from the start of training, warm-up included, as in the released code.
- No distillation: the paper reports results with and without; these are without.
"""

from __future__ import annotations

import logging
import math
from typing import Any, Literal

from pydantic import Field
from torch import Tensor, nn

from vitrail.backbones import TimmViT
from vitrail.config import Config
from vitrail.contracts import Batch, Exported, Losses, Step
from vitrail.methods.answer import Answer
from vitrail.methods.labels import LabelConfig, Labels, fresh_head, with_classifier
from vitrail.nn.groups import parameter_groups
from vitrail.rankers.evit import Thinned, thin
from vitrail.rankers.stages import blocks_of

log = logging.getLogger("vitrail")


class EvitConfig(Config):
    """How many tokens stay, and from when on."""

    kind: Literal["evit"] = "evit"
    keep: float = Field(0.7, gt=0, le=1)
    """Share of the tokens that stay at each stage, at the end of the annealing and after training."""
    blocks: tuple[int, ...] | None = None
    """Blocks, counted from 0, at which tokens are dropped; null for 3, 6, 9 of 12, and in that proportion."""
    fuse: bool = True
    """Leave one token, weighted by the attention, for those that are dropped."""
    anneal_from: float = Field(10, ge=0)
    """Epochs in which every token stays."""
    anneal_until: float = Field(100, ge=0)
    """Epoch from which on the share is `keep`."""
    epochs: int | None = Field(None, ge=1)
    """Of the whole training, to which the epochs above refer; a recipe fills it in."""
    labels: LabelConfig = LabelConfig()
    weight_decay: float = Field(0.05, ge=0)
    """AdamW's decay, on matrices only."""


class Evit(nn.Module):
    """A backbone and a classifier on its class token. Fulfills `vitrail.contracts.Method`."""

    def __init__(
        self, config: EvitConfig, backbone: TimmViT, classes: tuple[str, ...], head: nn.Linear | None = None
    ) -> None:
        """Args: classes: names of the labels 0, 1, ...; head: a trained classifier of these, None for a fresh one.

        Raises `ValueError` for fewer than two classes, blocks that are not there, and an annealing that ends before it
        begins or whose epochs nobody counts.
        """
        super().__init__()
        _check(config)
        self.config, self.classes = config, classes
        self.backbone = backbone
        self.blocks = blocks_of(config.blocks, backbone.depth)
        self.labels = Labels(config.labels, len(classes))
        self.head = head or fresh_head(backbone.embed_dim, len(classes))

    def training_step(self, batch: Batch, step: Step) -> Losses:
        """Cross entropy at the share of now; parts: `cross_entropy`, `keep`, `top1` where unmixed."""
        images, targets = self.labels.mix(batch)
        keep = self.keep_at(step.progress)
        logits = self.head(self.thinned(images, keep).cls)
        loss = self.labels.loss(logits, targets)
        parts = {"cross_entropy": loss.detach(), "keep": loss.new_tensor(keep)}
        return Losses(loss, parts | self.labels.top1(logits, targets))

    def forward(self, images: Tensor) -> Tensor:
        """Logits `[B, classes]` of normalized images `[B, 3, H, W]`, with tokens dropped as after training."""
        return self.answer(images).logits

    def answer(self, images: Tensor) -> Answer:
        """Logits, and the share of `tokens` that blocks worked on."""
        thinned = self.thinned(images, self.config.keep)
        logits = self.head(thinned.cls)
        return Answer(logits, {"tokens": logits.new_full((len(logits),), thinned.used)})

    def thinned(self, images: Tensor, keep: float) -> Thinned:
        """What is left of images at a share."""
        return thin(self.backbone, images, keep, self.blocks, fuse=self.config.fuse)

    def keep_at(self, progress: float) -> float:
        """The share of tokens that stay at a stage when `progress` (in [0, 1]) of training lies behind."""
        config = self.config
        epoch = progress * (config.epochs or 0)
        if not config.epochs or epoch >= config.anneal_until:
            return config.keep
        if epoch < config.anneal_from:
            return 1.0
        share = (epoch - config.anneal_from) / (config.anneal_until - config.anneal_from)
        return config.keep + (1 - config.keep) * (1 + math.cos(math.pi * share)) / 2

    def parts(self) -> dict[str, nn.Module]:
        """Modules beside backbone and head that stand in the exported file: none."""
        return {}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Backbone and head at one rate; biases, norms and tokens undecayed."""
        decay = self.config.weight_decay
        return parameter_groups(self.backbone, weight_decay=decay) + parameter_groups(self.head, weight_decay=decay)

    def after_step(self, step: Step) -> None:
        """Nothing moves between steps."""

    def export(self) -> Exported:
        """Backbone and classifier under timm's names; the stages stand in the header, under `evit`."""
        exported = with_classifier(self.backbone.export(), self.head, self.classes)
        about = {"blocks": list(self.blocks), "fuse": self.config.fuse, "keep": self.config.keep}
        return exported._replace(metadata=exported.metadata | {"evit": about})


def _check(config: EvitConfig) -> None:
    if config.anneal_until < config.anneal_from:
        raise ValueError(
            f"the share of tokens is to fall from epoch {config.anneal_from:g} until epoch {config.anneal_until:g}; "
            "set method.anneal_until to a later epoch than method.anneal_from"
        )
    if config.epochs is None and config.anneal_until:
        raise ValueError(
            f"the share of tokens falls until epoch {config.anneal_until:g}, and nobody says how many epochs there "
            "are; set epochs, or anneal_from and anneal_until to 0"
        )
    if config.epochs is not None and config.anneal_until > config.epochs:
        log.warning(
            "the share of tokens falls until epoch %g, and training ends after %d: its last share is not trained with; "
            "method.anneal_from and method.anneal_until change that",
            config.anneal_until,
            config.epochs,
        )
