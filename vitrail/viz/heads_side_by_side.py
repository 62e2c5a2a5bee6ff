"""Every head of several networks on the same image: a row for each network, a column for each head.

The layout of SAR's Fig. 4 and 6 to 8, turned: there the networks stand beside each other, here below, so that any
number of them and of heads fits on a page. Networks need not have the same heads, patches or grids of keys: each map
covers the whole image, its rows and columns stand below the network's name, and the means of heads below each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from PIL import Image
from torch import Tensor

from vitrail.viz.canvas import PAPER, Array, Theme, fit, sheet, stacked, widened
from vitrail.viz.heads import Overlays

_NARROWEST = 100  # pixels, so that captions below a tall image have room


def heads_side_by_side(
    image: Image.Image,
    scores: Mapping[str, Tensor | Array],
    overlays: Overlays,
    *,
    cell: int = 112,
    theme: Theme = PAPER,
) -> Image.Image:
    """One image, and what each head of each network makes of it.

    Args:
        image: any size.
        scores: by the networks' names, CLS scores before the softmax, `[H, Y, X]`, each of its own grid.
        overlays: what is drawn of them.
        cell: longer side of one picture, pixels.
        theme: `PAPER` or `LEAD`.

    Raises:
        ValueError: no network, or scores that cannot be drawn.
    """
    if not scores:
        raise ValueError("give the scores of at least one network")
    small = fit(image, cell)
    most = max(len(found) for found in scores.values())
    rows: list[list[Image.Image | None]] = []
    captions: list[list[str]] = []
    titles: list[str] = []
    for name, found in scores.items():
        pictures, words = overlays(small, found)
        first = None if rows else widened(small, _NARROWEST, theme)
        drawn, heads = [widened(each, _NARROWEST, theme) for each in pictures], len(found)
        rows.append([first, *drawn[:heads], *[None] * (most - heads), *drawn[heads:]])
        captions.append(["" if captions else "image", *words[:heads], *[""] * (most - heads), *words[heads:]])
        titles.append(f"{name}\nmaps of {found.shape[1]}\u00a0x\u00a0{found.shape[2]}")
    return sheet(rows, captions=captions, row_titles=titles, theme=theme)


def heads_of_images(
    images: Sequence[Image.Image],
    scores: Mapping[str, Sequence[Tensor | Array]],
    overlays: Overlays,
    *,
    cell: int = 112,
    theme: Theme = PAPER,
) -> Image.Image:
    """`heads_side_by_side` of several images, one below the other; each network has one entry for each image.

    Raises `ValueError` as that, and where a network has seen another number of images.
    """
    for name, found in scores.items():
        if len(found) != len(images):
            raise ValueError(f"{name!r} has seen {len(found)} of {len(images)} images; give its scores of each")
    parts = [
        heads_side_by_side(
            image, {name: found[place] for name, found in scores.items()}, overlays, cell=cell, theme=theme
        )
        for place, image in enumerate(images)
    ]
    return stacked(parts, theme)
