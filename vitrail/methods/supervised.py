"""Supervised training with DeiT's recipe, and with any regularizer added.

    L = cross entropy(mixed and smoothed labels) + sum_i weight_i(t) * regularizer_i(tokens)

Source: Touvron et al., "Training data-efficient image transformers", 2021 (mixup, cutmix, label smoothing, weight
decay); Peruzzo et al., "Spatial Entropy as an Inductive Bias for Vision Transformers", Eq. 9 (the sum).
Mixup and cutmix are timm's. RandAugment and random erasing belong to the data's transform, drop path to the
backbone.

Deviations from the paper
- The regularizer reads the tokens of the mixed images, as the authors' code does; the text does not say.
- Weights follow the schedule per step; the value holds through an epoch (`WeightConfig`).
- No repeated augmentation: the README of the authors' code switches it off.
- The cosine of the learning rate begins where the warm-up ends; timm's, in the authors' code, is measured from epoch 0,
  which differs by at most 1.6 % of the peak with 5 of 300 epochs.
- MAE's fine-tuning (`pool="mean"`) averages the patches and then normalizes, by a fresh norm that learns at the full
  rate. Here the backbone's own final norm comes first, then the mean, and with layer decay that norm learns with the
  last block; so the exported file stays a plain ViT. MAE starts the classifier at std 2e-5, here it is 0.02.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from vitrail.backbones import AnyBackbone
from vitrail.config import Config
from vitrail.contracts import Batch, Exported, Losses, Step, Tokens
from vitrail.methods.labels import check_single, mixing, with_classifier
from vitrail.nn.groups import parameter_groups
from vitrail.regularizers import RegularizerConfig, Regularizers


class SupervisedConfig(Config):
    """How labels become a loss."""

    pool: Literal["cls", "mean"] = "cls"
    """What is classified: the class token, or the mean of the patches; either after the final norm."""
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    """Share of the label's mass that is spread over all classes."""
    mixup: float = Field(0.8, ge=0)
    """Alpha of the Beta distribution that mixes two images; 0 switches mixup off."""
    cutmix: float = Field(1.0, ge=0)
    """Alpha of the Beta distribution of the pasted area; 0 switches cutmix off."""
    weight_decay: float = Field(0.05, ge=0)
    """AdamW's decay, on matrices only."""
    layer_decay: float | None = Field(None, gt=0, le=1)
    """Factor on the learning rate per block from the top down (fine-tuning); null for one rate."""
    regularizers: tuple[RegularizerConfig, ...] = ()
    """Losses on tokens, added with their own weights; a kind may stand on several blocks."""


class Supervised(nn.Module):
    """A backbone with a linear classifier on CLS token or mean patch. Fulfills `vitrail.contracts.Method`."""

    def __init__(self, config: SupervisedConfig, backbone: AnyBackbone, classes: tuple[str, ...]) -> None:
        """`classes` are the names of the labels 0, 1, ...; at least two."""
        super().__init__()
        if len(classes) < 2:
            raise ValueError(f"a classifier needs at least 2 classes, the data has {len(classes)}: {list(classes)}")
        self.config = config
        self.backbone = backbone
        self.classes = classes
        self.head = nn.Linear(backbone.embed_dim, len(classes))
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)
        self.regularizers = Regularizers(config.regularizers, backbone)
        self.mixing = mixing(config.mixup, config.cutmix, config.label_smoothing, len(classes))

    def training_step(self, batch: Batch, step: Step) -> Losses:
        """Cross entropy plus weighted regularizers; parts: `cross_entropy`, each regularizer, `top1` where unmixed."""
        if batch.labels is None:
            raise ValueError("supervised training needs labels; put the images into one folder per class")
        check_single(batch.labels)
        images, targets = self._mix(batch.images, batch.labels)
        tokens = self.backbone(images, layers=self.regularizers.layers, scores=self.regularizers.scores)
        logits = self.classify(tokens).float()
        smoothing = self.config.label_smoothing if self.mixing is None else 0.0  # timm's mixing has smoothed already
        total = F.cross_entropy(logits, targets, label_smoothing=smoothing)
        parts = {"cross_entropy": total.detach()}
        if self.mixing is None:
            parts["top1"] = (logits.argmax(1) == batch.labels).float().mean() * 100
        penalty, named = self.regularizers(tokens, step)
        return Losses(total + penalty, parts | named)

    def forward(self, images: Tensor) -> Tensor:
        """Logits `[B, classes]` of normalized images `[B, 3, H, W]`."""
        return self.classify(self.backbone(images))

    def classify(self, tokens: Tokens) -> Tensor:
        """Logits `[B, classes]` of what the backbone says."""
        return self.head(tokens.patches.mean(1) if self.config.pool == "mean" else tokens.cls)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Backbone groups by layer, head and regularizers at the full rate; biases and norms undecayed."""
        config = self.config
        groups = parameter_groups(self.backbone, weight_decay=config.weight_decay, layer_decay=config.layer_decay)
        for module in (self.head, self.regularizers):
            groups += parameter_groups(module, weight_decay=config.weight_decay)
        return [group for group in groups if group["params"]]

    def after_step(self, step: Step) -> None:
        """Nothing moves between steps."""

    def export(self) -> Exported:
        """Backbone and classifier under timm's names, with what is needed to rebuild them."""
        return with_classifier(self.backbone.export(), self.head, self.classes, self.config.pool)

    def check_batch(self, size: int) -> None:
        """Raise `ValueError` where images cannot be trained on in batches (of one process at a time) of this size."""
        if self.mixing is not None and size % 2:
            raise ValueError(
                f"mixup pairs images, and a batch of {size} is odd; choose an even batch per device "
                "(train.global_batch_size / devices / train.accumulate), or set method.mixup=0 method.cutmix=0"
            )

    # timm draws Python numbers for every batch, which would be compiled in as constants, a new graph for each.
    @torch.compiler.disable
    def _mix(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if self.mixing is None:
            return images, labels
        self.check_batch(len(images))
        return self.mixing(images.clone(), labels)  # timm mixes in place
