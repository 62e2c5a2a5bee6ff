"""DINO: a student learns from its own moving average what different crops of an image have in common.

    L = - mean over pairs of different views of <softmax((t - center) / T_t), log softmax(s / T_s)>

The teacher sees the global crops, the student all of them. Spatial entropy or other regularizers can be added on the
student's tokens.

Source: Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", 2021 (arXiv 2104.14294).

Deviations from the paper
- Tokens and positions are not decayed, as everywhere in this library; the released code decays them.
- The learned lengths of prototypes are not decayed.
- Recipes clip the gradient of all weights together; the released code clips each tensor for itself.
- The center moves once an optimizer step, by the mean over micro-batches and ranks.
- Sinkhorn-Knopp in place of the center, which the paper tries and DINOv2 adopts, is an option; it balances what one
  forward pass sees on all processes, so that accumulation changes it.
"""

from __future__ import annotations

import logging
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from vitrail.backbones import AnyBackbone
from vitrail.backbones.parts import with_part
from vitrail.config import Config, ConfigError
from vitrail.contracts import Batch, Exported, Losses, Step, Tokens
from vitrail.nn.groups import parameter_groups
from vitrail.nn.prototype_head import HeadConfig, PrototypeHead
from vitrail.nn.soft_targets import SoftTargets, TargetConfig
from vitrail.nn.teacher import follow, momentum_at, teacher_of
from vitrail.ops.distillation import view_distillation
from vitrail.regularizers import RegularizerConfig, Regularizers

log = logging.getLogger("vitrail")


class DinoConfig(Config):
    """How views are compared."""

    head: HeadConfig = HeadConfig()
    targets: TargetConfig = TargetConfig()
    student_temperature: float = Field(0.1, gt=0)
    """Divides the student's logits."""
    momentum: float = Field(0.996, ge=0, le=1)
    """Of the teacher at the start; it goes to 1 along half a cosine."""
    frozen_epochs: int = Field(1, ge=0)
    """Epochs at the start in which the prototypes do not learn."""
    epochs: int | None = Field(None, ge=1)
    """Of the whole training, to which the epochs above refer; a recipe fills it in."""
    global_views: int = Field(2, ge=1)
    """How many of a batch's views, the first ones, the teacher sees."""
    weight_decay: float = Field(0.04, ge=0)
    """AdamW's decay at the start, on matrices only."""
    weight_decay_end: float = Field(0.4, ge=0)
    """AdamW's decay at the end."""
    regularizers: tuple[RegularizerConfig, ...] = ()
    """Losses on the student's tokens, added with their own weights."""
    regularize: Literal["global", "all"] = "global"
    """Which crops the regularizers see."""


