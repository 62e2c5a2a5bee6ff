"""What a backbone is built from: a name, and what differs from it."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from vitrail.config import Config
from vitrail.nn.object_filter import ObjectFilterConfig

_FIELDS = {
    "img_size": "image_size",
    "patch_size": "patch_size",
    "embed_dim": "embed_dim",
    "depth": "depth",
    "num_heads": "heads",
    "drop_path_rate": "drop_path",
}

CHOICES = "a model with a class token: vit_*, deit_*, t2t_vit_*, pvt_tiny to pvt_large (version 1), cvt_13 or cvt_21"
"""For errors about models that have none."""


class BackboneConfig(Config):
    """A Vision Transformer, plain or in stages, and the ways in which it differs from its name."""

    name: str = "vit_tiny_patch16_224"
    """timm's name, with or without a tag: `vit_small_patch16_224.dino`; a T2T-ViT: `t2t_vit_14`; or `pvt_tiny`,
    `pvt_small`, `pvt_medium`, `pvt_large`, `cvt_13`, `cvt_21`."""
    image_size: int | tuple[int, int] | None = None
    """Pixels, one side or (height, width), that the positions are made for; null for the name's own."""
    patch_size: int | tuple[int, int] | None = None
    """Pixels, one side or (height, width); null for the name's own. This and the next three are of plain ViTs alone;
    networks in stages have options, one number a stage."""
    embed_dim: int | None = Field(None, gt=0)
    """Width of the tokens; null for the name's own."""
    depth: int | None = Field(None, gt=0)
    """Number of blocks; null for the name's own."""
    heads: int | None = Field(None, gt=0)
    """Attention heads per block; null for the name's own."""
    drop_path: float = Field(0.0, ge=0, lt=1)
    """Chance that the last block is skipped in training; it grows linearly from 0 at the first block."""
    surgery: Literal["A", "B", "C", "D", "E", "F"] | None = None
    """SAR's change of the last block, by row of Table 1(b): B, C, D and F cut it; null, A and E leave it."""
    object_filter: ObjectFilterConfig | None = None
    """CoTAP's object-aware filter in the last block (`object_filter: {}` for one as in the paper); null for none."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, about a third more time."""
    options: dict[str, bool | int | float | str | tuple[int, ...] | None] = Field(default_factory=dict)
    """Further arguments of timm's VisionTransformer, such as `reg_tokens: 4` or `mlp_ratio: 3.0`; of PVT and CvT those
    of `PvtConfig` and `CvtConfig`, such as `depths: [1, 1, 1, 2]`."""

    @model_validator(mode="after")
    def _agree(self) -> Self:
        for name, sides in (("image_size", self.image_size), ("patch_size", self.patch_size)):
            for side in (sides,) if isinstance(sides, int) else sides or ():
                if side <= 0:
                    raise ValueError(f"{name} {sides} is not positive")
        if self.embed_dim and self.heads and self.embed_dim % self.heads:
            raise ValueError(f"embed_dim {self.embed_dim} is not a multiple of heads {self.heads}; change one of them")
        for option in self.options:
            if option in _FIELDS:
                raise ValueError(f"options.{option} has a field of its own: set {_FIELDS[option]}")
        return self
