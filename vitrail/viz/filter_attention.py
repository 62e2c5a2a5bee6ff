"""What an object-aware filter sees beside the self-attention: which patches ask which prototypes.

The first row of a sheet has the image and the class token's attention in the last block, a map for each head, each from
its lowest to its highest weight. Each further row belongs to a prototype: how much each patch takes of it, first the
mean over the filter's heads, then each head. At a patch these shares sum to 1 over all M prototypes, so one that is not
preferred has 1 / M or less. All maps have one scale, from 1 / M to the highest share, or to 2 / M where that is more: a
prototype whose object is not in the image stays dark, and so does a filter that has not learned yet.

Source: CoTAP, Figures 8 and 11. The paper picks prototypes by eye; here the most used ones are drawn.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from vitrail.viz.attention import attention_maps, overlay, peak
from vitrail.viz.canvas import PAPER, Array, Theme, fit, heading, sheet, stacked, widened
from vitrail.viz.percent import percent


def most_used(attention: Sequence[Tensor], count: int = 6) -> list[int]:
    """The prototypes of which patches take most, over images and heads, the first most.

    Args:
        attention: per image `[heads, M, Y, X]`; sizes may differ, prototypes may not.
        count: how many; all of them where there are fewer.

    Raises:
        ValueError: no image, another shape, NaN or infinite shares, or numbers of prototypes that differ.
    """
    numbers = sorted({_checked(each).shape[1] for each in attention})
    if len(numbers) != 1:
        raise ValueError(f"filters have {numbers or 'no'} prototypes; take all images from the same backbone")
    shares = torch.stack([each.double().mean((0, 2, 3)).cpu() for each in attention]).mean(0)
    return shares.argsort(descending=True, stable=True)[:count].tolist()


def filter_sheet(
    image: Image.Image,
    scores: Tensor | Array,
    attention: Tensor,
    prototypes: Sequence[int],
    *,
    highest: float | None = None,
    cell: int = 128,
    theme: Theme = PAPER,
) -> Image.Image:
    """The image, the self-attention of each head, and a row for each prototype.

    Args:
        image: what both were computed from.
        scores: CLS scores of the last block before the softmax, `[H, Y, X]`.
        attention: `[heads, M, Y, X]`, as `TimmViT.prototype_attention` gives it for one image.
        prototypes: which ones, 0 to M - 1, at least one.
        highest: share at the end of the prototypes' scale, for several images on one; the highest drawn by default.
        cell: longer side of one picture, pixels.

    Returns:
        An RGB picture; captions give the highest value of each map.

    Raises:
        ValueError: prototypes that are not there, shapes that do not fit, NaN or infinite values.
    """
    rows = prototype_maps(attention, prototypes)
    small = fit(image, cell)
    own = attention_maps(scores)
    pictures: list[list[Image.Image | None]] = [[small, *(overlay(small, each) for each in own)]]
    captions = [["image", *(f"head {number}, {peak(each)}" for number, each in enumerate(own))]]
    titles = ["self-attention of the class token"]
    even = 1 / attention.shape[1]
    highest = max(float(rows.max()) if highest is None else highest, 2 * even)
    for number, maps in zip(prototypes, rows):
        shown = [overlay(small, each, low=even, high=highest) for each in maps.numpy()]
        several = len(maps) > 2
        pictures.append(list(shown if several else shown[:1]))
        names = ["mean", *(f"head {head}" for head in range(len(maps) - 1))][: len(pictures[-1])]
        captions.append([f"{name}, {_most(each)}" for name, each in zip(names, maps)])
        titles.append(f"prototype {number}")
    cells = [[None if each is None else widened(each, cell * 4 // 5, theme) for each in row] for row in pictures]
    table = sheet(cells, captions=captions, row_titles=titles, theme=theme)
    words = (
        f"What patches take of {attention.shape[1]} prototypes: black is {percent(even)}, an equal share, or less; "
        f"light is {percent(highest)}"
    )
    return stacked([heading(words, table.width, theme=theme), table], theme)


def prototype_maps(attention: Tensor, prototypes: Sequence[int]) -> Tensor:
    """Mean over heads, then each head, of chosen prototypes: float64 `[P, 1 + heads, Y, X]`. Errors as `filter_sheet`.

    Where heads are one, it stands there twice.
    """
    values = _checked(attention)
    count = values.shape[1]
    if not prototypes or not all(0 <= number < count for number in prototypes):
        raise ValueError(f"prototypes {list(prototypes)} are asked for; there are 0 to {count - 1}, name at least one")
    chosen = values[:, list(prototypes)].transpose(0, 1)
    return torch.cat((chosen.mean(1, keepdim=True), chosen), dim=1)


def _checked(attention: Tensor) -> Tensor:
    values = attention.detach().double().cpu()
    if values.ndim != 4 or 0 in values.shape:
        raise ValueError(f"attention has shape {list(values.shape)}, not [heads, M, Y, X]; take one image of a batch")
    if not values.isfinite().all():
        raise ValueError("attention to prototypes holds NaN or infinite values; check the weights, or use fp32")
    return values


def _most(values: Tensor) -> str:
    low, high = float(values.min()), float(values.max())
    return f"{percent(high)} everywhere" if high - low <= 1e-9 * high else f"at most {percent(high)}"
