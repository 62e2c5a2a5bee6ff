"""T2T-ViT: timm's Vision Transformer on patches that are made of overlapping tokens, in three steps.

    pixels             soft split 7x7, step 4    tokens of 147 channels, H/4 x W/4
    token attention    147 -> 64
    soft split 3x3, step 2                       tokens of 576 channels, H/8 x W/8
    token attention    576 -> 64
    soft split 3x3, step 2                       tokens of 576 channels, H/16 x W/16
    linear             576 -> embed_dim          the patches

A soft split lays a window's pixels (or tokens) side by side; windows overlap, and what lies outside the image is 0.
Token attention changes the width, so that the values take the place of the skip connection:

    q, k, v = LN(x) W;   z = v + attention(q, k, v) P;   output = z + MLP(LN(z))

with softmax attention, divided by the root of the width of x ("transformer"), or positive random features
("performer", `vitrail.ops.performer_attention`). Blocks have no bias in qkv; positions are fixed sines and cosines
of the token's number, kept in the state dict under timm's name.

Source: Yuan et al., "Tokens-to-Token ViT: Training Vision Transformers from Scratch on ImageNet", ICCV 2021
(arXiv 2101.11986), Section 3 and Table 2. From the authors' code, where the paper says nothing: order and bias of the
performer's keys, queries and values, its dropout of 0.1, eps 1e-5 of the norms, and the numbers of `FAMILY`.
"""

from __future__ import annotations

import difflib
import math
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from timm.layers import Format, LayerNorm, Mlp, to_2tuple
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from vitrail.config import ConfigError
from vitrail.nn.positions import sine_cosine_of_numbers
from vitrail.ops.performer_attention import draw_directions, performer_attention

PATCH = 16
_STEPS = ((7, 4, 2), (3, 2, 1), (3, 2, 1))  # window, step and border of the soft splits
_norm = partial(LayerNorm, eps=1e-5)


class Member(NamedTuple):
    """What a name stands for."""

    kind: Literal["performer", "transformer"]
    embed_dim: int
    depth: int
    heads: int
    mlp_ratio: float


FAMILY = {
    "t2t_vit_7": Member("performer", 256, 7, 4, 2.0),
    "t2t_vit_10": Member("performer", 256, 10, 4, 2.0),
    "t2t_vit_12": Member("performer", 256, 12, 4, 2.0),
    "t2t_vit_14": Member("performer", 384, 14, 6, 3.0),
    "t2t_vit_19": Member("performer", 448, 19, 7, 3.0),
    "t2t_vit_24": Member("performer", 512, 24, 8, 3.0),
    "t2t_vit_t_14": Member("transformer", 384, 14, 6, 3.0),
    "t2t_vit_t_19": Member("transformer", 448, 19, 7, 3.0),
    "t2t_vit_t_24": Member("transformer", 512, 24, 8, 3.0),
}
"""Published members: 4.3, 5.9, 6.9, 21.5, 39.2, 64.1 million parameters, and the last three of these once more."""


def is_t2t_vit(name: str) -> bool:
    """Whether a backbone's name is one of this family, or meant to be."""
    return name.startswith("t2t_")


def build_t2t_vit(name: str, arguments: dict[str, Any]) -> VisionTransformer:
    """timm's model with tokens-to-token in the patch embedding's place, without a classifier, with fresh weights.

    Args:
        name: of `FAMILY`.
        arguments: of timm's VisionTransformer where they differ from the name's, and `token_dim` (default 64), the
            width between the soft splits.

    Raises:
        ConfigError: for another name, a patch size other than 16, an image that does not hold whole patches, and
            values that the model does not take.
    """
    member = _member(name)
    sizes = {"embed_dim": member.embed_dim, "depth": member.depth, "num_heads": member.heads}
    given: dict[str, Any] = {"img_size": 224, "mlp_ratio": member.mlp_ratio, "qkv_bias": False, "norm_layer": _norm}
    given |= sizes | {"num_classes": 0} | arguments
    _check(name, given)
    layer = partial(TokensToToken, kind=member.kind, token_dim=given.pop("token_dim", 64))
    try:
        vit = VisionTransformer(**given | {"patch_size": PATCH}, embed_layer=layer)
    except (TypeError, AssertionError, ZeroDivisionError) as error:
        raise ConfigError(f"{name} cannot be built with {arguments}: {error}") from error
    if vit.cls_token is not None:
        nn.init.trunc_normal_(vit.cls_token, std=0.02)
    if vit.pos_embed is not None:
        fixed = sine_cosine_of_numbers(*vit.pos_embed.shape[1:])
        vit.pos_embed = nn.Parameter(fixed[None], requires_grad=False)
    return vit


