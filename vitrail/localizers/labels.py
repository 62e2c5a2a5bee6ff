"""Labels of images, where a map belongs to a class."""

from __future__ import annotations

import torch
from torch import Tensor


def check_labels(labels: Tensor | None, images: int, classes: int) -> None:
    """Refuse labels that are no int64 `[B]` from 0 to K - 1, by `ValueError`; None passes.

    Args:
        labels: anything that was given.
        images: B.
        classes: K, of the classifier.
    """
    if labels is None:
        return
    if labels.shape != (images,) or labels.dtype != torch.int64:
        raise ValueError(
            f"labels are {list(labels.shape)} of {labels.dtype} for {images} images; give int64 [{images}], or None "
            "for the predicted classes"
        )
    low, high = (int(labels.min()), int(labels.max())) if images else (0, 0)
    if not 0 <= low <= high < classes:
        raise ValueError(
            f"labels are {low} to {high}, and the classifier has 0 to {classes - 1}; is it of another data set?"
        )
