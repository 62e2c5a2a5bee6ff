"""Several labels an image: average precision of each class, its mean, and F1, over a whole set at once.

AP of a class = sum over thresholds of (recall here - recall before) * precision here, thresholds being the scores in
descending order; images of equal scores enter together, so that their order decides nothing and a constant score gets
the share of positives. Source: Salton and McGill, 1983; the same sum as `average_precision_score` of scikit-learn.

F1 is the harmonic mean of precision and recall, of classes (CF1: both are means over classes) and overall (OF1: all
pairs of image and class are pooled), as Wang et al. 2016 (arXiv 1604.04573) report it.

Traps that these functions avoid: a mean over batches, which is another number for every batch size, and classes
without a positive, which have no precision and must not count as 0.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class MeanPrecision(NamedTuple):
    """What `mean_average_precision` returns; percent."""

    mean: float
    per_class: Tensor  # [C] float64, NaN where a class has no positive
    without: tuple[int, ...]  # classes without a positive: they are in no mean


class F1(NamedTuple):
    """What `f1` returns; percent."""

    of_classes: float  # CF1
    overall: float  # OF1


def average_precision(scores: Tensor, targets: Tensor) -> Tensor:
    """Average precision of each class, float64 `[C]` in [0, 1]; NaN where no image has the label.

    Args:
        scores: `[N, C]` of ALL images of a set, higher is surer; infinite ones may be among them.
        targets: `[N, C]`, 1 or True where the image has the label.

    Raises:
        ValueError: shapes that differ, no image, or scores that are NaN.
    """
    if scores.ndim != 2 or scores.shape != targets.shape or not scores.numel():
        raise ValueError(
            f"scores are {list(scores.shape)} and targets {list(targets.shape)}; both are [N, C] with at least one "
            "image and one class"
        )
    if bool(scores.isnan().any()):
        images = scores.isnan().any(1).nonzero().flatten().tolist()
        raise ValueError(f"scores of {len(images)} images are NaN, first of image {images[0]}; look at the weights")
    columns, hits = scores.T.contiguous(), targets.T.to(torch.float64)
    values, order = columns.sort(dim=1)
    above = hits.gather(1, order).flip(1).cumsum(1)  # positives among the 1, 2, ... best
    # How many images score at least as much as each one: those of equal scores, all.
    number = scores.shape[0] - torch.searchsorted(values, columns)
    precision = above.gather(1, number - 1) / number
    return (precision * hits).sum(1) / hits.sum(1)


def mean_average_precision(scores: Tensor, targets: Tensor) -> MeanPrecision:
    """The mean over all classes that have a positive; arguments as those of `average_precision`.

    Raises:
        ValueError: as `average_precision`, and where no image has any label.
    """
    found = average_precision(scores, targets) * 100
    missing = found.isnan()
    if bool(missing.all()):
        raise ValueError(f"none of {len(scores)} images has any of the {len(found)} labels; there is no precision")
    return MeanPrecision(found[~missing].mean().item(), found, tuple(missing.nonzero().flatten().tolist()))


def f1(predicted: Tensor, targets: Tensor) -> F1:
    """F1 of labels that were given, of classes and overall.

    Args:
        predicted: bool `[N, C]` of ALL images of a set; the usual rule is a probability above one half.
        targets: `[N, C]`, 1 or True where the image has the label.

    Returns:
        CF1 is of the mean precision and the mean recall over the classes that have a positive; a class that is never
        given has precision 0. In OF1 labels of the other classes count, too: those that are given are wrong. Both are 0
        where nothing is right.

    Raises:
        ValueError: shapes that differ, another type, or no positive.
    """
    if predicted.dtype != torch.bool or predicted.ndim != 2 or predicted.shape != targets.shape:
        raise ValueError(
            f"predicted are {predicted.dtype} {list(predicted.shape)} and targets {list(targets.shape)}; give bool "
            "[N, C] of one shape"
        )
    hits = targets.bool()
    right, given, there = ((predicted & hits).sum(0).double(), predicted.sum(0).double(), hits.sum(0).double())
    known = there > 0
    if not bool(known.any()):
        raise ValueError(f"none of {len(targets)} images has any of the {targets.shape[1]} labels; there is no recall")
    precision, recall = right[known] / given[known].clamp(min=1), right[known] / there[known]
    return F1(
        _harmonic(precision.mean().item(), recall.mean().item()),
        _harmonic((right.sum() / given.sum().clamp(min=1)).item(), (right.sum() / there.sum()).item()),
    )


def _harmonic(precision: float, recall: float) -> float:
    return 200 * precision * recall / (precision + recall) if precision + recall else 0.0
