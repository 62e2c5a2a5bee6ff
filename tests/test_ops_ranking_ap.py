"""CoTAP: golden numbers, brute force, gradients, invariances, corners; implementations that agree."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from vitrail.ops.ranking_ap import cotap_loss, cotap_moments, cpu, reference

TAU1, TAU2 = -0.2, 0.5
GOLDEN = ["patch_49", "patch_400", "patch_2401", "ties_49", "ties_400"]


def by_numba(p: Tensor, q: Tensor, tau1: float = TAU1, tau2: float = TAU2) -> tuple[Tensor, Tensor]:
    return cpu.loss_and_slope(p, q, tau1, tau2)


def by_autograd(p: Tensor, q: Tensor, tau1: float = TAU1, tau2: float = TAU2) -> tuple[Tensor, Tensor]:
    leaf = p.detach().clone().requires_grad_()
    loss = reference.cotap_loss(leaf, q, tau1, tau2)
    loss.sum().backward()
    assert leaf.grad is not None
    return loss.detach(), leaf.grad


ways = pytest.mark.parametrize("way", [by_numba, by_autograd], ids=["cpu", "reference"])


def noise(*shape: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Scores p and targets q that agree in part, float64, in [0, 1] mostly."""
    draw = torch.randn(2, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return 0.5 + 0.1 * draw[0] + 0.1 * draw[1], 0.5 + 0.1 * draw[1]


@ways
@pytest.mark.parametrize("name", GOLDEN)
def test_golden_numbers(way: Callable, name: str, oracle: Callable[[str], dict[str, np.ndarray]]) -> None:
    golden = oracle(f"cotap_{name}")
    p, q = torch.from_numpy(golden["p"]), torch.from_numpy(golden["q"])
    loss, slope = way(p, q)
    assert loss.item() == pytest.approx(float(golden["loss"]), abs=1e-12)
    np.testing.assert_allclose(slope.numpy(), golden["grad"], atol=1e-11, rtol=0)


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_moments(name: str, oracle: Callable[[str], dict[str, np.ndarray]]) -> None:
    golden = oracle(f"cotap_{name}")
    p, q = torch.from_numpy(golden["p"]), torch.from_numpy(golden["q"])
    for misranked, ahead in (cotap_moments(p, q), reference.cotap_moments(p, q)):
        np.testing.assert_allclose(misranked.numpy(), golden["A"], rtol=1e-9, atol=1e-12)
        assert np.array_equal(ahead.numpy(), golden["R"])


@pytest.mark.parametrize("items", [2, 5, 30])
def test_gradcheck(items: int) -> None:
    p, q = noise(3, items)
    assert gradcheck(lambda each: cotap_loss(each, q), p.requires_grad_(), eps=1e-7, atol=1e-6)
