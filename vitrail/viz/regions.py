"""Where most of each head's attention lies: the fewest patches that hold a share of it.

This is how DINO shows attention, and SAR counts it (Fig. 1 and Table 6: 60 % of the mass). What is kept is colored from
purple to yellow by its weight, what is left out is dark gray. The caption gives the share of the patches that are kept
and the number of 8-connected parts that they make: attention that gathers on objects needs few patches in few parts.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vitrail.ops.attention_mass import mass_mask
from vitrail.ops.components import connected_components
from vitrail.viz.attention import attention_maps, with_mean
from vitrail.viz.canvas import PAPER, Array, Theme, enlarge, grayed, paint, to_unit
from vitrail.viz.heads import each_head
from vitrail.viz.percent import percent

_DARKEST = 0.35  # of the colormap: a kept patch of little weight is told from the dark of those left out
_REST = (22, 25, 31)


def attention_regions(
    image: Image.Image,
    scores: Tensor | Array,
    *,
    mass: float = 0.6,
    columns: int = 5,
    cell: int = 224,
    theme: Theme = PAPER,
) -> Image.Image:
    """The image, and over it the patches that hold most of each head's attention, and of the mean of the heads.

    Args:
        image: what the scores were computed from.
        scores: CLS scores before the softmax, `[H, Y, X]`; any grid, which covers all of the image.
        mass: share of the attention that is kept, in (0, 1].
        columns: pictures in a row.
        cell: longer side of one picture, in pixels.

    Raises:
        ValueError: scores of another shape, NaN or infinite scores, a share outside (0, 1].
    """
    overlays = partial(region_overlays, mass=mass)
    return each_head(image, scores, overlays, columns=columns, cell=cell, theme=theme)


def region_overlays(
    image: Image.Image, scores: Tensor | Array, *, mass: float = 0.6, mean: bool = True
) -> tuple[list[Image.Image], list[str]]:
    """The same, as one picture and one caption per map, at the image's size."""
    pictures, captions = [], []
    for name, weights in with_mean(attention_maps(scores), mean).items():
        kept = mass_mask(torch.from_numpy(weights), mass, dims=2)
        parts = int(connected_components(kept).max())
        pictures.append(_over(image, weights, kept.numpy()))
        share = percent(float(kept.double().mean()))
        captions.append(f"{name}, {share} of patches, {parts}\u00a0part{'s' * (parts != 1)}")
    return pictures, captions


def _over(image: Image.Image, weights: Array, kept: Array) -> Image.Image:
    """Kept patches in color, the others dark, over the grayed image."""
    gray = grayed(image)
    low, high = float(weights[kept].min()), float(weights.max())
    light = _DARKEST + (1 - _DARKEST) * (to_unit(weights, low, high) if low < high else np.ones_like(weights))
    color = paint(enlarge(light, image.size))
    inside = Image.fromarray((enlarge(kept.astype(np.float64), image.size) > 0.5).astype(np.uint8) * 255)
    outside = Image.blend(gray, Image.new("RGB", image.size, _REST), 0.65)
    return Image.composite(Image.blend(gray, color, 0.75), outside, inside)
