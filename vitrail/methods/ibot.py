"""iBOT: DINO between crops, and the same within a crop, for the patches that the student cannot see.

    L = w_cls * DINO's loss between views
      + w_patch * - mean over crops of mean over hidden patches i of <p_i, log q_i>

The student gets a mask token in place of the hidden patches of its global crops; the teacher sees all of them.
Which patches are hidden is a `Mask`: block-wise as published, uniform or by a determinantal point process as in
DPPMask, or guided by the teacher's attention.

Sources: Zhou et al., "iBOT: Image BERT Pre-Training with Online Tokenizer", 2022 (arXiv 2111.07832); the supplement
of DPPMask, Table 8.

Deviations from the paper
- All of DINO's (`vitrail.methods.dino`).
- The mean over the crops counts those without hidden patches, as the released code does.
- The teacher's prototypes are compared with hidden patches alone. The center of all patches is the same as published:
  the comparison is linear, so the mean of logits is the logits of a mean.
- A head for patches has an MLP of its own, too; in the released code only the prototypes are.
- Regularizers read the student, so crops with hidden patches.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from vitrail.backbones import TimmViT
from vitrail.contracts import Batch, Exported, Losses, Step, Tokens
from vitrail.masks import MaskConfig, RatioConfig, build, draw_numbers
from vitrail.methods.dino import (
    DinoConfig,
    added,
    by_size,
    check_epochs,
    epoch_of,
    export_teacher,
    frozen_until,
    share_of,
    views_of,
    warn_of_short,
)
from vitrail.nn.cls_attention import attention_of
from vitrail.nn.groups import parameter_groups
from vitrail.nn.prototype_head import HeadConfig, PrototypeHead
from vitrail.nn.soft_targets import SoftTargets, TargetConfig
from vitrail.nn.teacher import follow, momentum_at, teacher_of
from vitrail.ops.distillation import patch_distillation, view_distillation
from vitrail.regularizers import Regularizers


class IbotConfig(DinoConfig):
    """DINO's settings, and how patches are hidden and compared."""

    mask: MaskConfig = MaskConfig(kind="block")
    """Which patches are hidden."""
    ratio: RatioConfig = RatioConfig(mean=0.3, spread=0.2)
    """How many: by default 30 +- 20 % of them in every other crop, as released for blocks."""
    patch_targets: TargetConfig = TargetConfig()
    """From the teacher's logits of patches to probabilities."""
    patch_head: HeadConfig | None = None
    """A head of its own for patches; null shares that of the class token."""
    cls_weight: float = Field(1.0, ge=0)
    """Weight of the loss between views."""
    patch_weight: float = Field(1.0, ge=0)
    """Weight of the loss on hidden patches."""


