"""MoCo v2: a view finds the key of the other view among keys of earlier images, made by a slowly moving encoder.

    L = - log  exp(<q, k> / T) / (exp(<q, k> / T) + sum over the queue n of exp(<q, n> / T))

q = head(backbone(view 1)) and k of view 2 by the moving averages of both. After each step the averages move,
key <- m key + (1 - m) query, and the step's keys take the place of the oldest ones in the queue.

Sources: He et al., "Momentum Contrast for Unsupervised Visual Representation Learning", 2020 (arXiv 1911.05722); Chen
et al., "Improved Baselines with Momentum Contrastive Learning", 2020 (arXiv 2003.04297), for head, temperature, views.

Deviations from the paper
- Keys are not shuffled over processes: batch norm sees the views of one process, queries and their keys alike. The
  paper shuffles so that nobody can tell by a batch's statistics where a key is from.
- Norms and biases are not decayed, as everywhere in this library.
- `symmetric` lets each view be query once and key once, as later work does; the paper's is not symmetric.
- The key encoder moves after a step instead of before the next one, which is the same.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from vitrail.config import Config
from vitrail.contracts import Batch, Exported, Losses, Step
from vitrail.methods.two_views import Encoder, decayed, two_views, with_heads
from vitrail.nn.across import gathered
from vitrail.nn.projection_head import ProjectionConfig, ProjectionHead
from vitrail.nn.teacher import follow, teacher_of
from vitrail.ops.contrast import queue_contrast, spread


class MocoConfig(Config):
    """How views are contrasted with earlier ones. The defaults are MoCo v2's for ImageNet."""

    kind: Literal["moco"] = "moco"
    head: ProjectionConfig = ProjectionConfig(hidden_dim=2048, norm=False)
    temperature: float = Field(0.2, gt=0)
    """Divides the cosines."""
    queue: int = Field(65536, ge=1)
    """Keys of earlier images."""
    momentum: float = Field(0.999, ge=0, le=1)
    """Of the key encoder."""
    symmetric: bool = False
    """Each view is query once and key once; costs twice as much."""
    weight_decay: float = Field(1e-4, ge=0)
    """Of matrices and kernels."""


class Moco(nn.Module):
    """A query `backbone`, its moving average and the queue of keys. Fulfills `vitrail.contracts.Method`."""

    def __init__(self, config: MocoConfig, backbone: Encoder) -> None:
        super().__init__()
        self.config = config
        self.backbone = backbone
        self.head = ProjectionHead(config.head, backbone.embed_dim)
        self.key_backbone = teacher_of(backbone)
        self.key_head = teacher_of(self.head)
        # Random keys at first; the newest stand last.
        self.register_buffer("queue", functional.normalize(torch.randn(config.queue, config.head.out_dim), dim=1))
        self.queue: Tensor
        self._noted: list[Tensor] = []  # keys of this step; no loss reads them, so they are in no checkpoint

    def training_step(self, batch: Batch, step: Step) -> Losses:
        """InfoNCE with the queue; part: the `spread` of queries, 0 where they collapse."""
        one, two = two_views(batch)
        query = self._query(one)
        loss = queue_contrast(query, self._key(two), self.queue, self.config.temperature)
        if self.config.symmetric:
            other = queue_contrast(self._query(two), self._key(one), self.queue, self.config.temperature)
            loss = (loss + other) / 2
        return Losses(loss, {"spread": spread(query)})

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The query encoder's."""
        return decayed(self.backbone, self.head, weight_decay=self.config.weight_decay)

    @torch.no_grad()
    def after_step(self, step: Step) -> None:
        """The key encoder follows, and the keys of all processes go into the queue."""
        follow(self.key_backbone, self.backbone, self.config.momentum)
        follow(self.key_head, self.head, self.config.momentum)
        keys = gathered(torch.cat(self._noted))
        self._noted.clear()
        self.queue.copy_(torch.cat((self.queue, keys))[-len(self.queue) :])

    def export(self) -> Exported:
        """The query backbone under timm's names, its head under `projector.`."""
        return with_heads(self.backbone, projector=self.head)

    def _query(self, images: Tensor) -> Tensor:
        return self.head(self.backbone(images).cls)

    @torch.no_grad()
    def _key(self, images: Tensor) -> Tensor:
        key = functional.normalize(self.key_head(self.key_backbone(images).cls).float(), dim=1)
        self._noted.append(key)
        return key
