"""A backbone from what a ranker or a localizer is opened from."""

from __future__ import annotations

from vitrail.backbones import TimmViT, load, load_part, need_vit
from vitrail.backbones.parts import Part
from vitrail.backbones.reading import weights_file
from vitrail.rankers.source import Kind, Source, need_weights


def open_vit(source: Source, name: str, which: str, kind: Kind = "ranker") -> TimmViT:
    """Any ViT that `vitrail.load` reads, whatever stands beside it in the file.

    Args:
        source: `weights` are needed; `model` where the file does not tell, and for "pretrained".
        name: of what is opened, for errors.
        which: weights are needed, for errors.
        kind: of what is opened, for errors.

    Raises:
        ValueError: for missing weights, a network in stages, and as `vitrail.load`.
    """
    weights = need_weights(source, name, which, kind)
    found = load(source.model, weights, image_size=source.image_size, checkpoint_key=source.key)
    return need_vit(found, f"the {kind} {name}")


def open_with_part(source: Source, name: str, part: str, which: str, kind: Kind = "ranker") -> tuple[TimmViT, Part]:
    """A ViT and what a method has put beside it.

    Args:
        source: `weights` are needed.
        name: of what is opened, for errors.
        part: its name in the file.
        which: weights are needed, for errors.
        kind: of what is opened, for errors.

    Raises:
        ValueError: for missing weights, a file without the part, and as `vitrail.load`.
    """
    weights = need_weights(source, name, which, kind)
    found = load_part(weights, part, checkpoint_key=source.key)
    if found is None:
        raise ValueError(
            f"{weights_file(weights)} holds no {part} beside the backbone, and the network needs it; give {which}"
        )
    backbone = load(source.model, weights, image_size=source.image_size, checkpoint_key=source.key)
    return need_vit(backbone, f"the {kind} {name}"), found
