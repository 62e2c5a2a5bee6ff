"""From labels to a loss: mixup, cutmix and label smoothing, for the methods that classify. Mixing is timm's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from vitrail.config import Config
from vitrail.contracts import Batch, Exported


class LabelConfig(Config):
    """DeiT's values by default."""

    smoothing: float = Field(0.1, ge=0, lt=1)
    """Share of the label's mass that is spread over all classes."""
    mixup: float = Field(0.8, ge=0)
    """Alpha of the Beta distribution that mixes two images; 0 switches mixup off."""
    cutmix: float = Field(1.0, ge=0)
    """Alpha of the Beta distribution of the pasted area; 0 switches cutmix off."""


class Labels:
    """Mixes a batch as configured, and says the cross entropy of what was made of its labels."""

    def __init__(self, config: LabelConfig, classes: int) -> None:
        """Args: classes: how many there are, at least two."""
        if classes < 2:
            raise ValueError(f"a classifier needs at least 2 classes, the data has {classes}")
        self.smoothing = config.smoothing
        self.mixing = mixing(config.mixup, config.cutmix, config.smoothing, classes)

    # timm draws Python numbers for every batch, which would be compiled in as constants, a new graph for each.
    @torch.compiler.disable
    def mix(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Images, and targets: `[B]` int64, or `[B, classes]` where images were mixed."""
        if batch.labels is None:
            raise ValueError("a classifier needs labels; put the images into one folder per class")
        check_single(batch.labels)
        if self.mixing is None:
            return batch.images, batch.labels
        self.check_batch(len(batch.images))
        return self.mixing(batch.images.clone(), batch.labels)  # timm mixes in place

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Cross entropy of logits `[B, classes]` and what `mix` made; mixed targets are smoothed already."""
        return F.cross_entropy(logits.float(), targets, label_smoothing=0.0 if self.mixing else self.smoothing)

    def top1(self, logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """The share of right answers in percent, as `top1`; nothing where images were mixed."""
        return {} if self.mixing else {"top1": (logits.argmax(1) == targets).float().mean() * 100}

    def check_batch(self, size: int) -> None:
        """Raise `ValueError` where images cannot be mixed in batches (of one process at a time) of this size."""
        if self.mixing is not None and size % 2:
            raise ValueError(
                f"mixup pairs images, and a batch of {size} is odd; choose an even batch per device "
                "(train.global_batch_size / devices / train.accumulate), or set method.labels.mixup=0 "
                "method.labels.cutmix=0"
            )


def check_single(labels: Tensor) -> None:
    """Raise `ValueError` for labels `[B, C]`, of images with any number of them, where one each is wanted."""
    if labels.ndim != 1:
        raise ValueError(
            f"images have any number of labels each, of {labels.shape[1]} classes, and cross entropy wants one; "
            "finetune_kept_multi_label learns from several, with method.keep=1 from whole images"
        )


def mixing(mixup: float, cutmix: float, smoothing: float, classes: int) -> Any:
    """timm's Mixup, which changes images in place; None where both alphas are 0."""
    if not mixup and not cutmix:
        return None
    from timm.data import Mixup

    return Mixup(mixup_alpha=mixup, cutmix_alpha=cutmix, label_smoothing=smoothing, num_classes=classes)


def fresh_head(width: int, classes: int) -> nn.Linear:
    """A linear classifier that starts as timm's: weights of std 0.02, no bias."""
    head = nn.Linear(width, classes)
    nn.init.trunc_normal_(head.weight, std=0.02)
    nn.init.zeros_(head.bias)
    return head


def with_classifier(exported: Exported, head: nn.Linear, classes: Sequence[str], pool: str = "cls") -> Exported:
    """What a backbone exports, with a linear classifier of it under timm's names; `pool` says what the head reads."""
    state = exported.state | {f"head.{key}": value for key, value in head.state_dict().items()}
    return Exported(state, exported.metadata | {"classes": list(classes), "pool": pool})
