"""Points, boxes and masks, and how often an object was found. Boxes are half-open `x0 y0 x1 y1` in pixels; a pixel
(column, row) covers [column, column + 1).

Where the last pixel is meant to be inside, "inclusive", a box is x1 - x0 + 1 wide: small boxes then overlap more. On
[0, 0, 10, 10] and the same box 5 pixels to the right it is 0.375 instead of 0.333.

Sources: Choe et al. 2020, "Evaluating Weakly Supervised Object Localization Methods Right" (arXiv 2001.07437), for
MaxBoxAcc, MaxBoxAccV2 and PxAP; Russakovsky et al. 2015 (arXiv 1409.0575) for localization with classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from vitrail.metrics.classification import topk_correct

Convention = Literal["half_open", "inclusive"]
GtRule = Literal["any", "first"]


def points_in_boxes(points: Tensor, boxes: Tensor, tolerance: float = 0.0) -> Tensor:
    """Whether each point lies in at least one box.

    Args:
        points: `[..., 2]` x, y in pixels (the center of pixel 0 is 0.5).
        boxes: `[n, 4]` half-open x0 y0 x1 y1 in the same frame; n may be 0.
        tolerance: pixels by which every box is widened on each side.

    Returns:
        Bool `[...]`; false everywhere when there is no box.

    Raises:
        ValueError: wrong last axes or a negative tolerance.
    """
    if points.shape[-1:] != (2,) or boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(
            f"points must be [..., 2] and boxes [n, 4], not {tuple(points.shape)} and {tuple(boxes.shape)}"
        )
    if tolerance < 0:
        raise ValueError(f"tolerance = {tolerance} is negative; give 0 or more pixels")
    point, low, high = points[..., None, :], boxes[:, :2] - tolerance, boxes[:, 2:] + tolerance
    return ((point >= low) & (point < high)).all(-1).any(-1)


def clip_boxes(boxes: Tensor, height: int, width: int) -> Tensor:
    """Boxes cut to the image; those with nothing left inside are dropped. `[n, 4]` -> `[m, 4]`, m <= n."""
    limit = torch.tensor([width, height, width, height], dtype=boxes.dtype)
    cut = torch.minimum(boxes.clamp(min=0), limit)
    return cut[(cut[:, 2] > cut[:, 0]) & (cut[:, 3] > cut[:, 1])]


def box_iou(boxes: Tensor, others: Tensor, convention: Convention = "half_open") -> Tensor:
    """Intersection over union of every box with every other one.

    Args:
        boxes: `[..., n, 4]` x0 y0 x1 y1.
        others: `[..., m, 4]`, leading axes alike.
        convention: "half_open", or "inclusive" where x1 and y1 are the last pixels inside.

    Returns:
        `[..., n, m]` float64 in [0, 1]; boxes without area overlap with nothing.

    Raises:
        ValueError: last axes that are not 4, or another convention.
    """
    if boxes.shape[-1:] != (4,) or others.shape[-1:] != (4,):
        raise ValueError(f"boxes are [..., n, 4] x0 y0 x1 y1, not {list(boxes.shape)} and {list(others.shape)}")
    if convention not in ("half_open", "inclusive"):
        raise ValueError(f'convention is "half_open" or "inclusive", not {convention!r}')
    wider = int(convention == "inclusive")
    one, other = boxes.double()[..., :, None, :], others.double()[..., None, :, :]
    sides = (torch.minimum(one[..., 2:], other[..., 2:]) - torch.maximum(one[..., :2], other[..., :2]) + wider).clamp(0)
    both = sides.prod(-1)
    first, second = ((each[..., 2:] - each[..., :2] + wider).clamp(0).prod(-1) for each in (one, other))
    return torch.where(both > 0, both / (first + second - both), 0)


def best_iou(boxes: Tensor, truth: Tensor, convention: Convention = "half_open", rule: GtRule = "any") -> Tensor:
    """How well each box `[n, 4]` fits: its IoU with the best of `truth [m, 4]`, or with the first one. `[n]` float64;
    0 where there is no truth."""
    chosen = truth[:1] if rule == "first" else truth
    return box_iou(boxes, chosen, convention).amax(-1) if len(chosen) else torch.zeros(len(boxes), dtype=torch.float64)


def box_accuracy(ious: Tensor, least: Sequence[float]) -> Tensor:
    """How many boxes fit, at each threshold of the maps.

    Args:
        ious: `[N, T]`, of N images at T thresholds.
        least: IoUs from which on a box counts, `[D]`.

    Returns:
        Percent `[D, T]` float64. Their largest value in T is MaxBoxAcc at that IoU, and the mean of these over IoUs of
        0.3, 0.5 and 0.7 is MaxBoxAccV2, where `ious` are the best over all components.

    Raises:
        ValueError: no images.
    """
    if not len(ious):
        raise ValueError("there are no images to count; give ious [N, T] with N of at least 1")
    return torch.stack([100 * (ious >= each).double().mean(0) for each in least])


def best_threshold(accuracy: Tensor) -> int:
    """Which of T thresholds `[T]` has the best accuracy; of equal ones the middle one of them."""
    places = (accuracy == accuracy.max()).nonzero()[:, 0]
    return int(places[len(places) // 2])


def localization_accuracy(hits: Tensor, logits: Tensor | None = None, labels: Tensor | None = None) -> dict[str, float]:
    """GT-known, and with classes Top-1 and Top-5 localization and classification, in percent.

    Args:
        hits: Bool `[N]`, the box fits.
        logits: `[N, K]`.
        labels: `[N]` int64 in 0..K-1.

    Returns:
        `gt_known_loc`; with logits `top1_loc`, `top1_cls` (hit and class right; class right) and, from six classes on,
        `top5_loc` and `top5_cls`.

    Raises:
        ValueError: no images, or labels without logits.
    """
    if not len(hits):
        raise ValueError("there are no images to count; give hits [N] with N of at least 1")
    if (logits is None) != (labels is None):
        raise ValueError("logits and labels go together; give both or none")
    numbers = {"gt_known_loc": _percent(hits)}
    if logits is not None and labels is not None:
        for k in (1, 5):
            if k < logits.shape[1]:
                right = topk_correct(logits, labels, k)
                numbers |= {f"top{k}_loc": _percent(hits & right), f"top{k}_cls": _percent(right)}
    return numbers


def _percent(right: Tensor) -> float:
    return 100 * right.double().mean().item()


class PixelPrecision:
    """PxAP: the area under precision and recall of pixels, over the pixels of all images together.

    Pixels are sorted into bins by threshold, as the source's evaluation does it: bin k holds values from thresholds[k]
    up to below thresholds[k + 1], and 1 has a bin of its own.

    Args:
        thresholds: how many, evenly spaced from 0 to below 1.
    """

    def __init__(self, thresholds: int = 1000) -> None:
        self.thresholds = thresholds
        self._object = torch.zeros(thresholds + 1, dtype=torch.int64)
        self._rest = torch.zeros(thresholds + 1, dtype=torch.int64)

    def add(self, map_: Tensor, mask: Tensor) -> None:
        """Count a map `[H, W]` in [0, 1] with a mask `[H, W]`: 0 is background, 255 ignored, all else object.

        Raises `ValueError` for other shapes or values.
        """
        if map_.shape != mask.shape:
            raise ValueError(f"map {list(map_.shape)} and mask {list(mask.shape)} differ in size; resize one of them")
        low, high = map_.aminmax()
        if not (low >= 0 and high <= 1):
            raise ValueError(f"a map goes from {low:g} to {high:g}; pixel precision takes values in [0, 1]")
        edges = torch.arange(1, self.thresholds + 1, dtype=torch.float64) / self.thresholds
        bins = torch.bucketize(map_.double(), edges, right=True)
        self._object += torch.bincount(bins[(mask != 0) & (mask != 255)], minlength=self.thresholds + 1)
        self._rest += torch.bincount(bins[mask == 0], minlength=self.thresholds + 1)

    @property
    def objects(self) -> int:
        """How many pixels of objects were counted."""
        return int(self._object.sum())

    def value(self) -> float:
        """PxAP in percent. Raises `ValueError` where no mask had an object."""
        if not self.objects:
            raise ValueError("no mask holds a pixel of an object, so that there is no recall")
        true, false = (each.flip(0).cumsum(0).double() for each in (self._object, self._rest))
        recall = true / true[-1]
        gained = torch.diff(recall, prepend=torch.zeros(1, dtype=torch.float64))
        return 100 * float((gained * true / (true + false).clamp(min=1)).sum())
