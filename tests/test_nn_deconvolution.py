"""Generators of LocLoc and PPD: Table 1's weights, sizes of maps, gradients."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vitrail.nn.deconvolution import Geg, GegConfig, PpdGenerator, PpdGeneratorConfig, enlarging


def count(module: nn.Module) -> int:
    return sum(value.numel() for value in module.parameters())


def test_table_1() -> None:
    """3.86 and 16.76 of 2^20."""
    with torch.device("meta"):
        released, text = (Geg(GegConfig(wiring=wiring), 384) for wiring in ("released", "text"))  # type: ignore[arg-type]
        ppd = PpdGenerator(PpdGeneratorConfig(), 384)
    assert count(released) == count(text) == 4_052_738
    assert sum(value.numel() for value in released.parameters() if value.requires_grad) == 4_052_738 - 23_232
    assert all(value.requires_grad for value in text.parameters())
    assert count(ppd) == 17_569_537
    assert [round(each / 2**20, 2) for each in (4_052_738, 17_569_537)] == [3.86, 16.76]


SMALL = GegConfig(channels=5, width=6)


@pytest.mark.parametrize("grid", [(14, 14), (16, 16), (7, 9), (6, 6), (1, 3)])
def test_sizes_of_maps(grid: tuple[int, int]) -> None:
    features = torch.randn(2, 4, *grid)
    found = Geg(SMALL, 4).eval()(features)
    assert found.shape == (2, 8 * grid[0], 8 * grid[1])
    assert bool(((found > 0) & (found < 1)).all())
    rows, columns = (8 * -(-side // 2) for side in grid)
    assert PpdGenerator(PpdGeneratorConfig(hidden=8, width=6), 4).eval()(features).shape == (2, rows, columns)


def test_published_sizes() -> None:
    assert Geg(SMALL, 4).eval()(torch.randn(1, 4, 14, 14)).shape == (1, 112, 112)
    assert PpdGenerator(PpdGeneratorConfig(hidden=8), 4).eval()(torch.randn(1, 4, 16, 16)).shape == (1, 64, 64)


def test_gradients_reach_every_weight() -> None:
    for made in (Geg(SMALL, 4), PpdGenerator(PpdGeneratorConfig(hidden=8, width=6), 4)):
        made(torch.randn(4, 4, 8, 8)).square().sum().backward()
        assert all(value.grad is not None and value.grad.abs().sum() > 0 for value in made.parameters())


def test_transposed_convolutions_are_centered() -> None:
    """Each of 4x4 in steps of 2 doubles the size: a point in the middle stays there, and the map is symmetric."""
    layers = enlarging(1, 1)
    for part in layers:
        if isinstance(part, nn.ConvTranspose2d):
            nn.init.ones_(part.weight)
    x = torch.zeros(1, 1, 3, 3)
    x[0, 0, 1, 1] = 1
    found = layers.eval()(x)
    assert found.shape == (1, 1, 24, 24)
    assert torch.equal(found, found.flip(2))
    assert torch.equal(found, found.flip(3))


def test_a_generator_does_not_depend_on_the_rest_of_the_batch() -> None:
    for made in (Geg(SMALL, 4).eval(), PpdGenerator(PpdGeneratorConfig(hidden=8, width=6), 4).eval()):
        features = torch.randn(3, 4, 6, 6)
        alone = torch.cat([made(each[None]) for each in features])
        assert torch.allclose(made(features), alone, atol=1e-6)
