"""Leopart: a student learns to which prototype each place of an image belongs, whichever crop shows it.

    L = mean over the teacher's crops t and other crops v of
        mean over cells c of their overlap of - <RoI(Q_t)_c, log softmax(RoI(S_v)_c / T)>

S are likenesses of patches with prototypes, Q the teacher's after Sinkhorn-Knopp over all patches of a crop in the
batch, and a queue of earlier ones. It starts from a backbone that was trained on whole images.

Source: Ziegler and Asano, "Self-Supervised Learning of Object Parts for Semantic Segmentation", 2022 (arXiv
2204.13101).

Deviations from the paper
- Tokens and positions are not decayed, as everywhere in this library.
- The queue takes at most a quarter of its length from a micro-batch of all processes, evenly spaced patches of the
  first global crop.
- Crops are drawn as `vitrail.data.overlapping` says.
- The mask of foreground clusters that the paper tries is left out.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from vitrail.backbones import AnyBackbone
from vitrail.backbones.parts import with_part
from vitrail.config import Config
from vitrail.contracts import Batch, Exported, Losses, Step, Tokens
from vitrail.methods.dino import by_size, views_of
from vitrail.nn.across import largest, summed, world_size
from vitrail.nn.feature_queue import FeatureQueue
from vitrail.nn.groups import parameter_groups
from vitrail.nn.prototype_head import HeadConfig, PrototypeHead
from vitrail.nn.teacher import follow, momentum_at, teacher_of
from vitrail.ops.dense_alignment import dense_alignment
from vitrail.ops.sinkhorn import over_ranks, sinkhorn


class AssignmentConfig(Config):
    """How patches of two crops are compared with prototypes. The values are Leopart's."""

    student_temperature: float = Field(0.1, gt=0)
    """Divides the student's scores."""
    epsilon: float = Field(0.05, gt=0)
    """Divides the teacher's scores before Sinkhorn-Knopp; smaller is sharper."""
    sinkhorn_iterations: int = Field(3, ge=1)
    """Of scaling prototypes and patches in turn."""
    cells: int = Field(7, ge=1)
    """Of the grid, a side, that the overlap of two crops is brought to."""


class LeopartConfig(AssignmentConfig):
    """How places are compared over crops."""

    head: HeadConfig = HeadConfig(prototypes=300)
    queue: int = Field(8192, ge=0)
    """Earlier patches that are balanced together with a batch's; 0 for none."""
    momentum: float = Field(0.9995, ge=0, le=1)
    """Of the teacher at the start; it goes to 1 along half a cosine."""
    global_views: int = Field(2, ge=1)
    """How many of a batch's views, the first ones, the teacher sees."""
    backbone_rate: float = Field(0.1, gt=0)
    """The backbone's learning rate, as a share of the head's; 1e-5 and 1e-4 in the paper."""
    weight_decay: float = Field(0.04, ge=0)
    """AdamW's decay at the start, on matrices only."""
    weight_decay_end: float = Field(0.4, ge=0)
    """AdamW's decay at the end."""


class Leopart(nn.Module):
    """A student `backbone` and its teacher. Fulfills `vitrail.contracts.Method`."""

    def __init__(self, config: LeopartConfig, backbone: AnyBackbone) -> None:
        super().__init__()
        self.config = config
        self.backbone = backbone
        self.head = PrototypeHead(config.head, backbone.embed_dim)
        self.teacher = teacher_of(backbone)
        self.teacher_head = teacher_of(self.head)
        self.queue = FeatureQueue(config.queue, config.head.bottleneck_dim) if config.queue else None

    def training_step(self, batch: Batch, step: Step) -> Losses:
        """The alignment of patches over crops; parts: this, and how sure the teacher is of its assignments."""
        config = self.config
        views = views_of(batch, config.global_views)
        boxes = boxes_of(batch)
        targets = self._targets(views[: config.global_views])
        scores = [
            as_map(self.head(tokens.patches), tokens.grid)
            for group in by_size(views, config.global_views)
            for tokens in apart(self.backbone(torch.cat(group)), len(group))
        ]
        loss = dense_alignment(scores, targets, boxes, cells=config.cells, temperature=config.student_temperature)
        return Losses(loss, {"patches": loss.detach(), "confidence": targets[0].amax(1).mean()})

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The backbone at its own rate, the head at the full one; the decay of matrices rises."""
        decay = {"weight_decay": self.config.weight_decay, "weight_decay_end": self.config.weight_decay_end}
        groups = parameter_groups(self.backbone, **decay)
        for group in groups:
            group["lr_scale"] *= self.config.backbone_rate
        return groups + parameter_groups(self.head, **decay)

    def after_step(self, step: Step) -> None:
        """The teacher follows, the queue moves on."""
        momentum = momentum_at(step.progress, self.config.momentum)
        follow(self.teacher, self.backbone, momentum)
        follow(self.teacher_head, self.head, momentum)
        if self.queue is not None:
            self.queue.push()

    def export(self) -> Exported:
        """The teacher's backbone under timm's names, its head under `projector.`."""
        exported = with_part(self.teacher.export(), "projector", self.teacher_head, self.teacher_head.config)
        return Exported(exported.state, exported.metadata | {"network": "teacher"})

    @torch.no_grad()
    def _targets(self, crops: tuple[Tensor, ...]) -> list[Tensor]:
        """The teacher's assignments `[B, K, Y, X]` of each global crop."""
        queued = None if self.queue is None else self.queue.share()
        earlier = None if queued is None else self.teacher_head.compare(queued)
        targets = []
        for number, tokens in enumerate(apart(self.teacher(torch.cat(crops)), len(crops))):
            embedded = self.teacher_head.embed(tokens.patches)
            if number == 0 and self.queue is not None:
                self.queue.note(embedded.flatten(0, 1), max(self.config.queue // (4 * world_size()), 1))
            targets.append(as_map(assigned(self.teacher_head.compare(embedded), self.config, earlier), tokens.grid))
        return targets


@torch.no_grad()
def assigned(scores: Tensor, config: AssignmentConfig, earlier: Tensor | None = None) -> Tensor:
    """Scores `[..., K]` of all processes' samples, balanced over prototypes: probabilities of the same shape, float32.

    `earlier` scores `[n, K]` are balanced together with them and left out of the result.
    """
    rows = scores.flatten(0, -2).float()
    if earlier is not None:
        rows = torch.cat((rows, earlier.float()))
    found = sinkhorn(rows, config.epsilon, config.sinkhorn_iterations, combine=over_ranks(largest, summed))
    return found[: scores[..., 0].numel()].view(scores.shape)


def as_map(values: Tensor, grid: tuple[int, int]) -> Tensor:
    """`[B, N, K]` of patches in raster order as `[B, K, Y, X]`."""
    return values.transpose(1, 2).unflatten(2, grid)


def apart(tokens: Tokens, views: int) -> list[Tokens]:
    """Tokens of several views that went through the backbone together, view by view."""
    return [
        Tokens(cls, patches, tokens.grid)
        for cls, patches in zip(tokens.cls.chunk(views), tokens.patches.chunk(views), strict=True)
    ]


def boxes_of(batch: Batch) -> Tensor:
    """Where the views were cut out, `[B, V, 4]`. Raises `ValueError` where the batch does not say."""
    if batch.boxes is None:
        raise ValueError(
            "the batch does not say where its views were cut out, so patches cannot be aligned; give the loader "
            "vitrail.data.OverlappingCrops"
        )
    return batch.boxes
