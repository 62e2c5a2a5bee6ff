"""DynamicViT: a classifier with small networks that learn which patches it can do without.

    L = cross entropy + kl_weight KL(teacher || student) + token_weight D + ratio_weight R

    R = mean over stages s and images of (r^s - share of patches kept after stage s)^2
    D = mean over the patches kept in the end, and over channels, of (token - teacher's token)^2

The teacher is what training starts from, frozen, with every patch. The network is `vitrail.rankers.dynamic_vit`.

Source: Rao et al., "DynamicViT: Efficient Vision Transformers with Dynamic Token Sparsification", 2021 (arXiv
2106.02034), Eq. 12 to 16.

Deviations from the paper
- D is a mean over channels, too, as in the released code; the text sums the squares of a token.
- The gradient of a decision against a patch is what keeping it would change, not the slope, which has no bound
  (`vitrail.nn.policy_attention`).
- The predictors' mean over the patches that are left, and the attention's denominator, have no epsilon beside what
  keeps them from dividing by zero.
- After training `int(N r^s)` patches are left after stage s, where floats that miss a whole number count as it.
"""

from __future__ import annotations

import logging
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from vitrail.backbones import TimmViT
from vitrail.backbones.parts import with_part
from vitrail.config import Config
from vitrail.contracts import Batch, Exported, Losses, Step
from vitrail.methods.answer import Answer
from vitrail.methods.labels import LabelConfig, Labels, fresh_head, with_classifier
from vitrail.nn.groups import parameter_groups
from vitrail.nn.teacher import teacher_of
from vitrail.rankers.dynamic_vit import PART, Masked, drop, mask, predictors
from vitrail.rankers.stages import blocks_of

log = logging.getLogger("vitrail")


class DynamicVitConfig(Config):
    """How many patches stay, and what is learned beside the labels."""

    kind: Literal["dynamic_vit"] = "dynamic_vit"
    keep: float = Field(0.7, gt=0, le=1)
    """r: r, r^2 and r^3 of the patches are left after the stages."""
    blocks: tuple[int, ...] | None = None
    """Blocks, counted from 0, before which patches are dropped; null for 3, 6, 9 of 12, and in that proportion."""
    ratio_weight: float = Field(2.0, ge=0)
    """Of R, which holds the shares to r^s."""
    kl_weight: float = Field(0.5, ge=0)
    """Of the teacher's answers."""
    token_weight: float = Field(0.5, ge=0)
    """Of the teacher's tokens, D."""
    teacher: Literal["start", "none"] = "start"
    """start: a frozen copy of the classifier that training starts from, none where that one is fresh; none: no teacher,
    and neither of its losses."""
    backbone_rate: float = Field(0.01, gt=0)
    """Factor on the learning rate of backbone and classifier; the predictors learn at the full rate."""
    frozen_epochs: float = Field(5, ge=0)
    """Epochs at the start in which the predictors alone learn."""
    epochs: int | None = Field(None, ge=1)
    """Of the whole training, to which the epochs above refer; a recipe fills it in."""
    labels: LabelConfig = LabelConfig()
    weight_decay: float = Field(0.05, ge=0)
    """AdamW's decay, on matrices only."""


