"""Kendall's tau-b against scipy and by hand."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import kendalltau

from vitrail.ops.rank_correlation import kendall


@pytest.mark.parametrize("levels", [3, 1000])
def test_it_is_scipys_with_and_without_ties(levels: int) -> None:
    generator = torch.Generator().manual_seed(0)
    one, two = (torch.randint(levels, (5, 12), generator=generator).float() for _ in range(2))
    expected = [kendalltau(a, b).statistic for a, b in zip(one.numpy(), two.numpy())]
    torch.testing.assert_close(kendall(one, two), torch.tensor(expected, dtype=torch.float32))


def test_by_hand() -> None:
    rising = torch.arange(4.0)
    assert kendall(rising, rising.exp()) == 1
    assert kendall(rising, -rising) == -1
    assert kendall(rising, torch.tensor([0.0, 1.0, 3.0, 2.0])) == pytest.approx(4 / 6)
    assert kendall(rising, torch.zeros(4)) == 0


def test_no_gradient_flows() -> None:
    assert not kendall(torch.randn(3, requires_grad=True), torch.arange(3.0)).requires_grad


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[2, 3\] and \[2, 4\]"):
        kendall(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"N from 2 on"):
        kendall(torch.zeros(2, 1), torch.zeros(2, 1))