class Dino(nn.Module):
    """A student `backbone` and its teacher. Fulfills `vitrail.contracts.Method`."""

    def __init__(self, config: DinoConfig, backbone: AnyBackbone) -> None:
        """Raises `ConfigError` where epochs are spoken of and nobody says how many there are."""
        super().__init__()
        check_epochs(config.epochs, config.targets.warmup_epochs, config.frozen_epochs)
        warn_of_short(config.epochs, config.frozen_epochs, targets=config.targets)
        self.config = config
        self.backbone = backbone
        self.head = PrototypeHead(config.head, backbone.embed_dim)
        self.teacher = teacher_of(backbone)
        self.teacher_head = teacher_of(self.head)
        self.targets = SoftTargets(config.targets, config.head.outputs)
        self.regularizers = Regularizers(config.regularizers, backbone)

    def training_step(self, batch: Batch, step: Step) -> Losses:
        """The cross entropy between views, and the regularizers; parts: these, and the teacher's entropy."""
        views = views_of(batch, self.config.global_views)
        epoch = epoch_of(step, self.config.epochs)
        target = self._target(torch.cat(views[: self.config.global_views]), epoch)
        logits, penalty, parts = self._student(views, step)
        shape = (self.config.global_views, len(batch.images), -1)
        loss = view_distillation(logits, target.view(shape), self.config.student_temperature)
        entropy = -(target * target.clamp(min=1e-12).log()).sum(-1).mean()
        return Losses(loss + penalty, {"views": loss.detach(), "teacher_entropy": entropy, **parts})

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Student, head and regularizers; the decay of matrices rises, and prototypes rest at first."""
        decay = {"weight_decay": self.config.weight_decay, "weight_decay_end": self.config.weight_decay_end}
        groups = self.head.groups(frozen_until=frozen_until(self.config), **decay)
        for module in (self.backbone, self.regularizers):
            groups += parameter_groups(module, **decay)
        return groups

    def after_step(self, step: Step) -> None:
        """The teacher follows, the center moves."""
        momentum = momentum_at(step.progress, self.config.momentum)
        follow(self.teacher, self.backbone, momentum)
        follow(self.teacher_head, self.head, momentum)
        self.targets.move()

    def export(self) -> Exported:
        """The teacher's backbone under timm's names, its head under `projector.`, the center under `centers.`."""
        return export_teacher(self.teacher, {"projector": self.teacher_head}, {"center": self.targets})

    @torch.no_grad()
    def _target(self, images: Tensor, epoch: int) -> Tensor:
        logits = self.teacher_head(self.teacher(images).cls)
        self.targets.note(logits.mean(0), len(logits))
        return self.targets(logits, epoch)

    def _student(self, views: tuple[Tensor, ...], step: Step) -> tuple[tuple[Tensor, ...], Tensor, dict[str, Tensor]]:
        """Logits `[V, B, K]` of each group of views of one size, and what the regularizers say."""
        logits: list[Tensor] = []
        parts: dict[str, Tensor] = {}
        penalty = views[0].new_zeros(())
        for number, group in enumerate(by_size(views, self.config.global_views)):
            tokens = self._tokens(group, number)
            if number == 0 or self.config.regularize == "all":
                loss, named = self.regularizers(tokens, step)
                share = share_of(group, views, self.config.regularize)
                penalty = penalty + loss * share
                parts = added(parts, named, share)
            logits.append(self.head(tokens.cls).unflatten(0, (len(group), -1)))
        return tuple(logits), penalty, parts

    def _tokens(self, group: tuple[Tensor, ...], number: int) -> Tokens:
        seen = self.regularizers if number == 0 or self.config.regularize == "all" else None
        asked = {} if seen is None else {"layers": seen.layers, "scores": seen.scores}
        return self.backbone(torch.cat(group), **asked)


def views_of(batch: Batch, global_views: int) -> tuple[Tensor, ...]:
    """All views of a batch, the global ones first; `ValueError` where there are too few, or the global ones differ."""
    views = (batch.images, *batch.views)
    if len(views) < max(global_views, 2):
        raise ValueError(
            f"the batch holds {len(views)} view{'s' * (len(views) > 1)} of each image and {global_views} global ones "
            "are compared with others; give the loader a MultiCrop transform"
        )
    shapes = {tuple(view.shape[-2:]) for view in views[:global_views]}
    if len(shapes) > 1:
        raise ValueError(f"global views differ in size: {sorted(shapes)}; crop them to one size")
    return views


def by_size(views: tuple[Tensor, ...], global_views: int) -> list[tuple[Tensor, ...]]:
    """The global views, then neighbors of one size together: each group is one pass through the network."""
    groups = [views[:global_views]]
    for view in views[global_views:]:
        if len(groups) > 1 and groups[-1][0].shape == view.shape:
            groups[-1] = (*groups[-1], view)
        else:
            groups.append((view,))
    return groups


def share_of(group: tuple[Tensor, ...], views: tuple[Tensor, ...], which: str) -> float:
    """The weight of a group's mean in the mean over the views that are regularized."""
    return 1.0 if which == "global" else len(group) / len(views)


def added(parts: dict[str, Tensor], named: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """Numbers to log of one more group, by its share of the views."""
    return parts | {name: parts.get(name, 0) + share * value for name, value in named.items()}


def epoch_of(step: Step, epochs: int | None) -> int:
    """Number of the epoch that a step is in, 0 for all where nobody counts."""
    return 0 if epochs is None else int(step.progress * epochs + 1e-9)


def frozen_until(config: DinoConfig) -> float:
    """The share of training in which prototypes do not learn."""
    return min(config.frozen_epochs / config.epochs, 1.0) if config.epochs else 0.0


def check_epochs(epochs: int | None, *spoken_of: int) -> None:
    """Raise `ConfigError` where something lasts for epochs and their number is not known."""
    if epochs is None and any(spoken_of):
        raise ConfigError(
            f"method.epochs is null and {' and '.join(map(str, spoken_of))} epochs of it are spoken of "
            "(targets.warmup_epochs, frozen_epochs); set method.epochs, or these to 0"
        )


def warn_of_short(epochs: int | None, frozen_epochs: int, **targets: TargetConfig) -> None:
    """Log what a training of `epochs` is too short for."""
    if epochs is None:
        return
    if frozen_epochs >= epochs:
        log.warning(
            "prototypes never learn: they rest for %d epochs of %d; set method.frozen_epochs to 0",
            frozen_epochs,
            epochs,
        )
    for name, each in targets.items():
        last = each.temperature_at(epochs - 1)
        if abs(last - each.temperature) > 1e-9:
            log.warning(
                "the teacher's temperature ends at %.3g, not at %.3g: it rises for %d epochs, and there are %d; set "
                "method.%s.warmup_epochs",
                *(last, each.temperature, each.warmup_epochs, epochs, name),
            )


def export_teacher(teacher: Any, heads: dict[str, Any], targets: dict[str, SoftTargets]) -> Exported:
    """A teacher's backbone under timm's names, heads under their own with their configuration, and the centers."""
    exported = teacher.export()
    for part, head in heads.items():
        exported = with_part(exported, part, head, head.config)
    centers = nn.ParameterDict({name: each.center for name, each in targets.items()})
    exported = with_part(exported, "centers", centers, {})
    return Exported(exported.state, exported.metadata | {"network": "teacher"})
