"""Align the patches of what two crops have in common: the teacher says to which prototype a place belongs.

For a crop t that the teacher saw and another crop v, both RoI-aligned to their overlap, cells c:

    loss(t, v) = mean over images and cells of - <RoI(Q_t)_c, log softmax(RoI(S_v)_c / T)>

Q are the teacher's assignments (after Sinkhorn), S the student's scores. The loss is the mean over the crops v of a t,
then over t.

Source: Leopart, Ziegler and Asano 2022 (arXiv 2204.13101), Sec. 3; CoTAP, Eq. 4 and 5.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vitrail.ops.overlap import overlap, within
from vitrail.ops.roi import roi_align


def dense_alignment(
    scores: Sequence[Tensor],
    targets: Sequence[Tensor],
    boxes: Tensor,
    *,
    cells: int = 7,
    temperature: float = 0.1,
) -> Tensor:
    """The loss over all pairs of a teacher's crop and another one.

    Args:
        scores: the student's, of each crop that takes part, `[B, K, Y_v, X_v]`; crop number t < T is the one that the
            teacher saw as number t.
        targets: the teacher's assignments of T crops, `[B, K, Y, X]`, each cell's sum over K is 1. No gradient.
        boxes: `[B, V', 4]` of at least all crops, in pixels of the image; see `vitrail.contracts.Crops`.
        cells: of the aligned grid, a side.
        temperature: of the student, positive.

    Returns:
        A scalar, not negative, nats.

    Raises:
        ValueError: fewer crops than targets, no pair of different crops, other numbers of prototypes or images, a
            temperature that is not positive, crops that do not overlap.
    """
    _check(scores, targets, boxes, temperature)
    total = scores[0].new_zeros((), dtype=torch.promote_types(scores[0].dtype, torch.float32))
    for t, target in enumerate(targets):
        for v, score in enumerate(scores):
            if v != t:
                total = total + _pair(score, target.detach(), boxes[:, v], boxes[:, t], cells, temperature)
    return total / (len(targets) * (len(scores) - 1))


def aligned(maps: Tensor, box: Tensor, crop: Tensor, cells: int) -> Tensor:
    """The part `[B, C, cells, cells]` of maps `[B, C, Y, X]` of crops `[B, 4]` that shows a box `[B, 4]`, in float32 or
    wider; both in pixels of the image."""
    wide = maps.to(torch.promote_types(maps.dtype, torch.float32))
    with torch.autocast(maps.device.type, enabled=False):
        return roi_align(wide, within(box, crop, (maps.shape[2], maps.shape[3])), cells)


def _pair(score: Tensor, target: Tensor, at: Tensor, seen: Tensor, cells: int, temperature: float) -> Tensor:
    box = overlap(at, seen)
    logs = (aligned(score, box, at, cells) / temperature).log_softmax(1)
    return -(aligned(target, box, seen, cells) * logs).sum(1).mean()


def _check(scores: Sequence[Tensor], targets: Sequence[Tensor], boxes: Tensor, temperature: float) -> None:
    if not 0 < temperature < torch.inf:
        raise ValueError(f"temperature is {temperature}; it must be positive and finite, as in 0.1")
    if not targets or len(scores) < max(len(targets), 2):
        raise ValueError(
            f"{len(scores)} crops of the student and {len(targets)} of the teacher; the student sees all of the "
            "teacher's, and at least 2 in all"
        )
    shapes = {tuple(each.shape[:2]) for each in (*scores, *targets)}
    if len(shapes) > 1:
        raise ValueError(f"crops differ in images or prototypes: {sorted(shapes)} as [B, K]; they must agree")
    if boxes.ndim != 3 or boxes.shape[0] != scores[0].shape[0] or boxes.shape[1] < len(scores):
        raise ValueError(
            f"boxes are {list(boxes.shape)}; {len(scores)} crops of {scores[0].shape[0]} images need "
            f"[{scores[0].shape[0]}, {len(scores)}, 4]"
        )
