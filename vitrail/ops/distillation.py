"""Self-distillation: the cross entropy of a student's distribution over prototypes with a teacher's.

Over the views of an image (DINO), p_t of the teacher's view t, q_s of the student's view s, in nats:

    loss = - mean over images and pairs t != s of <p_t, log q_s>

The sum over pairs is computed as <sum_t p_t, sum_s log q_s> - sum_v <p_v, log q_v>, v the views that both see: one
product instead of one for each pair.

Over the hidden patches of an image (iBOT), the student sees the masked image and the teacher the whole one:

    loss = - mean over images of the mean over hidden patches i of <p_i, log q_i>

Sources: Caron et al. 2021 (arXiv 2104.14294), equations 2 to 4; Zhou et al. 2022 (arXiv 2111.07832), equations 2 and 3.
All sums are made in float32 or wider, whatever autocast says. Nothing here changes a center: `moved_center` returns
a new one.
"""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def sharpened(logits: Tensor, center: Tensor, temperature: float) -> Tensor:
    """The teacher's distribution: softmax((logits - center) / temperature).

    Args:
        logits: `[..., K]` of the teacher.
        center: `[K]`, or anything that broadcasts against the logits; see `moved_center`.
        temperature: positive; DINO's rises from 0.04 to 0.07.

    Returns:
        `[..., K]`, float32 or wider, without gradient; the last axis sums to 1.

    Raises:
        ValueError: for a temperature that is not positive, or a center of another number of prototypes.
    """
    _check_temperature(temperature)
    if center.shape[-1:] != logits.shape[-1:]:
        raise ValueError(
            f"the center has {_prototypes(center)} prototypes and the teacher {_prototypes(logits)}; they must agree"
        )
    return ((_wide(logits) - center) / temperature).softmax(-1)


@torch.no_grad()
def moved_center(center: Tensor, teacher_logits_mean: Tensor, momentum: float) -> Tensor:
    """The center after a step: `momentum * center + (1 - momentum) * teacher_logits_mean`.

    Args:
        center: `[K]` or `[1, K]`.
        teacher_logits_mean: the mean of the teacher's logits over samples, views and ranks; the center's shape.
        momentum: in [0, 1]; DINO's is 0.9.

    Raises:
        ValueError: for a momentum outside [0, 1], or shapes that differ.
    """
    if not 0 <= momentum <= 1:
        raise ValueError(f"momentum is {momentum}; it lies in [0, 1], as in 0.9")
    if center.shape != teacher_logits_mean.shape:
        raise ValueError(
            f"the center is {list(center.shape)} and the mean of the teacher's logits"
            f" {list(teacher_logits_mean.shape)}; average over everything but the prototypes"
        )
    return center * momentum + teacher_logits_mean.to(center.dtype) * (1 - momentum)


def view_distillation(student: Tensor | tuple[Tensor, ...], teacher: Tensor, temperature: float = 0.1) -> Tensor:
    """DINO's loss between the views of an image.

    Args:
        student: logits `[S, B, K]` of all S views; view number t < T is the crop that the teacher saw as number t.
            A tuple holds the views in parts, `[S_1, B, K]`, `[S_2, B, K]`, ..., so that the logits of global and
            local crops need no joining.
        teacher: probabilities `[T, B, K]` of T <= S views, from `sharpened` or `sinkhorn`. No gradient flows there.
        temperature: of the student, positive.

    Returns:
        A scalar, not negative up to rounding, nats: the mean over images and pairs of different views.

    Raises:
        ValueError: for shapes that do not fit, fewer student's than teacher's views, no pair of different views, a
            temperature that is not positive; on the CPU for probabilities below 0, which are logits.
    """
    parts = student if isinstance(student, tuple) else (student,)
    views = _check_views(parts, teacher)
    _check_temperature(temperature)
    _check_probabilities(teacher)
    target, count = _wide(teacher.detach()), teacher.shape[0]
    everything, shared, seen = target.sum(0), target.new_zeros(()), 0
    total = target.new_zeros(())
    for part in parts:
        logs = (_wide(part) / temperature).log_softmax(-1)
        total = total - (everything * logs.sum(0)).sum()
        both = min(max(count - seen, 0), len(part))
        shared = shared - (target[seen : seen + both] * logs[:both]).sum()
        seen += len(part)
    return (total - shared) / ((views - 1) * count * teacher.shape[1])


