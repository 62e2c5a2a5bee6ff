"""What an object-aware filter sees: in image files for `vitrail show filter`, in held-out images for a run's page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from vitrail.backbones import TimmViT
from vitrail.contracts import ImageSet
from vitrail.recipes.files import stems
from vitrail.recipes.look import Seen, different, open_images, pixels_of, see
from vitrail.recipes.weights import open_backbone
from vitrail.viz.canvas import stacked
from vitrail.viz.filter_attention import filter_sheet, most_used, prototype_maps

SHOWN = 6
"""Prototypes that are drawn where none are named."""


class Filtered(NamedTuple):
    """One image as a backbone with a filter saw it."""

    seen: Seen
    attention: Tensor  # [heads, M, Y, X] on the host


@torch.no_grad()
def filtered(backbone: TimmViT, image: Image.Image, size: int | None = None) -> Filtered:
    """Resize as `see` does, and ask both attentions. `ValueError` for a backbone without a filter."""
    seen = see(backbone, image, size)
    return Filtered(seen, backbone.prototype_attention(pixels_of(backbone, seen.image))[0].cpu())


def draw_filter(
    paths: Sequence[Path],
    weights: str,
    out: Path,
    *,
    prototypes: str | None = None,
    model: str | None = None,
    key: str = "auto",
    size: int | None = None,
    device: str = "auto",
) -> list[Path]:
    """One PNG an image, IMAGE-filter.png, all with the same prototypes on one scale; returns the PNGs' paths.

    Args:
        prototypes: numbers with commas; None for those most used over all images.

    Raises:
        ValueError: weights without a filter, prototypes that are not there, no image that can be read.
    """
    backbone = open_backbone(weights, model=model, key=key, device=device)
    if not isinstance(backbone, TimmViT) or backbone.object_filter is None:
        raise ValueError(
            f"{weights} has no object-aware filter, so there is nothing to show; take a run of CoTAP with one "
            "(object_filter is not null), or see `vitrail show attention`"
        )
    named = _numbers(prototypes, len(backbone.object_filter.prototypes))
    opened = open_images(paths, whole=True)
    found = [filtered(backbone, image, size) for image in opened.values()]
    out.mkdir(parents=True, exist_ok=True)
    written = [out / f"{stem}-filter.png" for stem in stems(list(opened))]
    for path, picture in zip(
        written, filter_sheets(found, named or most_used([each.attention for each in found], SHOWN))
    ):
        picture.save(path)
    return written


def filter_page(backbone: TimmViT, data: ImageSet, count: int = 3, size: int | None = None) -> Image.Image:
    """The first images of different classes of a set, one below the other, with the four most used prototypes."""
    was_training = backbone.training
    backbone.eval()
    found = [filtered(backbone, data[index].image, size) for index in different(data, count)]
    backbone.train(was_training)
    return stacked(filter_sheets(found, most_used([each.attention for each in found], 4)))


def filter_sheets(found: Sequence[Filtered], chosen: Sequence[int]) -> list[Image.Image]:
    """A sheet for each image, all with the same prototypes on one scale."""
    highest = max(float(prototype_maps(each.attention, chosen).max()) for each in found)
    return [
        filter_sheet(each.seen.image, each.seen.tokens.scores[-1][0], each.attention, chosen, highest=highest)
        for each in found
    ]


def _numbers(words: str | None, count: int) -> list[int]:
    if words is None:
        return []
    parts = [part.strip() for part in words.split(",")]
    if not all(part.isdigit() and int(part) < count for part in parts):
        raise ValueError(f"--prototypes {words!r} are not numbers from 0 to {count - 1} with commas, such as 0,3,7")
    return [int(part) for part in parts]
