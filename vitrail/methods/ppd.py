"""PPD: a generator learns the attention of a frozen ViT as a mask, a linear layer its classes. LocLoc's baseline.

    L_seg = 1/2 mean (generator(F) - M)^2        F: patches of a frozen ViT;  M: its attention over a threshold
    L_cls = CE(linear(class tokens of the last four blocks), y)

`vitrail.localizers.ppd` is what is exported, and says how an image is looked at.

Source: Xu et al., "Proxy Probing Decoder for Weakly Supervised Object Localization: A Baseline Investigation", 2022, as
LocLoc's supplement describes it.

Deviations from the paper
- Features are computed as training goes, of views that may be cropped and flipped; the released code computes them
  before, of whole images.
- Trained together, both parts follow one schedule and one optimizer, see `vitrail.methods.locloc`.
"""

from __future__ import annotations

from typing import Any, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from vitrail.backbones import TimmViT
from vitrail.contracts import Batch, Exported, Losses, Step
from vitrail.localizers.ppd import CROP, Ppd
from vitrail.methods.locloc import (
    PartsConfig,
    check_classes,
    check_pairs,
    class_loss,
    needed,
    part_groups,
    rest,
    summed,
    views_of,
)
from vitrail.nn.deconvolution import PpdGenerator, PpdGeneratorConfig
from vitrail.nn.token_classifier import ClassTokenProbe
from vitrail.ops.mask_regression import mask_regression


class PpdConfig(PartsConfig):
    """PPD's two parts."""

    generator: PpdGeneratorConfig = PpdGeneratorConfig()
    blocks: int = Field(4, ge=1)
    """How many of the last blocks' class tokens the classifier reads; at most as many as there are."""
    crop: float = Field(CROP, gt=0, le=1)
    """Share of an image's sides that the exported classifier looks at."""
    weight_decay: float = Field(0.0, ge=0)
    """AdamW's decay, on matrices only."""


class PpdMethod(nn.Module):
    """A generator and a linear classifier on a frozen backbone. Fulfills `vitrail.contracts.Method`."""

    def __init__(
        self,
        config: PpdConfig,
        backbone: TimmViT,
        classes: tuple[str, ...] | None,
        *,
        generator: PpdGenerator | None = None,
        classifier: ClassTokenProbe | None = None,
    ) -> None:
        """Args: as those of `vitrail.methods.locloc.Locloc`, which raises the same."""
        super().__init__()
        self.config = config
        needs = needed(config.parts)
        if needs["generator"] and generator is None:
            generator = PpdGenerator(config.generator, backbone.embed_dim)
        if needs["classifier"]:
            check_classes(classes)
            blocks = min(config.blocks, backbone.depth)
            classifier = classifier or ClassTokenProbe(backbone.embed_dim, len(classes or ()), blocks)
        known = classes if classifier is not None else None
        self.localizer = Ppd(backbone, generator, classifier, known, config.crop)
        rest(self.localizer, needs)

    @property
    def backbone(self) -> TimmViT:
        """The frozen network."""
        return self.localizer.backbone

    def training_step(self, batch: Batch, step: Step) -> Losses:
        """The sum of the losses of what is trained; parts: `segmentation`, and `cross_entropy` with `top1`."""
        image, mask, view = views_of(batch, self.config.parts)
        losses: dict[str, Tensor] = {}
        if mask is not None:
            with torch.no_grad():
                features = self.localizer.patches(image)
            assert self.localizer.generator is not None  # made in the constructor
            losses["segmentation"] = mask_regression(self.localizer.generator(features), mask)
        if view is None:
            return summed(losses, {})
        with torch.no_grad():
            tokens = self.localizer.class_tokens(view)
        assert self.localizer.classifier is not None
        logits = self.localizer.classifier(tokens).float()
        losses["cross_entropy"], hits = class_loss(logits, batch.labels, self.config.label_smoothing)
        return summed(losses, hits)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What learns: the classifier at the full rate, the generator at its own; nothing of the backbone."""
        return part_groups(self.localizer, self.config)

    def after_step(self, step: Step) -> None:
        """Nothing moves between steps."""

    def check_batch(self, size: int) -> None:
        """Raise `ValueError` for batches (of one process at a time) of one image, which batch norm cannot take."""
        check_pairs(size)

    def export(self) -> Exported:
        """The frozen backbone under timm's names, generator and classifier beside it."""
        return self.localizer.export()

    def train(self, mode: bool = True) -> Self:
        """As any module; what rests stays in evaluation mode."""
        super().train(mode)
        rest(self.localizer, needed(self.config.parts))
        return self
