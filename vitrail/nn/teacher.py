"""A teacher: the moving average of a student, that the student learns from (Tarvainen and Valpola, 2017).

teacher <- m * teacher + (1 - m) * student,   m from its start to 1 along half a cosine (BYOL, DINO)
"""

from __future__ import annotations

import copy
import math
from typing import TypeVar

import torch
from torch import nn

Student = TypeVar("Student", bound=nn.Module)
RUNNING = ("running_mean", "running_var", "num_batches_tracked")
"""What batch norm gathers."""


def teacher_of(student: Student) -> Student:
    """A copy of a module that gets no gradient, and drops neither paths nor activations, also in training mode."""
    teacher = copy.deepcopy(student).requires_grad_(False)
    for part in teacher.modules():
        if hasattr(part, "drop_prob"):
            part.drop_prob = 0.0  # type: ignore[assignment]
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    return teacher


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Move a teacher toward its student; buffers are taken over, but for what its batch norms gather themselves.

    A batch norm of the teacher that is in training mode normalizes by its own batches and gathers their mean and
    variance, as in the code of MoCo and DINO; one in evaluation mode gathers nothing and takes the student's.

    Raises `ValueError` where the two are built differently, and for a momentum outside of [0, 1].
    """
    if not 0 <= momentum <= 1:
        raise ValueError(f"teacher momentum {momentum} is outside of [0, 1]; 0.996 is usual")
    mine, theirs = dict(teacher.named_parameters()), dict(student.named_parameters())
    _check_alike(mine, theirs)
    torch._foreach_lerp_(list(mine.values()), [theirs[name] for name in mine], 1 - momentum)
    kept, new, own = dict(teacher.named_buffers()), dict(student.named_buffers()), _gathered(teacher)
    for name, value in kept.items():
        if name not in own:
            value.copy_(new[name])


def momentum_at(progress: float, start: float, end: float = 1.0) -> float:
    """A teacher's momentum when `progress` (in [0, 1]) of training lies behind."""
    return end - (end - start) * (1 + math.cos(math.pi * progress)) / 2


def _gathered(teacher: nn.Module) -> set[str]:
    """Names of the buffers that batch norms in training mode write."""
    norms = [name for name, part in teacher.named_modules() if part.training and "running_mean" in part._buffers]
    return {f"{name}.{each}".removeprefix(".") for name in norms for each in RUNNING}


def _check_alike(teacher: dict[str, nn.Parameter], student: dict[str, nn.Parameter]) -> None:
    odd = sorted(teacher.keys() ^ student.keys())
    if odd:
        raise ValueError(
            f"teacher and student are built differently: {len(odd)} weights are in only one of them, such as {odd[0]!r}"
        )
    for name, value in teacher.items():
        if value.shape != student[name].shape:
            raise ValueError(
                f"teacher and student differ in size: {name} is {list(value.shape)} in the teacher and "
                f"{list(student[name].shape)} in the student; make the teacher with teacher_of(student)"
            )
