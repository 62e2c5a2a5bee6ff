"""Which network a file's weights are of: by its header, by its shapes, and by what was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from vitrail.backbones.config import BackboneConfig
from vitrail.backbones.infer import infer, lacks_last_norm2
from vitrail.backbones.layouts import Recognized
from vitrail.backbones.pvt import PATCH
from vitrail.backbones.staged import is_staged
from vitrail.backbones.staged_files import library_options
from vitrail.backbones.t2t_vit import PATCH as T2T_PATCH
from vitrail.backbones.t2t_vit import is_t2t_vit
from vitrail.nn.surgery import surgery
from vitrail.ops.patches import sides_of

Name = str | BackboneConfig | None


def as_config(name: Name) -> BackboneConfig:
    """A whole configuration of what may be a name alone. Raises `ValueError` where there is none."""
    if name is None:
        raise ValueError("pretrained weights need a name, as in load('vit_small_patch16_224.dino', 'pretrained')")
    return name if isinstance(name, BackboneConfig) else BackboneConfig(name=name)


def changed(config: BackboneConfig, changes: Mapping[str, Any]) -> BackboneConfig:
    """The configuration with other values, checked anew."""
    return BackboneConfig.parse(config.plain() | dict(changes)) if changes else config


def architecture_of(
    found: Recognized, own: Mapping[str, Any] | None, name: Name, source: str
) -> tuple[BackboneConfig, tuple[str, ...], tuple[int, int] | None]:
    """The configuration, notes, and the grid of the file's positions where the header says it."""
    if own is None:
        if name is not None:
            return *_follow_library(as_config(name), found), None
        if found.arch is not None:
            return BackboneConfig(name=found.arch), (f"the file names its architecture: {found.arch}",), None
        try:
            return *infer(found.state, found.layout), None
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from None
    saved = BackboneConfig.parse(own["backbone"], source=f"the header of {source}")
    grid = _saved_grid(saved, found.state)
    if name is None:
        return saved, (), grid
    if isinstance(name, str):
        if name.partition(".")[0] != saved.name.partition(".")[0]:
            raise ValueError(f"{source} holds a {saved.name}, not a {name}; leave the name out, the file knows it")
        return saved, (), grid
    if not surgery(name.surgery).same_block(surgery(saved.surgery)):
        raise ValueError(
            f"{source} was trained with surgery {saved.surgery or 'A (none)'}, and "
            f"{name.surgery or 'A (none)'} was "
            "asked for; the architecture does not change between pre-training and fine-tuning: set the same"
        )
    if is_staged(name.name):  # sizes and activation are the file's, where nothing else is said
        return name.model_copy(update={"options": saved.options | name.options}), (), grid
    return *_follow_filter(name, saved, source), grid


def follow_surgery(
    config: BackboneConfig, found: Recognized, source: str, partial: bool
) -> tuple[BackboneConfig, tuple[str, ...]]:
    """The architecture follows the weights: it stays through fine-tuning (Table 4)."""
    gone = lacks_last_norm2(found.state)
    asked = surgery(config.surgery)
    if gone and asked.norm2:
        note = (
            f"{gone}.norm2 is not there: trained with SAR's surgery, built as C (the block of F, too; "
            "D would look the same, if it is one say so by name=BackboneConfig(surgery='D'))"
        )
        return config.model_copy(update={"surgery": "C"}), (note,)
    if not gone and not asked.norm2 and not partial:
        raise ValueError(
            f"surgery {config.surgery} was asked for, but {source} was trained with a plain last block (it "
            "has norm2); the architecture does not change between pre-training and fine-tuning: leave surgery out "
            "(E adds the entropy loss alone), or pass allow_partial=True"
        )
    return config, ()


def _saved_grid(saved: BackboneConfig, state: Mapping[str, Tensor]) -> tuple[int, int] | None:
    if saved.image_size is None:
        return None
    sides = sides_of(saved.image_size)
    if is_staged(saved.name):
        return sides[0] // PATCH, sides[1] // PATCH
    kernel = state["patch_embed.proj.weight"].shape[-2:] if "patch_embed.proj.weight" in state else (1, 1)
    if is_t2t_vit(saved.name):
        kernel = (T2T_PATCH, T2T_PATCH)
    return sides[0] // kernel[0], sides[1] // kernel[1]


def _follow_library(config: BackboneConfig, found: Recognized) -> tuple[BackboneConfig, tuple[str, ...]]:
    """Hugging Face's CvT and PVT compute a little differently from the authors' code, with the same weights."""
    option = library_options(found.layout, config.name)
    if not option or option.keys() <= config.options.keys():
        return config, ()
    notes = {
        "activation": "the MLP's activation is gelu, as Hugging Face's CvT computes; the authors' is quick_gelu",
        "inner_eps": "inner_eps is 1e-6, as Hugging Face's PVT computes; the authors' is 1e-5",
    }
    note = notes[next(iter(option))]
    return config.model_copy(update={"options": config.options | option}), (note,)


def _follow_filter(
    config: BackboneConfig, saved: BackboneConfig, source: str
) -> tuple[BackboneConfig, tuple[str, ...]]:
    """The object-aware filter of the weights is built, too: without it they are another network."""
    if config.object_filter == saved.object_filter:
        return config, ()
    if config.object_filter is None:
        note = f"its last block has an object-aware filter ({saved.object_filter}), built as the file says"
        return config.model_copy(update={"object_filter": saved.object_filter}), (note,)
    raise ValueError(
        f"{source} was trained with object_filter {saved.object_filter or 'null'}, and {config.object_filter} was "
        "asked for; leave it out, the file knows its own; vitrail.backbones.add_object_filter puts a fresh one into a "
        "backbone that has none"
    )