def fold_scale(vit: VisionTransformer, scale: float) -> None:
    """Put another scale of the attention into the queries' weights, in place.

    Weights that were trained with softmax(scale * q . k) give the same, once folded, in timm's blocks, which compute
    softmax(q . k / sqrt(d)) with d the width of a head. The authors' code scales by `embed_dim ** -0.5` where it is
    called with `pretrained=True`; their commands for training and evaluation do not ask for that, and the accuracies
    published with the files are those without.

    Args:
        vit: any timm VisionTransformer with plain blocks, opened or not; without a norm of queries and keys.
        scale: that the weights were trained with.

    Raises:
        ValueError: a scale that is not positive, or queries that are normalized.
    """
    if not scale > 0:
        raise ValueError(f"scale {scale} is not positive; the width of the tokens to the power of -0.5 is usual")
    attentions: list[Any] = [block.attn for block in vit.blocks]
    if any(not isinstance(attn.q_norm, nn.Identity) for attn in attentions):
        raise ValueError("queries are normalized here, which undoes any factor of their weights")
    with torch.no_grad():
        for attn in attentions:
            factor, width = scale * math.sqrt(attn.head_dim), attn.qkv.out_features // 3
            for value in (attn.qkv.weight, attn.qkv.bias):
                if value is not None:
                    value[:width] *= factor


class TokensToToken(nn.Module):
    """Images to patches, in the place of timm's `PatchEmbed`.

    Attributes as timm reads them: `img_size`, `patch_size`, `grid_size` (height, width), `num_patches`, `flatten`,
    `strict_img_size`, `output_fmt`.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = PATCH,
        in_chans: int = 3,
        embed_dim: int = 384,
        bias: bool = True,
        *,
        kind: Literal["performer", "transformer"] = "performer",
        token_dim: int = 64,
        **others: Any,
    ) -> None:
        """Take what timm gives to a patch embedding; see `build_t2t_vit` for `kind` and `token_dim`."""
        super().__init__()
        self.patch_size: tuple[int, int] = (PATCH, PATCH)
        self.strict_img_size = True
        self.flatten = True
        self.output_fmt = Format.NCHW
        self.set_input_size(to_2tuple(img_size), patch_size)
        attention = PerformerTokens if kind == "performer" else TransformerTokens
        windows = [size * size for size, _, _ in _STEPS]
        self.attention1 = attention(in_chans * windows[0], token_dim)
        self.attention2 = attention(token_dim * windows[1], token_dim)
        self.proj = nn.Linear(token_dim * windows[2], embed_dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, H, W]` to `[B, Y, X, embed_dim]`, or `[B, Y * X, embed_dim]` where `flatten` is set."""
        height, width = x.shape[-2:]
        assert height % PATCH == width % PATCH == 0, f"{height} x {width} pixels are no patches of {PATCH}"
        assert not self.strict_img_size or (height, width) == self.img_size, f"{height} x {width} is not the model's"
        for attention, (window, step, border) in zip((self.attention1, self.attention2, None), _STEPS, strict=True):
            x = functional.unfold(x, window, padding=border, stride=step).transpose(1, 2)
            height, width = height // step, width // step
            if attention is not None:
                x = attention(x).transpose(1, 2).unflatten(2, (height, width))
        x = self.proj(x)
        return x if self.flatten else x.unflatten(1, (height, width))

    def set_input_size(
        self, img_size: tuple[int, int] | None = None, patch_size: int | tuple[int, int] | None = None
    ) -> None:
        """Another size of the images, in pixels; there is no other patch size than 16."""
        assert patch_size is None or to_2tuple(patch_size) == self.patch_size
        if img_size is not None:
            self.img_size: tuple[int, int] = (img_size[0], img_size[1])
            self.grid_size = self.dynamic_feat_size(self.img_size)
            self.num_patches = self.grid_size[0] * self.grid_size[1]

    def feat_ratio(self, as_scalar: bool = True) -> int | tuple[int, int]:
        """Pixels to a patch, of one side or of (height, width)."""
        return PATCH if as_scalar else self.patch_size

    def dynamic_feat_size(self, img_size: tuple[int, int]) -> tuple[int, int]:
        """The grid (Y, X) of an image of (height, width) pixels."""
        return img_size[0] // PATCH, img_size[1] // PATCH