class DynamicVit(nn.Module):
    """A backbone, its predictors and a classifier on the class token. Fulfills `vitrail.contracts.Method`."""

    def __init__(
        self, config: DynamicVitConfig, backbone: TimmViT, classes: tuple[str, ...], head: nn.Linear | None = None
    ) -> None:
        """Args: classes: names of the labels 0, 1, ...; head: a trained classifier of these, None for a fresh one.

        Raises `ValueError` for fewer than two classes, blocks that are not there or closed, and frozen epochs that
        nobody counts.
        """
        super().__init__()
        if config.frozen_epochs and config.epochs is None:
            raise ValueError(
                f"the backbone is frozen for {config.frozen_epochs:g} epochs, and nobody says how many there are; set "
                "epochs, or frozen_epochs to 0"
            )
        self.config, self.classes = config, classes
        self.backbone = backbone
        self.blocks = blocks_of(config.blocks, backbone.depth)
        self.labels = Labels(config.labels, len(classes))
        self.head = head or fresh_head(backbone.embed_dim, len(classes))
        self.score_predictor = predictors(backbone.embed_dim, len(self.blocks))
        self.teacher: nn.Module | None = None
        self.teacher_head: nn.Module | None = None
        if config.teacher == "start" and head is None:
            log.warning("training starts from a fresh classifier, which teaches nothing: there is no teacher")
        elif config.teacher == "start":
            self.teacher, self.teacher_head = teacher_of(backbone), teacher_of(self.head)

    def training_step(self, batch: Batch, step: Step) -> Losses:
        """The sum of four losses; parts: `cross_entropy`, `ratio`, `kl`, `tokens`, `kept`, `top1` where unmixed.

        `kept` is the share of patches that are left in the end.
        """
        config = self.config
        images, targets = self.labels.mix(batch)
        seen = mask(self.backbone, self.score_predictor, images, self.blocks)
        logits = self.head(seen.cls)
        entropy = self.labels.loss(logits, targets)
        ratio = ratio_loss(seen.decisions, config.keep)
        parts = {"cross_entropy": entropy.detach(), "ratio": ratio.detach(), "kept": seen.decisions[-1].detach().mean()}
        total = entropy + config.ratio_weight * ratio
        if self.teacher is not None:
            kl, tokens = self._taught(images, seen, logits)
            total = total + config.kl_weight * kl + config.token_weight * tokens
            parts |= {"kl": kl.detach(), "tokens": tokens.detach()}
        return Losses(total, parts | self.labels.top1(logits, targets))

    def forward(self, images: Tensor) -> Tensor:
        """Logits `[B, classes]` of normalized images `[B, 3, H, W]`, with patches dropped as after training."""
        return self.answer(images).logits

    def answer(self, images: Tensor) -> Answer:
        """Logits, and the share of patches (`tokens`) that blocks worked on."""
        sparse = drop(self.backbone, self.score_predictor, images, self.config.keep, self.blocks)
        logits = self.head(sparse.cls)
        return Answer(logits, {"tokens": logits.new_full((len(logits),), sparse.used)})

    def parts(self) -> dict[str, nn.Module]:
        """The predictors, which stand beside backbone and head in the exported file."""
        return {PART: self.score_predictor}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Predictors at the full rate; backbone and head at their share of it, and later."""
        config, groups = self.config, []
        for module in (self.backbone, self.head):
            for group in parameter_groups(module, weight_decay=config.weight_decay):
                later = min(config.frozen_epochs / config.epochs, 1.0) if config.epochs else 0.0
                groups.append(group | {"lr_scale": config.backbone_rate} | ({"frozen_until": later} if later else {}))
        return groups + parameter_groups(self.score_predictor, weight_decay=config.weight_decay)

    def after_step(self, step: Step) -> None:
        """Nothing moves between steps."""

    def export(self) -> Exported:
        """Backbone and classifier under timm's names, the predictors under `score_predictor.`."""
        exported = with_classifier(self.backbone.export(), self.head, self.classes)
        about = {"blocks": list(self.blocks), "keep": self.config.keep}
        return with_part(exported, PART, self.score_predictor, about)

    def _taught(self, images: Tensor, seen: Masked, logits: Tensor) -> tuple[Tensor, Tensor]:
        """KL(teacher || student), mean over images, and D."""
        assert self.teacher is not None
        assert self.teacher_head is not None
        with torch.no_grad():
            tokens = self.teacher(images)
            answers = self.teacher_head(tokens.cls).float().log_softmax(-1)
        kl = F.kl_div(logits.float().log_softmax(-1), answers, reduction="batchmean", log_target=True)
        return kl, token_loss(seen.patches, tokens.patches, seen.decisions[-1])


def ratio_loss(decisions: tuple[Tensor, ...], keep: float) -> Tensor:
    """R of decisions `[B, N]` in [0, 1], one a stage: the mean square of what misses `keep^1, keep^2, ...`."""
    misses = [(keep ** (stage + 1) - kept.mean(1)).square().mean() for stage, kept in enumerate(decisions)]
    return torch.stack(misses).mean()


def token_loss(tokens: Tensor, wanted: Tensor, kept: Tensor) -> Tensor:
    """D of tokens `[B, N, D]` and a teacher's, over those of `kept` (`[B, N]`, 0 or 1); 0 where none is."""
    kept = kept.detach()
    errors = (tokens.float() - wanted.float()).square().mean(-1)
    return (errors * kept).sum() / kept.sum().clamp(min=1)
