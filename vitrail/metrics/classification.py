"""Right or wrong: top-k accuracy and the confusion matrix.

Traps that these functions avoid: ranking a label by "how many classes score strictly higher" calls a constant
prediction 100 % right; `topk` on scores with NaN calls the NaN class the best.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def topk_correct(scores: Tensor, labels: Tensor, k: int) -> Tensor:
    """Whether the label is among the k best classes.

    Args:
        scores: `[..., Q, C]`, higher is better. A row that holds NaN is wrong.
        labels: `[Q]` int64 class ids.
        k: 1 to C.

    Returns:
        Bool `[..., Q]`. Exactly k classes are chosen per row; of equal scores the lower class ids.

    Raises:
        ValueError: k outside 1..C, or shapes that do not fit.
    """
    classes = scores.shape[-1]
    if not 1 <= k <= classes:
        raise ValueError(f"k = {k} is outside 1..{classes}, the number of classes; choose a smaller k")
    if labels.shape != scores.shape[-2:-1]:
        raise ValueError(f"{tuple(labels.shape)} labels do not fit scores of shape {tuple(scores.shape)}")
    # Not topk: which of equal scores it takes is undefined, and the votes of few neighbors are full of equal
    # zeros.
    filled = scores.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    best = filled.argsort(dim=-1, descending=True, stable=True)[..., :k]
    return (best == labels[..., None]).any(-1) & ~scores.isnan().any(-1)


def topk_accuracy(scores: Tensor, labels: Tensor, ks: Sequence[int] = (1, 5)) -> dict[int, float]:
    """Top-k accuracy in percent, for each k; a k that holds every class says nothing and is left out.

    Args:
        scores: `[Q, C]`, higher is better.
        labels: `[Q]` int64 class ids.
        ks: the k's to report.

    Raises:
        ValueError: no rows.
    """
    if not len(scores):
        raise ValueError("the accuracy of 0 predictions is undefined; give at least one")
    kept = [k for k in ks if k == 1 or k < scores.shape[-1]]
    return {k: 100.0 * topk_correct(scores, labels, k).sum().item() / len(scores) for k in kept}


def confusion_matrix(predicted: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Counts `[C, C]` int64: row is the true class, column the predicted one.

    Args:
        predicted, labels: `[Q]` int64 in 0..classes-1.

    Raises:
        ValueError: an id outside 0..classes-1.
    """
    both = torch.stack([labels.flatten(), predicted.flatten()])
    if both.numel() and (int(both.min()) < 0 or int(both.max()) >= classes):
        raise ValueError(f"class ids {int(both.min())}..{int(both.max())} do not fit {classes} classes")
    return torch.bincount(both[0] * classes + both[1], minlength=classes * classes).reshape(classes, classes)