class PerformerTokens(nn.Module):
    """Token attention by positive random features, `[B, T, taken]` to `[B, T, width]`; cost linear in T.

    The directions `w` are drawn once, are not trained and stand in the state dict.
    """

    def __init__(self, taken: int, width: int) -> None:
        """`width // 2` random directions."""
        super().__init__()
        self.norm1 = _norm(taken)
        self.kqv = nn.Linear(taken, 3 * width)
        self.proj = nn.Linear(width, width)
        self.dropout = nn.Dropout(0.1)
        self.norm2 = _norm(width)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width), nn.Dropout(0.1))
        self.register_buffer("w", draw_directions(width // 2, width))
        self.w: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Tokens to tokens."""
        key, query, value = self.kqv(self.norm1(x)).chunk(3, dim=-1)
        mixed = performer_attention(query, key, value, self.w)
        x = value + self.dropout(self.proj(mixed.to(value.dtype)))
        return x + self.mlp(self.norm2(x))


class TransformerTokens(nn.Module):
    """Token attention by softmax, one head, `[B, T, taken]` to `[B, T, width]`; cost quadratic in T."""

    def __init__(self, taken: int, width: int) -> None:
        """Queries and keys are divided by the root of `taken`, as published, and not of `width`."""
        super().__init__()
        self.norm1 = _norm(taken)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(taken, 3 * width, bias=False), "proj": nn.Linear(width, width)})
        self.norm2 = _norm(width)
        self.mlp = Mlp(width, width)
        self.scale = taken**-0.5

    def forward(self, x: Tensor) -> Tensor:
        """Tokens to tokens."""
        query, key, value = self.attn["qkv"](self.norm1(x)).unsqueeze(1).chunk(3, dim=-1)  # [B, 1, T, width]
        mixed = functional.scaled_dot_product_attention(query, key, value, scale=self.scale)
        x = (value + self.attn["proj"](mixed)).squeeze(1)
        return x + self.mlp(self.norm2(x))


def _member(name: str) -> Member:
    if name not in FAMILY:
        close = difflib.get_close_matches(name, FAMILY, n=2, cutoff=0.7)
        hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(FAMILY)}"
        raise ConfigError(f"there is no T2T-ViT {name!r}; {hint}")
    return FAMILY[name]


def _check(name: str, given: dict[str, Any]) -> None:
    patch = given.get("patch_size", PATCH)
    if to_2tuple(patch) != (PATCH, PATCH):
        raise ConfigError(
            f"patch_size {patch} was asked of {name}, whose soft splits make patches of {PATCH} pixels (4 x 2 x 2); "
            f"set patch_size to null, and image_size to a multiple of {PATCH}"
        )
    for side, size in zip(("height", "width"), to_2tuple(given["img_size"])):
        if size % PATCH or size < PATCH:
            raise ConfigError(
                f"{name}: image {side} {size} is not a multiple of its patches of {PATCH} pixels; "
                f"set image_size to {max(size // PATCH, 1) * PATCH} or {(size // PATCH + 1) * PATCH}"
            )
    if given.get("dynamic_img_pad"):
        raise ConfigError(f"{name} takes images of whole patches alone; leave options.dynamic_img_pad out")
    token_dim = given.get("token_dim", 64)
    if not isinstance(token_dim, int) or token_dim < 2:
        raise ConfigError(f"options.token_dim {token_dim} of {name} is not a width of at least 2; 64 is published")
