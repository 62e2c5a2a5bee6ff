"""A backbone from what a ranker is opened from."""

from __future__ import annotations

from vitrail.backbones import TimmViT, load
from vitrail.rankers.source import Source, need_weights


def open_vit(source: Source, ranker: str, which: str) -> TimmViT:
    """Any ViT that `vitrail.load` reads, whatever stands beside it in the file.

    Args:
        source: `weights` are needed; `model` where the file does not tell, and for "pretrained".
        ranker: its name, for errors.
        which: weights are needed, for errors.

    Raises:
        ValueError: for missing weights, and as `vitrail.load`.
    """
    weights = need_weights(source, ranker, which)
    return load(source.model, weights, image_size=source.image_size, checkpoint_key=source.key)
