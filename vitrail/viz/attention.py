"""Where each head's CLS token looks: attention over the image.

A map is the softmax of one head's CLS scores over the patches. That leaves the CLS token's own key out, which
scales all patches by one factor and changes no picture. Each map is drawn from its lowest to its highest
weight, and the caption states the highest, and what each patch would have if all had the same: a map that is almost
uniform would otherwise look as sharp as any other.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from PIL import Image
from torch import Tensor

from vitrail.viz.canvas import PAPER, Array, Theme, as_map, as_maps, enlarge, grayed, paint, to_unit
from vitrail.viz.heads import each_head
from vitrail.viz.percent import percent


def attention_maps(scores: Tensor | Array) -> Array:
    """Attention of each head: softmax over the patches.

    Args:
        scores: CLS scores before the softmax, `[H, Y, X]`.

    Returns:
        float64 `[H, Y, X]`; each map sums to 1.

    Raises:
        ValueError: another shape, NaN or infinite scores.
    """
    values = as_maps(scores, "scores")
    weights = np.exp(values - values.max((1, 2), keepdims=True))
    result: Array = weights / weights.sum((1, 2), keepdims=True)
    return result


def overlay(
    image: Image.Image,
    values: Tensor | Array,
    *,
    smooth: bool = False,
    opacity: float = 0.7,
    colormap: str = "inferno",
    low: float | None = None,
    high: float | None = None,
) -> Image.Image:
    """A map in color over the grayed image, at the image's size.

    Args:
        image: what the map was computed from.
        values: `[Y, X]`, finite; any grid, stretched over the image.
        smooth: bicubic instead of the patches as they are.
        opacity: of the map's color, in [0, 1]; the same everywhere, so that equal colors mean equal values.
        colormap: one of matplotlib's; the default is perceptually uniform.
        low, high: values of the ends of the colormap; the map's own lowest and highest by default.
    """
    color = paint(enlarge(to_unit(as_map(values), low, high), image.size, smooth), colormap)
    return Image.blend(grayed(image), color, opacity)


def attention_heads(
    image: Image.Image,
    scores: Tensor | Array,
    *,
    smooth: bool = False,
    mean: bool = True,
    columns: int = 5,
    cell: int = 224,
    opacity: float = 0.7,
    colormap: str = "inferno",
    theme: Theme = PAPER,
) -> Image.Image:
    """The image, every head's attention, and the mean over heads, side by side.

    Args:
        image: what the scores were computed from.
        scores: CLS scores before the softmax, `[H, Y, X]`.
        smooth: bicubic instead of the patches as they are.
        mean: whether the mean of the heads' attention is shown where there are several.
        columns: pictures in a row.
        cell: longer side of one picture, in pixels.

    Returns:
        An RGB picture; captions give the highest weight of each map in percent of the patches' attention, and the
        uniform one, 1 over the number of patches.

    Raises:
        ValueError: scores of another shape, NaN or infinite scores.
    """
    overlays = partial(attention_overlays, smooth=smooth, mean=mean, opacity=opacity, colormap=colormap)
    return each_head(image, scores, overlays, columns=columns, cell=cell, theme=theme)


def attention_overlays(
    image: Image.Image,
    scores: Tensor | Array,
    *,
    smooth: bool = False,
    mean: bool = True,
    opacity: float = 0.7,
    colormap: str = "inferno",
) -> tuple[list[Image.Image], list[str]]:
    """The same, as one picture and one caption per map, at the image's size; scores of any grid cover all of it."""
    pictures, captions = [], []
    for name, values in with_mean(attention_maps(scores), mean).items():
        pictures.append(overlay(image, values, smooth=smooth, opacity=opacity, colormap=colormap))
        captions.append(f"{name}, {peak(values)}")
    return pictures, captions


def with_mean(maps: Array, mean: bool = True) -> dict[str, Array]:
    """Maps `[H, Y, X]` by the names of their heads and, where there are several, their mean."""
    shown = {f"head {number}": values for number, values in enumerate(maps)}
    return shown | ({f"mean of {len(maps)} heads": maps.mean(0)} if mean and len(maps) > 1 else {})


def peak(weights: Array) -> str:
    """The highest weight in words, and the mean one: `max 4.1 %, uniform 1.6 %`; or that all are the same."""
    uniform = percent(1 / weights.size)
    if weights.max() - weights.min() <= 1e-9 * weights.max():
        return f"uniform,\u00a0{uniform}"
    return f"max\u00a0{percent(float(weights.max()))}, uniform\u00a0{uniform}"