def patch_distillation(student: Tensor, teacher: Tensor, hidden: Tensor, temperature: float = 0.1) -> Tensor:
    """iBOT's loss on the hidden patches.

    Args:
        student: logits `[B, N, K]` of all patches of the masked crops, or `[M, K]` of the M hidden patches alone,
            crop by crop in raster order, as `logits[hidden]` gives them. The latter costs less: a head need not run
            on patches that do not count.
        teacher: probabilities for the same patches of the whole crops, the shape of `student`, from `sharpened` or
            `sinkhorn`. No gradient flows there.
        hidden: bool `[B, N]`, True where the student's patch was hidden.
        temperature: of the student, positive.

    Returns:
        A scalar, not negative, nats: the mean over hidden patches within each crop, then over all B crops. A crop
        without hidden patches adds 0 and counts, as in the released code.

    Raises:
        ValueError: for shapes that do not fit, a temperature that is not positive; on the CPU for probabilities below
            0, which are logits.
    """
    _check_patches(student, teacher, hidden)
    _check_temperature(temperature)
    _check_probabilities(teacher)
    logs = (_wide(student) / temperature).log_softmax(-1)
    losses = -(_wide(teacher.detach()) * logs).sum(-1)
    weights = (1 / hidden.sum(-1, keepdim=True).clamp(min=1).to(losses.dtype)).expand(hidden.shape)
    if student.ndim == 2:
        return (losses * weights[hidden]).sum() / len(hidden)
    return (losses * weights).masked_fill(~hidden, 0).sum() / len(hidden)


def _wide(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _prototypes(values: Tensor) -> int:
    return values.shape[-1] if values.ndim else 0


def _check_temperature(temperature: float) -> None:
    if not 0 < temperature < torch.inf:
        raise ValueError(f"temperature is {temperature}; it must be positive and finite, as in 0.1")


def _check_probabilities(teacher: Tensor) -> None:
    if teacher.device.type == "cpu" and (teacher < 0).any():
        raise ValueError(
            f"the teacher's probabilities go down to {teacher.min().item():.4g}; pass logits through `sharpened` or"
            " `sinkhorn` first"
        )


def _check_views(parts: tuple[Tensor, ...], teacher: Tensor) -> int:
    """How many views the student has."""
    for part in parts:
        if part.ndim != 3 or teacher.ndim != 3:
            raise ValueError(f"student {list(part.shape)} and teacher {list(teacher.shape)} must be [views, B, K]")
        _check_prototypes(part, teacher)
        if part.shape[1] != teacher.shape[1]:
            raise ValueError(f"the student has {part.shape[1]} images and the teacher {teacher.shape[1]}")
    views, count = sum(map(len, parts)), len(teacher)
    if views < max(count, 1):
        raise ValueError(f"the student has {views} views and the teacher {count}; the student sees all of them")
    if views == 1 or count == 0:
        raise ValueError(f"{views} student's and {count} teacher's views give no pair of different views; add one")
    return views


def _check_patches(student: Tensor, teacher: Tensor, hidden: Tensor) -> None:
    _check_prototypes(student, teacher)
    if student.shape != teacher.shape or student.ndim not in (2, 3):
        raise ValueError(
            f"student {list(student.shape)} and teacher {list(teacher.shape)} must both be [B, N, K], or [M, K]"
        )
    if hidden.dtype != torch.bool or hidden.ndim != 2:
        raise ValueError(f"hidden is {hidden.dtype} {list(hidden.shape)}; it must be bool [B, N]")
    if student.ndim == 3 and student.shape[:2] != hidden.shape:
        raise ValueError(f"hidden is {list(hidden.shape)} and the patches {list(student.shape[:2])}; they must agree")
    if student.ndim == 2 and hidden.device.type == "cpu" and int(hidden.sum()) != len(student):
        raise ValueError(f"{int(hidden.sum())} patches are hidden, but logits of {len(student)} are given")


def _check_prototypes(student: Tensor, teacher: Tensor) -> None:
    if student.shape[-1:] != teacher.shape[-1:]:
        raise ValueError(
            f"the student has {_prototypes(student)} prototypes and the teacher {_prototypes(teacher)}; use one head"
            " shape for both"
        )
