"""Vision Transformers behind one contract: create them, load their weights, save them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vitrail.backbones.architecture import create
    from vitrail.backbones.checkpoints import digest, load, load_classifier, save_exported, weights_file
    from vitrail.backbones.config import BackboneConfig
    from vitrail.backbones.report import LoadReport
    from vitrail.backbones.timm_vit import TimmViT

__all__ = [
    "BackboneConfig",
    "LoadReport",
    "TimmViT",
    "create",
    "digest",
    "load",
    "load_classifier",
    "save_exported",
    "weights_file",
]

_HOMES = {
    "BackboneConfig": "config",
    "LoadReport": "report",
    "TimmViT": "timm_vit",
    "create": "architecture",
    "digest": "checkpoints",
    "load": "checkpoints",
    "load_classifier": "checkpoints",
    "save_exported": "checkpoints",
    "weights_file": "checkpoints",
}


def __getattr__(name: str) -> Any:
    # timm takes seconds to import; only what needs it pays. No module here may have the name of a public
    # function: importing it would put the module in the function's place.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
