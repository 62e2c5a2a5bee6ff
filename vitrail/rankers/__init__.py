"""Ways to say which patches of an image matter, one file each; all fulfill `vitrail.contracts.Ranker`.

ranker = open_ranker("dino", "dino_deitsmall16_pretrain.pth")
ids = select(ranker(images), 49)
tokens = backbone(images, keep=ids)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vitrail.rankers.build import open_ranker

__all__ = ["open_ranker"]


def __getattr__(name: str) -> Any:
    # timm takes seconds to import; only what needs it pays.
    if name != "open_ranker":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from vitrail.rankers.build import open_ranker

    return open_ranker
