"""From a `BackboneConfig` to a model, with errors in words: timm's Vision Transformers, and networks in stages."""

from __future__ import annotations

import difflib
from typing import Any

import timm
from timm.models.vision_transformer import VisionTransformer

from vitrail.backbones.config import CHOICES, BackboneConfig
from vitrail.backbones.staged import NAMES, StagedBackbone, build_staged, is_staged
from vitrail.backbones.t2t_vit import build_t2t_vit, is_t2t_vit
from vitrail.backbones.timm_vit import TimmViT
from vitrail.config import ConfigError
from vitrail.nn.object_filter import ObjectFilterConfig, install
from vitrail.nn.surgery import operate

AnyBackbone = TimmViT | StagedBackbone
"""What `create` and `vitrail.load` return: both have a class token and its scores."""


def create(config: BackboneConfig | None = None) -> AnyBackbone:
    """A backbone with fresh weights, drawn from torch's global random numbers.

    Raises:
        ConfigError: for a name that there is not, or values that its model does not take.
        ValueError: for a model without a class token, or one whose last block surgery or filter do not fit.
    """
    config = config or BackboneConfig()
    if is_staged(config.name):
        return build_staged(config)
    vit = build_vit(config)
    operate(vit, config.surgery)
    if config.object_filter is not None:
        install(vit, config.object_filter)
    return TimmViT(vit, config)


def need_vit(backbone: AnyBackbone, who: str) -> TimmViT:
    """The same backbone, for what looks into a plain Vision Transformer; `who` does, for the error.

    Raises:
        ValueError: for a network in stages.
    """
    if isinstance(backbone, TimmViT):
        return backbone
    raise ValueError(
        f"{who} needs a plain Vision Transformer, all of whose blocks see the same patches, and this is a "
        f"{backbone.config.name}, which works in stages; choose a vit_*, deit_* or t2t_vit_*"
    )


def add_object_filter(backbone: TimmViT, config: ObjectFilterConfig | None = None) -> TimmViT:
    """Put an object-aware filter with fresh weights into a backbone's last block, in place; returns the backbone.

    What the backbone gives stays the same, bit for bit, until the filter is trained. From then on `export` and
    `vitrail.load` keep the filter with the other weights.

    Raises:
        ValueError: for a backbone that has a filter, one whose last block is not timm's plain one, and heads that do
            not divide the width.
    """
    config = config or ObjectFilterConfig()
    install(backbone.vit, config)
    if backbone.config is not None:
        backbone.config = backbone.config.model_copy(update={"object_filter": config})
    return backbone


def build_vit(config: BackboneConfig, *, pretrained: bool = False) -> VisionTransformer:
    """timm's model without a classifier and before any surgery; `pretrained` lets timm download weights."""
    arguments = _arguments(config)
    if is_t2t_vit(config.name):
        return build_t2t_vit(config.name, arguments)
    check_name(config.name)
    try:
        vit = timm.create_model(config.name, pretrained=pretrained, num_classes=0, **arguments)
    except (TypeError, AssertionError, ZeroDivisionError) as error:
        family = timm.models.model_entrypoint(config.name.partition(".")[0]).__module__.rsplit(".", 1)[1]
        if family not in ("vision_transformer", "deit"):
            raise ConfigError(f"{config.name} is of timm's {family}; choose {CHOICES}") from error
        raise ConfigError(f"timm cannot build {config.name} with {arguments}: {error}") from error
    if not isinstance(vit, VisionTransformer):
        raise ConfigError(f"{config.name} is a {type(vit).__name__}, no VisionTransformer; choose {CHOICES}")
    _check_sizes(vit, config)
    return vit


def _arguments(config: BackboneConfig) -> dict[str, Any]:
    given = {
        "img_size": config.image_size,
        "patch_size": config.patch_size,
        "embed_dim": config.embed_dim,
        "depth": config.depth,
        "num_heads": config.heads,
        "drop_path_rate": config.drop_path or None,
    }
    return {key: value for key, value in given.items() if value is not None} | config.options


def check_name(name: str) -> None:
    """Raise `ConfigError`, with what there is instead, where there is no such model, or not this tag of it."""
    arch, _, tag = name.partition(".")
    if is_staged(arch):
        if tag:
            raise ConfigError(f"{arch} has no tags, such as {tag!r}; leave it out")
        return
    if timm.is_model(arch):
        try:
            timm.models.get_pretrained_cfg(name)
        except RuntimeError:
            offered = ", ".join(timm.list_pretrained(f"{arch}.*")) or arch
            raise ConfigError(f"timm {timm.__version__} has no weights' tag {tag!r}; it offers {offered}") from None
        return
    close = difflib.get_close_matches(
        name, [*timm.list_models("vit_*"), *timm.list_models("deit*"), *NAMES], n=3, cutoff=0.5
    )
    hint = f"did you mean {' or '.join(close)}?" if close else "timm.list_models('vit_*') names some"
    raise ConfigError(f"timm {timm.__version__} has no model {name!r}; {hint}")


def _check_sizes(vit: VisionTransformer, config: BackboneConfig) -> None:
    patch = vit.patch_embed.feat_ratio(as_scalar=False)
    for side, size, step in zip(("height", "width"), vit.patch_embed.img_size, patch):
        if size % step or size < step:
            raise ConfigError(
                f"{config.name}: image {side} {size} is not a multiple of the patch size {step}; "
                f"set image_size to {max(size // step, 1) * step}, or another patch_size"
            )
