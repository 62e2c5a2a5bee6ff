"""What a reconstruction loses with one visible patch more: rows of pictures, the patch that is gone in red.

Figure 13 of LTRP's supplement: the image, its reconstruction, two that change much and one that hardly does; here the
patches that are visible at all stand beside the image, and below each reconstruction where it changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from vitrail.ops.patches import grid_of
from vitrail.viz.canvas import (
    PAPER,
    Theme,
    as_map,
    enlarge,
    fit,
    heading,
    paint,
    sheet,
    stacked,
    to_image,
    to_unit,
)
from vitrail.viz.masks import veiled
from vitrail.viz.reconstruction import UNNORMALIZED, Reconstructed, reconstructed_images

RED = (214, 40, 40)


class Removed(NamedTuple):
    """A batch of images with one visible patch taken away, and what is reconstructed from the others."""

    patch: Tensor  # int64 [B], its id
    change: Tensor  # [B], how much the reconstruction changes
    predictions: Tensor  # [B, N, P]; only those of hidden patches are looked at
    name: str = ""  # of the change, for captions: "largest", "smallest"


def removal_gallery(
    images: Tensor,
    anchor: Reconstructed,
    removed: Sequence[Removed],
    patch: tuple[int, int],
    *,
    normalized: bool,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    titles: Sequence[str] = (),
    cell: int = 160,
    theme: Theme = PAPER,
) -> Image.Image:
    """The image, its visible patches, what is made of them, and of all but one, in turn: two rows for each image.

    The second row has a map below each removal: the change of each hidden patch, whose mean is the number above, from
    none to the largest of the image. Visible patches are gray there.

    Args:
        images: `[B, 3, H, W]`, B at least 1, as the backbone saw them.
        anchor: what is hidden, and the predictions from all that is visible.
        removed: one for each column.
        patch: (height, width) in pixels.
        normalized: predictions are normalized within each patch: each hidden patch gets its own mean and spread back.
        mean, std: per channel, as the pixels were normalized; None where they were not.
        titles: left of the rows, one for each image.
        cell: longer side of one picture, pixels.
        theme: `PAPER` or `LEAD`.

    Raises:
        ValueError: no image, a removed patch that is hidden anyway, or parts that do not fit one another.
    """
    if not len(images):
        raise ValueError("there is nothing to draw of 0 images; give one")
    images, hidden = images.float().cpu(), anchor.hidden.cpu()
    grid = grid_of(images.shape[-2], images.shape[-1], patch)
    columns = [
        reconstructed_images(images, Reconstructed(hidden, each.detach().cpu()), patch, normalized=normalized)
        for each in (anchor.predictions, *(one.predictions for one in removed))
    ]
    rows: list[list[Image.Image | None]] = []
    captions: list[list[str]] = []
    for number, pixels in enumerate(images):
        image = fit(to_image(pixels, mean, std), cell)
        made = [fit(to_image(column[number], mean, std), cell) for column in columns]
        for place, one in enumerate(removed, 1):
            made[place] = _marked(made[place], int(one.patch[number]), hidden[number], grid)
        rows.append([image, veiled(image, hidden[number], grid, veil=1.0), *made])
        changes = [f"without one: {one.name} change\u00a0{float(one.change[number]):.4f}" for one in removed]
        captions.append(["image", f"{int((~hidden[number]).sum())} visible patches", "from them", *changes])
        maps = [_change(one.predictions[number], anchor.predictions[number], hidden[number]) for one in removed]
        top = max((float(each.max()) for each in maps), default=0.0)
        below = [_drawn(each, top, hidden[number], grid, image.size) for each in maps]
        rows.append(
            [None] * 3 + [_marked(a, int(b.patch[number]), hidden[number], grid) for a, b in zip(below, removed)]
        )
        captions.append([""] * 3 + [f"where: up to {float(each.max()):.4f}" for each in maps])
    names = [word for title in titles for word in (title, "")]
    body = sheet(rows, captions=captions, row_titles=names, theme=theme)
    return stacked([body, heading(_words(normalized), body.width, theme=theme, size=13, gap=12)], theme)


def _marked(picture: Image.Image, patch: int, hidden: Tensor, grid: tuple[int, int]) -> Image.Image:
    if not 0 <= patch < len(hidden) or bool(hidden[patch]):
        raise ValueError(f"patch {patch} is to be removed, and it is not visible; choose a visible one")
    elsewhere = torch.arange(len(hidden)) != patch
    red = Image.new("RGB", picture.size, RED)
    stencil = veiled(Image.new("RGB", picture.size, (0, 0, 0)), elsewhere, grid, veil=1.0).convert("L")
    return Image.composite(picture, red, stencil.point(lambda value: 255 if value else 0))


def _change(predictions: Tensor, anchor: Tensor, hidden: Tensor) -> Tensor:
    """`[N]`, mean absolute difference within each patch; 0 for visible ones."""
    return (predictions.detach() - anchor.detach()).float().cpu().abs().mean(1) * hidden


def _drawn(values: Tensor, top: float, hidden: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Image.Image:
    colors = paint(enlarge(to_unit(as_map(values.view(grid)), 0.0, top), size), "viridis")  # has no red of its own
    return veiled(colors, ~hidden, grid, veil=1.0)


def _words(normalized: bool) -> str:
    unit = "patches normalized one by one" if normalized else "normalized pixels"
    put_back = [UNNORMALIZED] if normalized else []
    return " ".join(
        [
            "The patch that was taken away is red. Visible patches are pasted in.",
            *put_back,
            "Change: mean absolute difference of the hidden patches from the reconstruction with all visible ones, in "
            f"{unit}. Below: the same patch by patch, dark for none, yellow for the image's largest.",
            "Visible patches are gray there.",
        ]
    )
