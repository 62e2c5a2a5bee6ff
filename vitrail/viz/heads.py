"""One image, and a picture of what each head of a network makes of it, side by side."""

from __future__ import annotations

from collections.abc import Callable

from PIL import Image
from torch import Tensor

from vitrail.viz.canvas import PAPER, Array, Theme, fit, wrapped

Overlays = Callable[[Image.Image, Tensor | Array], tuple[list[Image.Image], list[str]]]
"""`attention_overlays`, `region_overlays` or `blob_overlays`: from image and scores `[H, Y, X]` to pictures and
captions, those of the H heads first, then that of their mean, if any."""


def each_head(
    image: Image.Image,
    scores: Tensor | Array,
    overlays: Overlays,
    *,
    columns: int = 5,
    cell: int = 224,
    theme: Theme = PAPER,
) -> Image.Image:
    """The image and its overlays with their captions.

    Args:
        image: what the scores were computed from.
        scores: CLS scores before the softmax, `[H, Y, X]`; any grid, which covers all of the image.
        overlays: what is drawn of them.
        columns: pictures in a row.
        cell: longer side of one picture, pixels.
        theme: `PAPER` or `LEAD`.

    Raises:
        ValueError: scores that cannot be drawn.
    """
    image = fit(image, cell)
    pictures, captions = overlays(image, scores)
    return wrapped([image, *pictures], ["image", *captions], min(columns, len(pictures) + 1), theme=theme)
