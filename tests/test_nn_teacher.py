"""Teachers: the average written out, no gradient, no dropping, momentum's ends, unlike pairs."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from vitrail.backbones import BackboneConfig, create
from vitrail.nn.teacher import follow, momentum_at, teacher_of
from vitrail.nn.whole_batch_norm import WholeBatchNorm


def student(width: int = 5) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, width), nn.Dropout(0.5), nn.Linear(width, 2))


def test_it_starts_equal_and_follows_by_the_formula() -> None:
    pupil = student()
    teacher = teacher_of(pupil)
    before = {name: value.clone() for name, value in teacher.named_parameters()}
    with torch.no_grad():
        for value in pupil.parameters():
            value.add_(torch.randn_like(value))
    follow(teacher, pupil, 0.9)
    for name, value in pupil.named_parameters():
        torch.testing.assert_close(dict(teacher.named_parameters())[name], 0.9 * before[name] + 0.1 * value)
    follow(teacher, pupil, 0.0)
    assert all(torch.equal(one, two) for one, two in zip(teacher.parameters(), pupil.parameters()))


def test_it_gets_no_gradient_and_drops_nothing() -> None:
    backbone = create(BackboneConfig(image_size=16, patch_size=8, embed_dim=24, depth=3, heads=2, drop_path=0.5))
    teacher = teacher_of(backbone).train()
    images = torch.randn(4, 3, 16, 16)
    assert not any(value.requires_grad for value in teacher.parameters())
    assert torch.equal(teacher(images).cls, teacher(images).cls)
    torch.testing.assert_close(teacher(images).cls, backbone.eval()(images).cls)
    dropping = student().train()
    assert not torch.equal(dropping(torch.ones(64, 3)), dropping(torch.ones(64, 3)))
    assert torch.equal(teacher_of(dropping)(torch.ones(64, 3)), dropping.eval()(torch.ones(64, 3)))


@pytest.mark.parametrize("kind", [nn.BatchNorm1d, WholeBatchNorm])
def test_running_values_that_a_teacher_gathers_stay_its_own(kind: type[nn.Module]) -> None:
    pupil = nn.Sequential(nn.Linear(3, 3), kind(3))  # type: ignore[call-arg]
    pupil.register_buffer("other", torch.zeros(1))
    teacher = teacher_of(pupil)
    pupil(torch.randn(8, 3) + 2)
    pupil.get_buffer("other").fill_(5)
    teacher(torch.randn(8, 3) - 2)
    teacher(torch.randn(8, 3) - 2)
    before = {name: value.clone() for name, value in teacher[1].named_buffers()}
    assert not torch.equal(before["running_mean"], pupil[1].get_buffer("running_mean"))
    follow(teacher, pupil, 0.99)
    assert all(torch.equal(value, before[name]) for name, value in teacher[1].named_buffers())
    assert int(teacher[1].get_buffer("num_batches_tracked")) == 2
    assert teacher.get_buffer("other") == 5


def test_a_teacher_in_evaluation_mode_takes_running_values_over() -> None:
    pupil = nn.BatchNorm1d(3)
    teacher = teacher_of(pupil).eval()
    pupil(torch.randn(8, 3) + 2)
    follow(teacher, pupil, 0.99)
    assert torch.equal(teacher.running_mean, pupil.running_mean)
    assert int(teacher.num_batches_tracked) == 1


def test_momentum_goes_from_start_to_end_along_half_a_cosine() -> None:
    assert momentum_at(0.0, 0.996) == pytest.approx(0.996)
    assert momentum_at(0.5, 0.996) == pytest.approx(0.998)
    assert momentum_at(1.0, 0.996) == pytest.approx(1.0)
    assert momentum_at(0.25, 0.9, 0.95) == pytest.approx(0.95 - 0.05 * (1 + math.cos(math.pi / 4)) / 2)


def test_another_size_is_told() -> None:
    with pytest.raises(ValueError, match=r"0\.weight is \[7, 3\] in the teacher and \[5, 3\] in the student"):
        follow(teacher_of(student(7)), student(5), 0.9)
    with pytest.raises(ValueError, match="only one of them"):
        follow(teacher_of(student()), nn.Linear(3, 2), 0.9)
    with pytest.raises(ValueError, match=r"1\.2"):
        follow(teacher_of(student()), student(), 1.2)
