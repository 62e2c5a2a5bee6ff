"""Patch-level learning with Vision Transformers: train, evaluate and look.

The public face: `vitrail.load` a backbone, then use the rooms: `vitrail.ops`, `vitrail.regularizers`,
`vitrail.evaluation`, `vitrail.viz`. Nothing heavy is imported before it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["__version__", "load"]

if TYPE_CHECKING:
    from vitrail.backbones import load


def __getattr__(name: str) -> Any:
    if name == "load":
        from vitrail.backbones import load

        return load
    raise AttributeError(f"module 'vitrail' has no attribute {name!r}")
