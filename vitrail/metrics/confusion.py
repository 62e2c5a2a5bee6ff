"""Which class was taken for which, counted over all pixels of a data set, and the IoU that follows.

With n_tp the pixels of class t that were called p, over the whole set:

    IoU_c = n_cc / (sum_p n_cp + sum_t n_tc - n_cc)       recall_c = n_cc / sum_p n_cp
    mIoU  = mean of IoU_c          accuracy = sum_c n_cc / sum n          mean accuracy = mean of recall_c

A trap that this avoids: the mean over images of each image's own IoU is another number. There a class that covers two
pixels of an image counts as much as one that fills it.

Source: Everingham et al. 2010, the VOC challenge; Long et al. 2015 (arXiv 1411.4038) for the three means.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from vitrail.nn.across import summed


class Scores(NamedTuple):
    """What a confusion matrix says; percent."""

    miou: float  # mean over the classes that are in truth or prediction
    accuracy: float  # share of the known pixels that are right
    mean_accuracy: float  # mean recall of the classes that are in the truth
    iou: tuple[float | None, ...]  # [C]; None for a class that is neither in truth nor in prediction
    recall: tuple[float | None, ...]  # [C]; None for a class that is not in the truth


class Confusion:
    """Counts `[C, C]` int64 over images: row is the true class, column the predicted one."""

    def __init__(self, classes: int, counts: Tensor | None = None) -> None:
        """Args:
            classes: C, at least 1.
            counts: to begin with; zeros by default.

        Raises `ValueError` for counts of another shape.
        """
        if classes < 1 or (counts is not None and counts.shape != (classes, classes)):
            shape = None if counts is None else list(counts.shape)
            raise ValueError(f"{classes} classes and counts of shape {shape}; give at least 1 class and [C, C] counts")
        self.classes = classes
        self.counts = torch.zeros(classes, classes, dtype=torch.int64) if counts is None else counts.long().cpu()

    def add(self, predicted: Tensor, truth: Tensor) -> None:
        """Count the pixels of an image, or of several.

        Args:
            predicted: integer class ids of any shape, in 0..C-1.
            truth: of the same shape, in 0..C-1; pixels with a negative one are passed over.

        Raises:
            ValueError: shapes that differ, or an id outside of the classes.
        """
        if predicted.shape != truth.shape:
            raise ValueError(
                f"predicted are {list(predicted.shape)} and truth {list(truth.shape)} pixels; resize the prediction"
            )
        known = truth >= 0
        rows, columns = truth[known].long(), predicted[known].long()
        if not len(rows):
            return
        low, high = int(columns.min()), max(int(rows.max()), int(columns.max()))
        if low < 0 or high >= self.classes:
            raise ValueError(f"class ids run from {low} to {high}, but there are {self.classes} classes, from 0 on")
        found = torch.bincount(rows * self.classes + columns, minlength=self.classes**2)
        self.counts += found.reshape(self.classes, self.classes).cpu()

    def merge(self, device: torch.device | str = "cpu") -> Confusion:
        """The counts of all processes together; every process must call it.

        Args:
            device: where the processes exchange; NCCL needs a GPU.
        """
        return Confusion(self.classes, summed(self.counts.to(device)))

    def constant(self, label: int) -> Confusion:
        """What calling every pixel `label` would have counted: a floor."""
        counts = torch.zeros_like(self.counts)
        counts[:, label] = self.counts.sum(1)
        return Confusion(self.classes, counts)

    def scores(self) -> Scores:
        """mIoU, accuracies and the values of each class. Raises `ValueError` where no pixel was counted."""
        if not int(self.counts.sum()):
            raise ValueError("no labeled pixel was counted; the masks hold nothing but pixels to be ignored")
        right, true, called = self.counts.diagonal(), self.counts.sum(1), self.counts.sum(0)
        iou, recall = _percent(right, true + called - right), _percent(right, true)
        return Scores(
            _mean(iou), 100.0 * right.sum().item() / self.counts.sum().item(), _mean(recall), tuple(iou), tuple(recall)
        )


def _percent(right: Tensor, of: Tensor) -> list[float | None]:
    return [100.0 * a / b if b else None for a, b in zip(right.tolist(), of.tolist(), strict=True)]


def _mean(values: list[float | None]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / len(known)
