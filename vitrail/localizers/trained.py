"""What localizers that were trained here are opened from: a file with a generator beside its backbone."""

from __future__ import annotations

from typing import Any

from vitrail.backbones import load_part
from vitrail.backbones.parts import Part
from vitrail.backbones.reading import own_header, weights_file
from vitrail.rankers.source import Source, need_weights, no_variant


def generator_of(source: Source, name: str, part: str, which: str) -> tuple[str, Part]:
    """The file of weights and the generator in it, for a localizer that was trained here.

    Raises:
        ValueError: a variant, which these have not, no weights, or a file without the generator.
    """
    weights = need_weights(source, name, which, "localizer")
    no_variant(source, name, "localizer")
    path = weights_file(weights)
    found = load_part(path, part)
    if found is None:
        raise ValueError(f"{path} holds no {part} beside the backbone, and {name} needs it; give {which}")
    return str(path), found


def without(part: Part, *names: str) -> dict[str, Any]:
    """What the file says of a part, but for these words."""
    return {name: value for name, value in part.config.items() if name not in names}


def classes_of(weights: str) -> tuple[str, ...] | None:
    """Names of the classes in a file of ours; None where it has none."""
    said = (own_header(weights_file(weights)) or {}).get("classes")
    return tuple(said) if said else None
