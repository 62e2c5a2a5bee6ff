"""MoCo-v3: what is predicted from one view finds the key of the other view among the keys of the batch.

    L = 2 T (ctr(q_1, k_2) + ctr(q_2, k_1)),   ctr(q, k) = - mean over i of log (softmax over j of <q_i, k_j> / T) at i

q = predictor(projector(base encoder(view))), k = projector(encoder(view)) by the moving averages of both, all brought
to length 1. After each step the averages move, key <- m key + (1 - m) base, m from 0.99 to 1 along half a cosine. The
embedding of patches keeps the weights that it was drawn with: training of ViTs was unstable where it learned.

Spatial entropy or other regularizers can be added on the base encoder's tokens of both views, as SAR does in its
supplement, C.2; that text does not say which branch or views carry them. The moving averages have no gradient to give.

Sources: Chen, Xie and He, "An Empirical Study of Training Self-Supervised Vision Transformers", 2021 (arXiv
2104.02057); Peruzzo et al., SAR (arXiv 2206.04636), for the regularizer.

Deviations from the paper
- Norms, biases and tokens are not decayed, as everywhere in this library; the released code decays all that learns.
- The moving averages move after a step of the optimizer, by the momentum of that step; in the released code before the
  next one, by the momentum of that. Their batch norms take over running statistics, which nobody reads.
- With accumulation, the batch that keys are looked for in, and that batch norm sees, is a micro-batch of all processes.
- Fixed positions have the column first, as MAE's; the released code has the row first.
- The released ViT-S has 12 attention heads, the ViT-S/16 of SAR's supplement 6; here it is the backbone's setting.
- Backbones other than ViTs start from their own weights, and want `freeze_patch_embed` false, `positions` "learned".
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from vitrail.config import Config, ConfigError
from vitrail.contracts import Batch, Exported, Losses, Step
from vitrail.methods.mae import draw_weights as draw_as_mae
from vitrail.methods.two_views import Encoder, decayed, two_views, with_heads
from vitrail.nn.across import joined
from vitrail.nn.projection_head import ProjectionConfig, ProjectionHead
from vitrail.nn.teacher import follow, momentum_at, teacher_of
from vitrail.ops.contrast import batch_contrast, spread
from vitrail.regularizers import RegularizerConfig, Regularizers


class MocoV3Config(Config):
    """How views are compared. The defaults are MoCo-v3's for ViTs on ImageNet."""

    head: ProjectionConfig = ProjectionConfig(layers=3, hidden_dim=4096, out_dim=256, last_norm=True, whole_batch=True)
    """The projector."""
    predictor_dim: int = Field(4096, ge=1)
    """Hidden width of the predictor: two layers, with batch norm where the projector has it."""
    temperature: float = Field(0.2, gt=0)
    """Divides the cosines; the loss is multiplied by twice of it."""
    momentum: float = Field(0.99, ge=0, le=1)
    """Of the moving averages at the start; it goes to 1 along half a cosine."""
    freeze_patch_embed: bool = True
    """Leave the weights of the patch embedding as they are. Backbones without a linear one want false."""
    positions: Literal["fixed", "learned"] = "fixed"
    """Of the patches. fixed: not trained, sines and cosines where weights are fresh, as published; or learned ones."""
    weight_decay: float = Field(0.1, ge=0)
    """AdamW's decay, on matrices only."""
    regularizers: tuple[RegularizerConfig, ...] = ()
    """Losses on the base encoder's tokens of both views, added with their own weights."""


