"""Which architecture do these weights belong to? Read from the shapes under timm's names."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from vitrail.backbones.config import BackboneConfig
from vitrail.backbones.staged_files import infer_staged, is_staged_state
from vitrail.backbones.t2t_vit import FAMILY, PATCH

_NAMES = {
    (192, 12): "vit_tiny_patch16_224",
    (384, 12): "vit_small_patch16_224",
    (768, 12): "vit_base_patch16_224",
    (1024, 24): "vit_large_patch16_224",
    (1280, 32): "vit_huge_patch14_224",
}
_DISTILLED = {
    (192, 12): "deit_tiny_distilled_patch16_224",
    (384, 12): "deit_small_distilled_patch16_224",
    (768, 12): "deit_base_distilled_patch16_224",
}
# Heads are 64 wide nearly everywhere. Not in ViT-H/14, nor in MoCo-v3's ViT-S, which has 12.
_HEADS = {1280: 16, 1408: 16, 1664: 16}
_BLOCK = re.compile(r"(blocks|block4|stage2\.blocks)\.(\d+)\.")  # of a ViT, and of the last stage of PVT and CvT


def infer(state: Mapping[str, Tensor], layout: str = "timm") -> tuple[BackboneConfig, tuple[str, ...]]:
    """The configuration that these weights fit, and what was guessed on the way.

    Args:
        state: weights under timm's names, or those of PVT and CvT.
        layout: of the file, as `recognize` says it; MoCo-v3's ViT-S has other heads.

    Raises:
        ValueError: where shapes do not tell: no class token, no square grid, a gated MLP, or a width that is
            no multiple of 64; the way out is `name=BackboneConfig(...)`.
    """
    if is_staged_state(state):
        return infer_staged(state, layout)
    needed = (
        "cls_token",
        "pos_embed",
        "patch_embed.proj.weight",
        "blocks.0.mlp.fc1.weight",
        "blocks.0.mlp.fc2.weight",
    )
    lacking = [name for name in needed if name not in state]
    if lacking:
        raise ValueError(_unclear(f"it has no {', '.join(lacking)}"))
    if "patch_embed.attention1.norm1.weight" in state:
        return _infer_t2t_vit(state)
    width = state["cls_token"].shape[-1]
    depth = depth_of(state)
    distilled = "dist_token" in state
    options = _options(state, width)
    side = _side(state, options)
    kernel = tuple(int(each) for each in state["patch_embed.proj.weight"].shape[-2:])
    names = _DISTILLED if distilled else _NAMES
    known = names.get((width, depth))
    heads, guess = _heads(state, width, layout)
    values: dict[str, Any] = {
        "name": known or ("deit_tiny_distilled_patch16_224" if distilled else "vit_tiny_patch16_224"),
        "image_size": (side * kernel[0], side * kernel[1]),
        "patch_size": kernel if kernel[0] != kernel[1] else kernel[0],
        "heads": heads,
        "options": options,
    }
    if kernel[0] == kernel[1]:
        values["image_size"] = side * kernel[0]
    if known is None:
        values |= {"embed_dim": width, "depth": depth}
    note = (
        f"no name was given; by its shapes this is {known or 'a ViT'}: width {width}, {depth} blocks, "
        f"{heads} heads ({guess}), patch {kernel[0]}, image {side * kernel[0]}"
    )
    return BackboneConfig(**values), (note,)


def _infer_t2t_vit(state: Mapping[str, Tensor]) -> tuple[BackboneConfig, tuple[str, ...]]:
    kind = "performer" if "patch_embed.attention1.w" in state else "transformer"
    width, depth = state["cls_token"].shape[-1], depth_of(state)
    heads, guess = _heads(state, width, "T2T-ViT")
    options = _options(state, width)
    ratio = options.pop("mlp_ratio", 4.0)
    side = _side(state, options)
    of_kind = {name: member for name, member in FAMILY.items() if member.kind == kind}
    known = next((name for name, member in of_kind.items() if member[1:] == (width, depth, heads, ratio)), None)
    name = known or next(iter(of_kind))
    if options.pop("qkv_bias", True):  # these models have none of their own
        options["qkv_bias"] = True
    if (token_dim := state["patch_embed.attention1.norm2.weight"].shape[0]) != 64:
        options["token_dim"] = token_dim
    values: dict[str, Any] = {} if known else {"embed_dim": width, "depth": depth, "heads": heads}
    if known is None:
        options["mlp_ratio"] = ratio
    note = (
        f"no name was given; by its shapes this is {known or f'a T2T-ViT with {kind} tokens'}: width {width}, {depth} "
        f"blocks, {heads} heads ({guess}), image {side * PATCH}"
    )
    config = BackboneConfig(name=name, image_size=side * PATCH, patch_size=PATCH, options=options, **values)
    return config, (note,)


def depth_of(state: Mapping[str, Tensor]) -> int:
    """Number of blocks; of PVT and CvT in the last stage."""
    numbers = [int(found[2]) for name in state if (found := _BLOCK.match(name))]
    return max(numbers, default=-1) + 1


def lacks_last_norm2(state: Mapping[str, Tensor]) -> str | None:
    """The last block's name where it, and it alone, has no norm2, the mark of SAR's surgery C, D and F; else None."""
    depth = depth_of(state)
    stem = next((found[1] for name in state if (found := _BLOCK.match(name))), "")
    normed = [any(f"{stem}.{index}.norm2.{kind}" in state for kind in ("weight", "bias")) for index in range(depth)]
    last = f"{stem}.{depth - 1}"
    return last if depth and not normed[-1] and all(normed[:-1]) and f"{last}.mlp.fc1.weight" in state else None


def _options(state: Mapping[str, Tensor], width: int) -> dict[str, Any]:
    hidden, taken = state["blocks.0.mlp.fc1.weight"].shape[0], state["blocks.0.mlp.fc2.weight"].shape[1]
    if hidden != taken:
        raise ValueError(_unclear(f"its MLP is gated ({hidden} channels in, {taken} out)"))
    present = {
        "init_values": ("blocks.0.ls1.gamma", 1e-5),
        "qk_norm": ("blocks.0.attn.q_norm.weight", True),
        "scale_attn_norm": ("blocks.0.attn.norm.weight", True),
        "pre_norm": ("norm_pre.weight", True),
    }
    options: dict[str, Any] = {option: value for option, (name, value) in present.items() if name in state}
    if hidden != 4 * width:
        options["mlp_ratio"] = hidden / width
    if "blocks.0.attn.qkv.bias" not in state:
        options["qkv_bias"] = False
    if "fc_norm.weight" in state and "norm.weight" not in state:
        options["global_pool"] = "avg"
    if "reg_token" in state:
        options["reg_tokens"] = int(state["reg_token"].shape[1])
    return options


def _side(state: Mapping[str, Tensor], options: dict[str, Any]) -> int:
    """Side of the square grid; notes in `options` where the prefix tokens have no positions."""
    tokens = state["pos_embed"].shape[1]
    prefix = 1 + ("dist_token" in state) + options.get("reg_tokens", 0)
    plain, bare = _root(tokens - prefix), _root(tokens)
    if bare is not None and (plain is None or "reg_tokens" in options):
        options["no_embed_class"] = True
        return bare
    if plain is None:
        raise ValueError(_unclear(f"its {tokens} positions are no square grid plus {prefix} tokens"))
    return plain


def _root(count: int) -> int | None:
    root = math.isqrt(max(count, 0))
    return root if count > 0 and root * root == count else None


def _heads(state: Mapping[str, Tensor], width: int, layout: str) -> tuple[int, str]:
    if "blocks.0.attn.q_norm.weight" in state:
        return width // state["blocks.0.attn.q_norm.weight"].shape[0], "by its query norm"
    if layout == "MoCo-v3" and width == 384:
        return 12, "as MoCo-v3's ViT-S has"
    if width in _HEADS:
        return _HEADS[width], "as published models of this width have"
    if width % 64:
        raise ValueError(_unclear(f"its width {width} is no multiple of 64, so the number of heads is unknown"))
    return width // 64, "64 channels each"


def _unclear(reason: str) -> str:
    return (
        f"the architecture cannot be read from the shapes of this file: {reason}; say it: name='vit_...' as "
        "in timm, or name=BackboneConfig(name=..., heads=..., image_size=...)"
    )
