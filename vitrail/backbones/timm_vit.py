"""Any timm Vision Transformer behind one contract: tokens, asked-for layers, a kept subset, CLS similarity scores.

Scores are the CLS query times the patch keys over sqrt(d), before the softmax. They are taken from the queries and
keys that the block computes anyway, beside PyTorch's fused attention: one product of one row per head.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Literal

import timm
import torch
from pydantic import Field
from timm.layers import Attention, resample_abs_pos_embed
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from vitrail.config import Config
from vitrail.contracts import Exported, Tokens
from vitrail.nn.surgery import SurgeryBlock, operate
from vitrail.ops.patches import grid_of


class BackboneConfig(Config):
    """A ViT by its timm name, and what differs from it."""

    name: str = "vit_tiny_patch16_224"
    """A timm name; `timm.list_models('vit*')` and `deit*` list them."""
    image_size: int | tuple[int, int] | None = None
    """Pixels, height and width or both; null for the name's own."""
    patch_size: int | None = Field(None, ge=1)
    """Pixels; null for the name's own, as for the next three."""
    embed_dim: int | None = Field(None, ge=1)
    depth: int | None = Field(None, ge=1)
    heads: int | None = Field(None, ge=1)
    drop_path: float = Field(0.0, ge=0, lt=1)
    """Rate of stochastic depth at the last block; lower blocks have less."""
    surgery: Literal["A", "B", "C", "D", "E", "F"] | None = None
    """Last-block surgery by the rows of SAR's Table 1(b); null and A change nothing."""
    gradient_checkpointing: bool = False
    """Compute blocks again in the backward pass instead of keeping their activations."""


class TimmViT(nn.Module):
    """A timm `VisionTransformer` with a CLS token. Fulfills `vitrail.contracts.Backbone`.

    Plain, distilled and register models, any patch size; images of any size that holds whole patches, by
    interpolated positions. `vit` is the timm model itself, edited in place.
    """

    def __init__(self, vit: VisionTransformer, config: BackboneConfig | None = None) -> None:
        """Raises `ValueError` for a model that is no plain ViT or has no CLS token."""
        super().__init__()
        if not isinstance(vit, VisionTransformer):
            raise ValueError(f"{type(vit).__name__} is not a timm VisionTransformer; choose a vit_* or deit_* name")
        if vit.cls_token is None:
            raise ValueError(
                "this model has no CLS token, which patch scores are measured against; choose one that has, such as "
                "vit_small_patch16_224, deit_small_patch16_224 or vit_small_patch14_reg4_dinov2"
            )
        vit.reset_classifier(0)
        vit.dynamic_img_size = True
        vit.patch_embed.strict_img_size, vit.patch_embed.flatten, vit.patch_embed.output_fmt = False, False, "NHWC"
        self.vit = vit
        height, width = vit.patch_embed.img_size
        known = config or BackboneConfig()
        self.config = known.model_copy(update={"image_size": height if height == width else (height, width)})
        self.image_size: tuple[int, int] = (height, width)
        self.patch_size: tuple[int, int] = tuple(vit.patch_embed.patch_size)
        self.embed_dim: int = vit.embed_dim
        self.depth = len(vit.blocks)
        self.heads: int = vit.blocks[0].attn.num_heads
        self.prefix_tokens: int = vit.num_prefix_tokens
        pixels = getattr(vit, "pretrained_cfg", None) or {}
        self.mean: tuple[float, ...] = tuple(pixels.get("mean", (0.485, 0.456, 0.406)))
        self.std: tuple[float, ...] = tuple(pixels.get("std", (0.229, 0.224, 0.225)))

    @property
    def norm(self) -> nn.Module:
        """The final norm; asked-for layers come before it."""
        return self.vit.norm

    def forward(
        self, images: Tensor, *, layers: Sequence[int] = (), scores: Sequence[int] = (), keep: Tensor | None = None
    ) -> Tokens:
        """Images `[B, 3, H, W]`, normalized, to tokens.

        Args:
            layers: blocks whose outputs are wanted, before the final norm.
            scores: blocks whose CLS similarity maps are wanted.
            keep: patch ids `[B, K]` (int64, raster order) to process; positions are added first. `grid` stays the
                whole grid, and `scores` cannot be asked for: a subset has no map.

        Raises:
            ValueError: sides that do not hold whole patches, a block that does not exist, scores of a subset.
        """
        if keep is not None and scores:
            raise ValueError(f"scores of blocks {tuple(scores)} with keep: a subset of patches has no map; ask for one")
        grid = grid_of(images.shape[-2], images.shape[-1], self.patch_size)
        x = self._embed(images, keep)
        wanted, mapped = self._numbers(layers), self._numbers(scores)
        outputs: dict[int, Tensor] = {}
        maps: dict[int, Tensor] = {}
        for number, block in enumerate(self.vit.blocks):
            if number in mapped:
                x, found = self._run(_scored, block, x, self.prefix_tokens)
                maps |= dict.fromkeys(mapped[number], found.unflatten(-1, grid))
            else:
                x = self._run(block, x)
            if number in wanted:
                outputs |= dict.fromkeys(wanted[number], torch.cat([x[:, :1], x[:, self.prefix_tokens :]], 1))
        x = self.vit.norm(x)
        return Tokens(x[:, 0], x[:, self.prefix_tokens :], grid, outputs, maps)

    def export(self) -> Exported:
        """The weights under timm's names, and what is needed to rebuild the model."""
        metadata = {"backbone": self.config.plain(), "mean": list(self.mean), "std": list(self.std)}
        return Exported({name: value.detach() for name, value in self.vit.state_dict().items()}, metadata)

    def _embed(self, images: Tensor, keep: Tensor | None) -> Tensor:
        x = self.vit._pos_embed(self.vit.patch_embed(images))
        if keep is not None:
            prefix, patches = x[:, : self.prefix_tokens], x[:, self.prefix_tokens :]
            x = torch.cat([prefix, patches.gather(1, keep[..., None].expand(-1, -1, x.shape[-1]))], 1)
        return self.vit.norm_pre(self.vit.patch_drop(x))

    def _run(self, function: Any, *inputs: Any) -> Any:
        if self.config.gradient_checkpointing and self.training and torch.is_grad_enabled():
            return checkpoint(function, *inputs, use_reentrant=False)
        return function(*inputs)

    def _numbers(self, asked: Sequence[int]) -> dict[int, list[int]]:
        """Blocks counted from the first, each with the numbers it was asked for by."""
        numbers: dict[int, list[int]] = {}
        for number in asked:
            if not -self.depth <= number < self.depth:
                raise ValueError(f"there is no block {number}; the model has {self.depth}, 0 to {self.depth - 1}")
            numbers.setdefault(number % self.depth, []).append(number)
        return numbers


