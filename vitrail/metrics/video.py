"""How well objects are followed through a video: region similarity J, outline accuracy F, and what becomes of them.

    J  IoU of the object's pixels; 1 where both are empty
    F  2 P R / (P + R) of the outlines' pixels: precision P, the share of the found outline within a tolerance of the
       true one, recall R the other way round; 1 where both are empty, 0 where one of them is
    mean, recall, decay of a value over frames: its mean, the share of frames above 0.5, and the mean over the first
       quarter of the frames less that over the last

Source: Perazzi et al. 2016, "A benchmark dataset and evaluation methodology for video object segmentation"; several
objects as in Pont-Tuset et al. 2017 (arXiv 1704.00675). The quarters share their end frames, as in the released tool.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from vitrail.ops.boundary import region_counts

TOLERANCE = 0.008
"""Of outlines, as a share of the image's diagonal."""


class VideoScores(NamedTuple):
    """Of T frames and K objects, float64 `[T, K]` in [0, 1]."""

    j: Tensor
    f: Tensor


class Statistics(NamedTuple):
    """Of a value over frames, float64 `[...]`."""

    mean: Tensor
    recall: Tensor
    decay: Tensor


def video_scores(target: Tensor, found: Tensor, objects: int, tolerance: float = TOLERANCE) -> VideoScores:
    """J and F of each object in each frame.

    Args:
        target, found: uint8 `[T, H, W]`; k = 1, ..., `objects` is object k, all other values are none.
        objects: K.
        tolerance: of outlines: below 1 a share of the diagonal, rounded up to whole pixels; from 1 on pixels.

    Raises:
        ValueError: maps of another type or of two shapes, or a negative tolerance.
    """
    radius = tolerance_pixels(target.shape[-2], target.shape[-1], tolerance)
    counts = region_counts(target, found, objects, radius)
    both, either, true_edge, found_edge, true_near, found_near = (part.double() for part in counts)
    j = torch.where(either > 0, both / either, 1.0)
    precision, recall = found_near / found_edge.clamp(min=1), true_near / true_edge.clamp(min=1)
    f = 2 * precision * recall / (precision + recall).clamp(min=1e-300)
    return VideoScores(j, torch.where((true_edge == 0) & (found_edge == 0), 1.0, f))


def tolerance_pixels(height: int, width: int, tolerance: float = TOLERANCE) -> int:
    """Radius in pixels within which outlines match.

    >>> tolerance_pixels(480, 854), tolerance_pixels(480, 854, 3)
    (8, 3)
    """
    if tolerance < 0:
        raise ValueError(f"tolerance is {tolerance}; give a share of the diagonal below 1, or pixels from 1 on")
    return math.ceil(tolerance if tolerance >= 1 else tolerance * math.hypot(height, width))


def statistics(values: Tensor) -> Statistics:
    """Mean, recall at 0.5 and decay along the first axis.

    Args:
        values: `[T, ...]` in [0, 1], T at least 1.

    Raises:
        ValueError: no frame.
    """
    frames = len(values)
    if not frames:
        raise ValueError(
            "there is no frame to take a mean over; a video needs three, as its first and last do not count"
        )
    # Five ends of four quarters, counted from 0; a half is rounded up.
    ends = [math.floor((frames - 1) * quarter / 4 + 0.5) for quarter in range(5)]
    first, last = values[: ends[1] + 1].mean(0), values[ends[3] : ends[4] + 1].mean(0)
    return Statistics(values.mean(0), (values > 0.5).to(values.dtype).mean(0), first - last)