class Ibot(nn.Module):
    """A student `backbone` that misses patches, and its teacher. Fulfills `vitrail.contracts.Method`."""

    def __init__(self, config: IbotConfig, backbone: TimmViT) -> None:
        """Raises `ConfigError` where epochs are spoken of and nobody says how many there are."""
        super().__init__()
        check_epochs(
            config.epochs, config.targets.warmup_epochs, config.patch_targets.warmup_epochs, config.frozen_epochs
        )
        targets = {"targets": config.targets, "patch_targets": config.patch_targets}
        warn_of_short(config.epochs, config.frozen_epochs, **targets)
        self.config = config
        self.mask = build(config.mask)
        self.backbone = backbone
        self.mask_token = nn.Parameter(torch.zeros(backbone.embed_dim))
        self.head = PrototypeHead(config.head, backbone.embed_dim)
        own = config.patch_head
        self.patch_head = None if own is None else PrototypeHead(own, backbone.embed_dim)
        self.teacher = teacher_of(backbone)
        self.teacher_head = teacher_of(self.head)
        self.teacher_patch_head = None if self.patch_head is None else teacher_of(self.patch_head)
        self.targets = SoftTargets(config.targets, config.head.outputs)
        self.patch_targets = SoftTargets(config.patch_targets, (own or config.head).outputs)
        self.regularizers = Regularizers(config.regularizers, backbone)

    def training_step(self, batch: Batch, step: Step) -> Losses:
        """Both losses and the regularizers; parts: these, the share of hidden patches, what the mask has to tell."""
        config = self.config
        views = views_of(batch, config.global_views)
        epoch = epoch_of(step, config.epochs)
        crops = torch.cat(views[: config.global_views])
        tokens = self._look(crops)
        hidden = self.hide(crops, tokens)
        target, patch_target = self._targets(tokens, hidden, epoch)
        logits, patch_logits, penalty, parts = self._student(views, hidden, step)
        shape = (config.global_views, len(batch.images), -1)
        of_views = view_distillation(logits, target.view(shape), config.student_temperature)
        of_patches = patch_distillation(patch_logits, patch_target, hidden, config.student_temperature)
        total = config.cls_weight * of_views + config.patch_weight * of_patches + penalty
        parts |= {"views": of_views.detach(), "patches": of_patches.detach(), "hidden": hidden.float().mean()}
        return Losses(total, parts | (self.mask.logged() if hasattr(self.mask, "logged") else {}))

    def hide(self, crops: Tensor, tokens: Tokens, generator: torch.Generator | None = None) -> Tensor:
        """Bool `[B, N]`, True is hidden, for crops that the teacher has seen as `tokens`.

        Raises `ValueError` where a crop has too few patches to ever hide one.
        """
        rows, columns = tokens.grid
        most = self.config.ratio.mean + self.config.ratio.spread
        if int(most * rows * columns) < 1:
            raise ValueError(
                f"a crop has {rows * columns} patches, and at most {most:g} of them are hidden, which is none; raise "
                "method.ratio.mean, or take larger crops or smaller patches"
            )
        numbers = draw_numbers(self.config.ratio, len(crops), rows * columns, generator=generator)
        attention = attention_of(tokens.scores[-1]) if self.mask.needs_attention else None
        return self.mask(crops, tokens.grid, numbers, attention=attention, generator=generator)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Student, mask token, heads and regularizers; the decay of matrices rises, prototypes rest."""
        groups: list[dict[str, Any]] = [{"params": [self.mask_token], "weight_decay": 0.0}]
        decay = {"weight_decay": self.config.weight_decay, "weight_decay_end": self.config.weight_decay_end}
        for head in (self.head, self.patch_head):
            if head is not None:
                groups += head.groups(frozen_until=frozen_until(self.config), **decay)
        for module in (self.backbone, self.regularizers):
            groups += parameter_groups(module, **decay)
        return groups

    def after_step(self, step: Step) -> None:
        """The teacher follows, the centers move."""
        momentum = momentum_at(step.progress, self.config.momentum)
        follow(self.teacher, self.backbone, momentum)
        follow(self.teacher_head, self.head, momentum)
        if self.teacher_patch_head is not None and self.patch_head is not None:
            follow(self.teacher_patch_head, self.patch_head, momentum)
        self.targets.move()
        self.patch_targets.move()

    def export(self) -> Exported:
        """The teacher's backbone under timm's names; `projector.`, `patch_projector.` and `centers.` beside it."""
        heads = {"projector": self.teacher_head}
        if self.teacher_patch_head is not None:
            heads["patch_projector"] = self.teacher_patch_head
        return export_teacher(self.teacher, heads, {"center": self.targets, "center2": self.patch_targets})

    @torch.no_grad()
    def _look(self, crops: Tensor) -> Tokens:
        return self.teacher(crops, scores=(-1,) if self.mask.needs_attention else ())

    @torch.no_grad()
    def _targets(self, tokens: Tokens, hidden: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        """The teacher's probabilities for the class tokens `[T * B, K]` and for the hidden patches `[M, K]`."""
        logits = self.teacher_head(tokens.cls)
        self.targets.note(logits.mean(0), len(logits))
        head: PrototypeHead = self.teacher_patch_head or self.teacher_head
        embedded = head.embed(tokens.patches)
        self.patch_targets.note(head.compare(embedded.mean((0, 1))), len(embedded))
        return self.targets(logits, epoch), self.patch_targets(head.compare(embedded[hidden]), epoch)

    def _student(
        self, views: tuple[Tensor, ...], hidden: Tensor, step: Step
    ) -> tuple[tuple[Tensor, ...], Tensor, Tensor, dict[str, Tensor]]:
        """Logits of class tokens `[V, B, K]` of each group of views, of hidden patches `[M, K]`; regularizers."""
        config = self.config
        logits: list[Tensor] = []
        parts: dict[str, Tensor] = {}
        penalty = views[0].new_zeros(())
        patch_logits = hidden.new_zeros((), dtype=torch.float32)
        for number, group in enumerate(by_size(views, config.global_views)):
            seen = self.regularizers if number == 0 or config.regularize == "all" else None
            asked: dict[str, Any] = {} if seen is None else {"layers": seen.layers, "scores": seen.scores}
            if number == 0:
                asked |= {"hidden": hidden, "mask_token": self.mask_token}
            tokens = self.backbone(torch.cat(group), **asked)
            if number == 0:
                patch_logits = (self.patch_head or self.head)(tokens.patches[hidden])
            if seen is not None:
                loss, named = seen(tokens, step)
                share = share_of(group, views, config.regularize)
                penalty = penalty + loss * share
                parts = added(parts, named, share)
            logits.append(self.head(tokens.cls).unflatten(0, (len(group), -1)))
        return tuple(logits), patch_logits, penalty, parts