def _scored(block: nn.Module, x: Tensor, prefix: int) -> tuple[Tensor, Tensor]:
    """One block's output `[B, P + N, D]`, and its CLS scores `[B, H, N]`."""
    if type(block) not in (Block, SurgeryBlock):
        raise ValueError(f"cannot read scores of a {type(block).__name__}; timm's plain Block is supported")
    attended, scores = _attend(block.attn, block.norm1(x), prefix)
    if isinstance(block, SurgeryBlock):
        return block.finish(x, attended), scores
    x = x + block.drop_path1(block.ls1(attended))
    return x + block.drop_path2(block.ls2(block.mlp(block.norm2(x)))), scores


def _attend(attn: nn.Module, x: Tensor, prefix: int) -> tuple[Tensor, Tensor]:
    """timm's `Attention`, always fused, that also returns the CLS query's scores against the patch keys."""
    if type(attn) is not Attention:
        raise ValueError(f"cannot read scores of {type(attn).__name__}; timm's plain Attention is supported")
    batch, count, _ = x.shape
    query, key, value = attn.qkv(x).reshape(batch, count, 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
    query, key = attn.q_norm(query), attn.k_norm(key)
    dropout = attn.attn_drop.p if attn.training else 0.0
    out = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
    out = attn.norm(out.transpose(1, 2).reshape(batch, count, -1))
    gate = getattr(attn, "gate", None)
    if gate is not None:
        out = out * gate(x).sigmoid()
    scores = (query[:, :, :1] @ key[:, :, prefix:].transpose(-2, -1)).squeeze(-2) * attn.scale
    return attn.proj_drop(attn.proj(out)), scores


def create(config: BackboneConfig) -> TimmViT:
    """A backbone with fresh weights. Raises `ValueError` for a name that timm does not know, with near ones."""
    return TimmViT(operate(_timm_model(config, pretrained=False), config.surgery), config)


def _timm_model(config: BackboneConfig, *, pretrained: bool) -> VisionTransformer:
    name = config.name
    if not timm.is_model(name.split(".")[0]):
        near = timm.list_models(f"*{name.split('_')[0]}*patch*")[:6]
        raise ValueError(f"timm knows no model {name!r}; near: {', '.join(near) or 'timm.list_models() lists all'}")
    given = {
        "img_size": config.image_size,
        "patch_size": config.patch_size,
        "embed_dim": config.embed_dim,
        "depth": config.depth,
        "num_heads": config.heads,
    }
    arguments = {key: value for key, value in given.items() if value is not None}
    return timm.create_model(
        name, pretrained=pretrained, num_classes=0, drop_path_rate=config.drop_path, dynamic_img_size=True, **arguments
    )


def digest(module: nn.Module) -> str:
    """16 hex digits over names and values of a module's weights."""
    sha = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        sha.update(name.encode())
        sha.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()[:16]
