"""Vision Transformers and convolutional networks behind one contract: create them, load their weights, save them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vitrail.backbones.architecture import AnyBackbone, add_object_filter, create, need_vit
    from vitrail.backbones.checkpoints import digest, load, load_classifier, save_exported
    from vitrail.backbones.config import BackboneConfig
    from vitrail.backbones.convnet import ConvNetConfig, TimmConvNet, create_convnet, load_convnet
    from vitrail.backbones.parts import Part, load_part, need_part, with_part
    from vitrail.backbones.reading import weights_file
    from vitrail.backbones.report import LoadReport
    from vitrail.backbones.staged import StagedBackbone
    from vitrail.backbones.timm_vit import TimmViT

__all__ = [
    "AnyBackbone",
    "BackboneConfig",
    "ConvNetConfig",
    "LoadReport",
    "Part",
    "StagedBackbone",
    "TimmConvNet",
    "TimmViT",
    "add_object_filter",
    "create",
    "create_convnet",
    "digest",
    "load",
    "load_classifier",
    "load_convnet",
    "load_part",
    "need_part",
    "need_vit",
    "save_exported",
    "weights_file",
    "with_part",
]

_HOMES = {
    "AnyBackbone": "architecture",
    "BackboneConfig": "config",
    "ConvNetConfig": "convnet",
    "LoadReport": "report",
    "Part": "parts",
    "StagedBackbone": "staged",
    "TimmConvNet": "convnet",
    "TimmViT": "timm_vit",
    "add_object_filter": "architecture",
    "create": "architecture",
    "create_convnet": "convnet",
    "digest": "checkpoints",
    "load": "checkpoints",
    "load_classifier": "checkpoints",
    "load_convnet": "convnet",
    "load_part": "parts",
    "need_part": "parts",
    "need_vit": "architecture",
    "save_exported": "checkpoints",
    "weights_file": "reading",
    "with_part": "parts",
}


def __getattr__(name: str) -> Any:
    # timm takes seconds to import; only what needs it pays. No module here may have the name of a public
    # function: importing it would put the module in the function's place.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
