"""Ways to say where the object of an image is, one file each; all fulfill `vitrail.contracts.Localizer`.

localizer = open_localizer("lost", "dino_deitsmall16_pretrain.pth")
maps = localizer(images).maps  # [B, h, w], larger is more of the object
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vitrail.localizers.build import open_localizer

__all__ = ["open_localizer"]


def __getattr__(name: str) -> Any:
    # timm takes seconds to import; only what needs it pays.
    if name != "open_localizer":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from vitrail.localizers.build import open_localizer

    return open_localizer
