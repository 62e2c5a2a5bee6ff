"""What the methods on two views of an image share: the views of a batch, and what such a method leaves behind."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from vitrail.backbones import AnyBackbone, TimmConvNet
from vitrail.backbones.parts import with_part
from vitrail.contracts import Batch, Exported
from vitrail.nn.groups import parameter_groups
from vitrail.nn.projection_head import ProjectionHead

Encoder = AnyBackbone | TimmConvNet
"""What such a method trains: its pooled vector or class token, `[B, embed_dim]`."""


def two_views(batch: Batch) -> tuple[Tensor, Tensor]:
    """Two views `[B, 3, H, W]` of the same images; `ValueError` where the batch holds another number of them."""
    views = (batch.images, *batch.views)
    if len(views) != 2:
        raise ValueError(
            f"the batch holds {len(views)} view{'s' * (len(views) != 1)} of each image, and two are compared; give the "
            "loader vitrail.data.TwoViews"
        )
    return views[0], views[1]


def decayed(*modules: Any, weight_decay: float) -> list[dict[str, Any]]:
    """Optimizer groups of modules, one after the other."""
    return [group for module in modules for group in parameter_groups(module, weight_decay=weight_decay)]


def with_heads(backbone: Encoder, **heads: ProjectionHead) -> Exported:
    """The backbone under timm's names, heads beside it under their own."""
    exported = backbone.export()
    for name, head in heads.items():
        exported = with_part(exported, name, head, head.config)
    return exported
