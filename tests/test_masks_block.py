"""Blocks stay blocks, and cover as many patches as asked for."""

from __future__ import annotations

import pytest
import torch
from scipy import stats
from torch import Tensor

from vitrail.masks import Block, Random
from vitrail.masks.block import _sizes, _spans, rectangle_order
from vitrail.ops.components import connected_components


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pieces(mask: Tensor) -> float:
    return connected_components(mask.view(-1, 14, 14), 4).amax((1, 2)).float().mean().item()


@pytest.mark.parametrize(("share", "most"), [(0.1, 1.6), (0.4, 1.7), (0.75, 1.5)])
def test_few_pieces_are_hidden(share: float, most: float) -> None:
    images = torch.zeros(300, 1, 14, 14)
    blocks = pieces(Block()(images, (14, 14), share, generator=seeded()))
    assert 1 <= blocks < most
    assert blocks < pieces(Random()(images, (14, 14), share, generator=seeded())) / 1.5


def test_a_number_up_to_the_least_is_one_rectangle() -> None:
    mask = Block(least=16)(torch.zeros(200, 1, 14, 14), (14, 14), 16, generator=seeded()).view(-1, 14, 14)
    high, wide = mask.any(2).sum(1), mask.any(1).sum(1)
    one = high * wide - 16 < torch.maximum(high, wide)  # but for a last line that is cut
    assert one.all()


def test_sizes_keep_area_and_aspect() -> None:
    draws = torch.rand(2, 500, 32, generator=seeded())
    wanted = torch.full((500,), 400)
    height, width = _sizes((40, 40), wanted, 16, 0.3, draws[0], draws[1])
    least = 16 * 1600 / 196
    area = least + (400 - least) * draws[0]
    assert ((height * width - area >= -1e-2) & (height * width - area < height)).all()
    ratio = height / width
    assert 0.2 < ratio.min() < 0.4
    assert 2.5 < ratio.max() < 5
    assert (ratio > 1).float().mean().item() == pytest.approx((ratio < 1).float().mean().item(), abs=0.05)


@pytest.mark.parametrize("grid", [(1, 30), (30, 1)])
def test_on_a_line_blocks_are_runs(grid: tuple[int, int]) -> None:
    height, width = _sizes(grid, torch.full((50,), 12), 196 * 12 / 30, 0.3, *torch.rand(2, 50, 32, generator=seeded()))
    assert (height * width == 12).all()
    mask = Block(least=196)(torch.zeros(100, 1, *grid), grid, 12, generator=seeded())
    assert (mask.int().diff(dim=1).abs().sum(1) <= 2).all()


def test_places_are_uniform() -> None:
    draw = torch.rand(1, 6000, generator=seeded())
    runs = _spans(7, torch.full((1, 6000), 3.0), draw)[0]
    assert (runs.sum(1) == 3).all()
    starts = runs.int().argmax(1)
    assert stats.chisquare(torch.bincount(starts, minlength=5).numpy()).pvalue > 0.01


def test_only_the_last_rectangle_is_cut() -> None:
    """The keys name the rectangle; all before the last one that is needed are hidden as a whole."""
    wanted = torch.full((100,), 80)
    keys = rectangle_order((14, 14), wanted, 16, 0.3, seeded())
    assert (keys.sort(1).values.diff(dim=1) > 0).all()
    mask = Block()(torch.zeros(100, 1, 14, 14), (14, 14), 80, generator=seeded())
    rectangle = keys // 196
    last = rectangle.where(mask, -1).amax(1, keepdim=True)
    assert mask[rectangle < last].all()
    assert not mask[rectangle > last].any()
    assert (last < 32).all()


def test_flips_are_equally_likely() -> None:
    mask = Block()(torch.zeros(3000, 1, 8, 8), (8, 8), 20, generator=seeded()).view(-1, 8, 8).float().mean(0)
    for other in (mask.flip(0), mask.flip(1), mask.T):
        torch.testing.assert_close(mask, other, atol=0.05, rtol=0)


def test_bad_shapes() -> None:
    with pytest.raises(ValueError, match=r"least is 0 patches"):
        Block(least=0)
    with pytest.raises(ValueError, match=r"aspect is 3\.3; it lies in \(0, 1\]"):
        Block(aspect=3.3)
