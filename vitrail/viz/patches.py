"""What rankers keep of images, side by side, and the score maps that they choose by.

A gallery has a row for each image and a column for each ranker; patches that are not kept lie behind a gray veil. A
score map is drawn from its lowest to its highest value, so maps of different rankers can be compared by their shape,
not by their height.

Source: the supplement of LTRP, Figures 10, 11 and 14.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from vitrail.viz.attention import overlay
from vitrail.viz.canvas import PAPER, Theme, as_map, fit, sheet, widened, wrapped
from vitrail.viz.masks import veiled


class Ranked(NamedTuple):
    """One image as one ranker sees it."""

    scores: Tensor  # [Y, X], finite, larger is kept first
    ids: Tensor  # int64 [k], the kept patches, raster order


def kept_patches(image: Image.Image, ranked: Ranked, *, veil: float = 0.9) -> Image.Image:
    """The image with the patches that are not kept behind a veil; its size stays."""
    rows, columns = ranked.scores.shape
    hidden = torch.ones(rows * columns, dtype=torch.bool)
    hidden[_inside(ranked.ids, rows * columns)] = False
    return veiled(image, hidden, (rows, columns), veil=veil)


def ranked_picture(
    image: Image.Image, ranked: Ranked, *, name: str = "scores", cell: int = 320, theme: Theme = PAPER
) -> Image.Image:
    """The image, its kept patches, and the score map over it, side by side with captions."""
    image = fit(image, cell)
    captions = ["image", f"kept: {len(ranked.ids)} of {ranked.scores.numel()} patches", f"{name}, {_range(ranked)}"]
    pictures = [image, kept_patches(image, ranked), overlay(image, ranked.scores)]
    return wrapped([widened(each, cell * 2 // 5, theme) for each in pictures], captions, 3, theme=theme)


def rankers_gallery(
    images: Sequence[Image.Image],
    ranked: Mapping[str, Sequence[Ranked]],
    *,
    maps: bool = True,
    titles: Sequence[str] = (),
    cell: int = 160,
    theme: Theme = PAPER,
) -> Image.Image:
    """What each ranker keeps of each image, and below each row the score maps.

    Args:
        images: at least one, any sizes.
        ranked: by the name of the ranker, one entry for each image; grids may differ between rankers.
        maps: whether score maps are drawn, too.
        titles: left of the rows, one for each image.
        cell: longer side of one picture, pixels.
        theme: `PAPER` or `LEAD`.

    Raises:
        ValueError: no image, no ranker, numbers of images that differ, or scores that are not finite.
    """
    if not images or not ranked:
        raise ValueError(f"a gallery of {len(images)} images and {len(ranked)} rankers is empty; give one of each")
    for name, entries in ranked.items():
        if len(entries) != len(images):
            raise ValueError(f"ranker {name!r} has {len(entries)} entries for {len(images)} images; give one for each")
    rows: list[list[Image.Image | None]] = []
    captions: list[list[str]] = []
    names: list[str] = []
    for number, image in enumerate(images):
        small = fit(image, cell)
        found = {name: entries[number] for name, entries in ranked.items()}
        kept = [small, *(kept_patches(small, each) for each in found.values())]
        rows.append([widened(each, cell * 2 // 5, theme) for each in kept])
        captions.append(["image", *(f"{name}, {_share(each)}" for name, each in found.items())])
        names.append(titles[number] if titles else "")
        if maps:
            rows.append([None, *(overlay(small, each.scores) for each in found.values())])
            captions.append(["", *(_range(each) for each in found.values())])
            names.append("")
    return sheet(rows, captions=captions, row_titles=names if titles else (), theme=theme)


def _share(ranked: Ranked) -> str:
    return f"{len(ranked.ids)} of\u00a0{ranked.scores.numel()}"


def _range(ranked: Ranked) -> str:
    values = as_map(ranked.scores, "scores")
    if values.max() == values.min():
        return "all scores equal"
    return f"{values.min():.3g} to {values.max():.3g}"


def _inside(ids: Tensor, count: int) -> Tensor:
    if ids.ndim != 1 or ids.dtype != torch.int64 or (ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < count):
        raise ValueError(f"ids are {ids.dtype} {list(ids.shape)}; they are int64 [k], patches 0 to {count - 1}")
    return ids.cpu()
