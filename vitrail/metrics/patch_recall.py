"""Which patches hold an object, and which share of them a selection keeps.

Boxes are half-open `x0 y0 x1 y1` in pixels; a patch (row, column) of an image H x W on a grid Y x X covers the pixels
[row H / Y, (row + 1) H / Y) by [column W / X, (column + 1) W / X).

Rules, of a box or of the pixels of a class:

    any         it covers something of the patch
    fraction:t  it covers at least a share t of the patch's area, 0 < t <= 1
    center      it covers the patch's center
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

EPSILON = 1e-9  # shares are compared with this much room, so that exact ones are met in spite of rounding


def parse_rule(rule: str) -> tuple[str, float]:
    """A rule's name and its least share (0 where it has none). Raises `ValueError` for another word.

    >>> parse_rule("fraction:0.25")
    ('fraction', 0.25)
    """
    name, colon, share = rule.partition(":")
    if rule in ("any", "center"):
        return rule, 0.0
    try:
        least = float(share)
    except ValueError:
        least = math.nan
    if name != "fraction" or not colon or not 0 < least <= 1:
        raise ValueError(f"the rule is 'any', 'center' or 'fraction:t' with t in (0, 1], not {rule!r}")
    return name, least


def positive_patches(boxes: Tensor, size: tuple[int, int], grid: tuple[int, int], rule: str = "any") -> Tensor:
    """The patches that each box makes positive.

    Args:
        boxes: `[n, 4]`, pixels of an image of `size`; n may be 0. What lies outside of the image counts for nothing.
        size: height and width, pixels.
        grid: (Y, X).
        rule: see the module.

    Returns:
        Bool `[n, Y, X]`. A box without area has no positive patch.

    Raises:
        ValueError: boxes of another shape, or another rule.
    """
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"boxes must be [n, 4], not {list(boxes.shape)}")
    name, least = parse_rule(rule)
    boxes = boxes.double()
    down = _along(boxes[:, 1], boxes[:, 3], size[0], grid[0], name == "center")
    across = _along(boxes[:, 0], boxes[:, 2], size[1], grid[1], name == "center")
    return _positive(down[:, :, None] * across[:, None, :], name, least)


def positive_of_mask(mask: Tensor, ids: Sequence[int], grid: tuple[int, int], rule: str = "any") -> Tensor:
    """The patches that the pixels of each class make positive.

    Args:
        mask: class ids `[H, W]`, multiples of Y and X.
        ids: n classes.
        grid: (Y, X).
        rule: see the module; the center of an even number of pixels is the pixel right below and right of it.

    Returns:
        Bool `[n, Y, X]`.

    Raises:
        ValueError: a mask that the grid does not divide, or another rule.
    """
    name, least = parse_rule(rule)
    height, width = mask.shape
    if height % grid[0] or width % grid[1]:
        raise ValueError(
            f"a mask of {height} x {width} px does not divide into a grid of {grid[0]} x {grid[1]} patches"
        )
    tall, wide = height // grid[0], width // grid[1]
    cells = mask.reshape(grid[0], tall, grid[1], wide).transpose(1, 2)  # [Y, X, tall, wide]
    if name == "center":
        cells = cells[:, :, tall // 2, wide // 2, None, None]
    there = torch.tensor(list(ids), dtype=cells.dtype).view(-1, 1, 1, 1, 1) == cells
    return _positive(there.double().mean((3, 4)), name, least)


def recall(selected: Tensor, positive: Tensor) -> Tensor:
    """|selected and positive| / |positive|.

    Args:
        selected, positive: bool `[..., N]` that broadcast; flatten `[Y, X]` first.

    Returns:
        float64 `[...]` in [0, 1]; NaN where nothing is positive.

    Raises:
        ValueError: for anything but bool.
    """
    if selected.dtype != torch.bool or positive.dtype != torch.bool:
        raise ValueError(f"selected and positive are bool, not {selected.dtype} and {positive.dtype}")
    return (selected & positive).double().sum(-1) / positive.double().sum(-1)


def average(recalls: Tensor, classes: Tensor, positives: Tensor, how: str) -> Tensor:
    """Mean recall of pairs of image and class, exactly 1 where all of them are 1.

    Args:
        recalls: float64 `[..., P]`.
        classes: int64 `[P]`, of each pair.
        positives: `[P]`, how many patches are positive, at least 1.
        how: "macro": over the images of a class, then over classes; "micro": all positive patches are pooled, whatever
            class they are of.

    Returns:
        float64 `[...]`.

    Raises:
        ValueError: another word, or no pair.
    """
    _check_average(classes, how)
    if how == "micro":
        return (recalls * positives.double()).sum(-1) / positives.double().sum()
    _, place, counts = classes.unique(return_inverse=True, return_counts=True)
    sums = recalls.new_zeros(*recalls.shape[:-1], len(counts)).index_add_(-1, place, recalls)
    return (sums / counts).mean(-1)


def pair_weights(classes: Tensor, positives: Tensor, how: str) -> Tensor:
    """How much each pair counts in `average`, float64 `[P]`; the weights add up to 1. Arguments as there."""
    _check_average(classes, how)
    if how == "micro":
        return positives.double() / positives.double().sum()
    _, place, counts = classes.unique(return_inverse=True, return_counts=True)
    return 1 / (counts[place].double() * len(counts))


def random_error(positive: Tensor, images: Tensor, weights: Tensor, number: int) -> float:
    """Standard deviation of the averaged recall where each image's patches are drawn uniformly without replacement.

    The average is linear in what is selected, so its variance is exact: with v_j the weight that selecting patch j of
    an image adds, p = k / N, it is the sum over images of p (1 - p) N / (N - 1) (sum v^2 - (sum v)^2 / N). Classes that
    share an image share its draw, which is counted.

    Args:
        positive: bool `[P, N]`.
        images: int64 `[P]`, the image of each pair.
        weights: `[P]` of `pair_weights`.
        number: k.
    """
    patches = positive.shape[1]
    if patches == 1 or number == patches:
        return 0.0
    _, place = images.unique(return_inverse=True)
    share = positive.double() * (weights / positive.sum(1).double())[:, None]
    values = torch.zeros(int(place.max()) + 1, patches, dtype=torch.float64).index_add_(0, place, share)
    spread = values.square().sum(1) - values.sum(1).square() / patches
    chance = number / patches
    return math.sqrt(max(chance * (1 - chance) * patches / (patches - 1) * float(spread.sum()), 0.0))


def _check_average(classes: Tensor, how: str) -> None:
    if not len(classes):
        raise ValueError("there is no pair of image and class to average over")
    if how not in ("macro", "micro"):
        raise ValueError(f"average is 'macro' or 'micro', not {how!r}")


def _along(low: Tensor, high: Tensor, length: int, cells: int, center: bool) -> Tensor:
    """Share `[n, cells]` of each cell of a line that [low, high) covers, or whether it covers the cell's center."""
    step = length / cells
    start = torch.arange(cells, dtype=torch.float64) * step
    if center:
        middle = start + step / 2
        return ((middle >= low[:, None]) & (middle < high[:, None])).double()
    inside = torch.minimum(high[:, None], start + step) - torch.maximum(low[:, None], start)
    return inside.clamp(min=0) / step


def _positive(share: Tensor, name: str, least: float) -> Tensor:
    return share >= least - EPSILON if name == "fraction" else share > 0