class MocoV3(nn.Module):
    """A base encoder `backbone`, its heads and the moving averages. Fulfills `vitrail.contracts.Method`."""

    def __init__(self, config: MocoV3Config, backbone: Encoder, *, fresh: bool = True) -> None:
        """Args: fresh: a ViT's weights are to be drawn as published; False leaves their values alone.

        Raises `ConfigError` where a patch embedding or positions are to be held that the backbone does not have.
        """
        super().__init__()
        self.config = config
        self.backbone = backbone
        if fresh and _linear_patches(backbone) is not None:
            draw_weights(backbone, config.positions)
        if config.freeze_patch_embed:
            _hold_patches(backbone)
        if config.positions == "fixed":
            _hold_positions(backbone)
        width = config.head.out_dim
        predictor = config.head.model_copy(update={"layers": 2, "hidden_dim": config.predictor_dim})
        self.head = ProjectionHead(config.head, backbone.embed_dim)
        self.predictor = ProjectionHead(predictor, width)
        self.key_backbone = teacher_of(backbone)
        self.key_head = teacher_of(self.head)
        self.regularizers = Regularizers(config.regularizers, backbone)

    def training_step(self, batch: Batch, step: Step) -> Losses:
        """The contrast of both directions and the regularizers; parts: these, and the queries' `spread`, 0 if alike."""
        one, two = two_views(batch)
        first, second = self._query(one, step), self._query(two, step)
        contrast = self._contrast(first.query, self._key(two)) + self._contrast(second.query, self._key(one))
        parts = {name: (value + second.parts[name]) / 2 for name, value in first.parts.items()}
        penalty = (first.penalty + second.penalty) / 2
        return Losses(contrast + penalty, {"contrast": contrast.detach(), "spread": spread(first.query), **parts})

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Base encoder, projector, predictor and regularizers; what is held is in none of the groups."""
        modules = (self.backbone, self.head, self.predictor, self.regularizers)
        return decayed(*modules, weight_decay=self.config.weight_decay)

    def after_step(self, step: Step) -> None:
        """The moving averages follow."""
        momentum = momentum_at(step.progress, self.config.momentum)
        follow(self.key_backbone, self.backbone, momentum)
        follow(self.key_head, self.head, momentum)

    def export(self) -> Exported:
        """The base encoder under timm's names, the heads under `projector.` and `predictor.`."""
        exported = with_heads(self.backbone, projector=self.head, predictor=self.predictor)
        return Exported(exported.state, exported.metadata | {"network": "base encoder"})

    def _contrast(self, query: Tensor, key: Tensor) -> Tensor:
        temperature = self.config.temperature
        return 2 * temperature * batch_contrast(query, key, temperature, gather=joined)

    def _query(self, view: Tensor, step: Step) -> _Query:
        """A view goes through by itself, so that batch norms see one view, as published."""
        asked = {"layers": self.regularizers.layers, "scores": self.regularizers.scores}
        tokens = self.backbone(view, **{name: blocks for name, blocks in asked.items() if blocks})
        return _Query(self.predictor(self.head(tokens.cls)), *self.regularizers(tokens, step))

    @torch.no_grad()
    def _key(self, view: Tensor) -> Tensor:
        return self.key_head(self.key_backbone(view).cls)


class _Query(NamedTuple):
    query: Tensor  # [B, D]
    penalty: Tensor  # [] of the regularizers
    parts: dict[str, Tensor]  # theirs, to log


def draw_weights(backbone: Any, positions: Literal["fixed", "learned"]) -> None:
    """MoCo-v3's initial weights of a ViT.

    As MAE's (Xavier's uniform, positions of sines and cosines where they are fixed), but for queries, keys and values,
    which count as a matrix each, the patch embedding's bias, which is 0, and the class token, which nearly is.
    """
    draw_as_mae(backbone, positions)
    vit = backbone.vit
    for name, part in vit.named_modules():
        if name.endswith(".qkv") and isinstance(part, nn.Linear):
            bound = (6 / (part.out_features // 3 + part.in_features)) ** 0.5
            nn.init.uniform_(part.weight, -bound, bound)
    if vit.patch_embed.proj.bias is not None:
        nn.init.zeros_(vit.patch_embed.proj.bias)
    nn.init.normal_(vit.cls_token, std=1e-6)


def _linear_patches(backbone: nn.Module) -> nn.Conv2d | None:
    """A ViT's projection of patches, which do not overlap; None for what has none."""
    embedding = getattr(getattr(backbone, "vit", None), "patch_embed", None)
    found = getattr(embedding, "proj", None)
    return found if isinstance(found, nn.Conv2d) and found.kernel_size == found.stride else None


def _hold_patches(backbone: nn.Module) -> None:
    projection = _linear_patches(backbone)
    if projection is None:
        raise ConfigError(
            f"method.freeze_patch_embed is true, and {type(backbone).__name__} has no linear patch embedding "
            "(vit.patch_embed.proj); set method.freeze_patch_embed=false, or take a ViT"
        )
    projection.requires_grad_(False)


def _hold_positions(backbone: nn.Module) -> None:
    positions = getattr(getattr(backbone, "vit", None), "pos_embed", None)
    if not isinstance(positions, nn.Parameter):
        raise ConfigError(
            f"method.positions is 'fixed', and {type(backbone).__name__} has no positions of its own (vit.pos_embed); "
            "set method.positions=learned, or take a ViT"
        )
    positions.requires_grad_(False)
