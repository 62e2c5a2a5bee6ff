"""The whole image as the box: right wherever the object is more than the asked-for share of it. The lowest floor."""

from __future__ import annotations

from vitrail.localizers.centered_box import CenteredBox
from vitrail.ops.patches import sides_of
from vitrail.rankers.source import Source, no_variant


def from_source(source: Source) -> CenteredBox:
    """Nothing is read but the image size, 224 by default."""
    no_variant(source, "whole_image", "localizer")
    size = source.image_size or 224
    return CenteredBox(sides_of(size), share=1.0)
