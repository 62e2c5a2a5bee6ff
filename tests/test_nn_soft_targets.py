"""Soft targets: the temperature by epoch, the center's bookkeeping, and Sinkhorn on nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vitrail.config import ConfigError
from vitrail.nn.soft_targets import SoftTargets, TargetConfig


@pytest.mark.parametrize("warmup", [0, 1, 2, 5, 30])
def test_the_temperature_is_a_line_and_then_constant(warmup: int) -> None:
    config = TargetConfig(warmup_epochs=warmup)
    expected = [*np.linspace(0.04, 0.07, warmup), *[0.07] * 3]
    assert [config.temperature_at(epoch) for epoch in range(warmup + 3)] == pytest.approx(expected)


def test_half_an_epoch_of_warm_up_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"warmup_epochs = 2\.5"):
        TargetConfig().override(["warmup_epochs=2.5"])
    assert TargetConfig().override(["warmup_epochs=3.0"]).warmup_epochs == 3


def test_probabilities_follow_the_center_and_the_epoch() -> None:
    targets = SoftTargets(TargetConfig(warmup_epochs=2), 4)
    targets.center.copy_(torch.tensor([0.5, 0.0, -0.5, 1.0]))
    logits = torch.randn(3, 4)
    for epoch, temperature in ((0, 0.04), (1, 0.07), (9, 0.07)):
        torch.testing.assert_close(targets(logits, epoch), ((logits - targets.center) / temperature).softmax(-1))
    assert not targets(logits.requires_grad_(), 0).requires_grad


def test_notes_count_as_many_as_they_say() -> None:
    targets, one, many = SoftTargets(TargetConfig(center_momentum=0.5), 2), torch.tensor([1.0, 0]), torch.tensor([0, 4])
    targets.note(one, 1)
    targets.note(many.bfloat16(), 3)
    targets.move()
    torch.testing.assert_close(targets.center, torch.tensor([0.125, 1.5]))
    targets.note(one, 2)
    targets.move()  # what was seen before is forgotten
    torch.testing.assert_close(targets.center, torch.tensor([0.5625, 0.75]))


def test_sinkhorn_of_no_patches() -> None:
    targets = SoftTargets(TargetConfig(kind="sinkhorn"), 4)
    assert targets(torch.zeros(0, 4), 0).shape == (0, 4)
    found = targets(torch.randn(8, 4), 50)
    torch.testing.assert_close(found.sum(1), torch.ones(8))
    targets.note(torch.ones(4), 8)
    targets.move()
    assert not targets.center.any()
    assert not targets.seen.any()
