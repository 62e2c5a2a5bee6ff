"""The three regularizers on tokens of known content."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vitrail.contracts import Regularizer, Tokens
from vitrail.ops.spatial_entropy import spatial_entropy
from vitrail.regularizers import DRLoc, SpatialEntropy, TotalVariation


def tokens(scores: Tensor | None = None, patches: Tensor | None = None, grid: tuple[int, int] = (3, 4)) -> Tokens:
    if patches is None:
        patches = torch.zeros(2, grid[0] * grid[1], 8)
    layers = {1: torch.cat([torch.full((len(patches), 1, patches.shape[2]), 1e6), patches + 1], 1)}
    return Tokens(patches[:, 0], patches, grid, layers, {} if scores is None else {-1: scores})


def test_spatial_entropy_is_the_mean_over_heads_and_images() -> None:
    scores = torch.randn(5, 3, 7, 9, generator=torch.Generator().manual_seed(0), requires_grad=True)
    loss = SpatialEntropy()(tokens(scores))
    assert loss.shape == ()
    assert torch.equal(loss, spatial_entropy(scores).mean())
    loss.backward()
    assert scores.grad.abs().max() > 0


def test_spatial_entropy_refuses_maps_on_which_it_is_always_zero() -> None:
    for rows, columns in ((2, 2), (1, 2), (1, 1)):
        scores = torch.randn(5, 3, rows, columns, generator=torch.Generator().manual_seed(0))
        assert spatial_entropy(scores).abs().max() == 0
        with pytest.raises(ValueError, match=f"maps of {rows} x {columns} keys"):
            SpatialEntropy()(tokens(scores))
    assert SpatialEntropy()(tokens(torch.randn(5, 3, 1, 3, generator=torch.Generator().manual_seed(1)))) > 0


def test_total_variation_of_a_known_map() -> None:
    # Eq. 14 by hand: rows 1 4 2 and 0 0 5. Across: 3 + 2 + 0 + 5; down: 1 + 4 + 3.
    known = torch.tensor([[1.0, 4.0, 2.0], [0.0, 0.0, 5.0]])
    scores = torch.stack([known, torch.ones(2, 3)])[None]
    assert TotalVariation()(tokens(scores)).item() == (18 + 0) / 2
    assert TotalVariation()(tokens(scores.half())).dtype == torch.float32


def test_total_variation_by_loop_and_gradient() -> None:
    scores = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    total = 0.0
    for one in scores.flatten(0, 1):
        for y in range(4):
            for x in range(5):
                total += abs(one[y, x] - one[y, x + 1]).item() if x < 4 else 0.0
                total += abs(one[y, x] - one[y + 1, x]).item() if y < 3 else 0.0
    assert TotalVariation()(tokens(scores)).item() == pytest.approx(total / 6)
    assert torch.autograd.gradcheck(lambda s: TotalVariation()(tokens(s)), scores.requires_grad_())


def test_a_missing_block_is_named() -> None:
    for regularizer in (SpatialEntropy(block=4), TotalVariation(block=4)):
        assert regularizer.scores == (4,)
        with pytest.raises(ValueError, match=r"blocks \[-1\], not of 4; call backbone\(images, scores=\(4,\)\)"):
            regularizer(tokens(torch.zeros(1, 1, 3, 4)))
    with pytest.raises(ValueError, match=r"blocks \[1\], not of 2; call backbone\(images, layers=\(2,\)\)"):
        DRLoc(8, block=2)(tokens())


def test_all_fulfill_the_contract() -> None:
    regularizers: list[Regularizer] = [SpatialEntropy(), TotalVariation(), DRLoc(8), DRLoc(8, block=1)]
    assert [each.scores for each in regularizers] == [(-1,), (-1,), (), ()]
    assert [each.layers for each in regularizers] == [(), (), (), (1,)]


class Oracle(torch.nn.Module):
    """Reads the true distance from embeddings that hold their own position, divided by the grid's sides."""

    def forward(self, pairs: Tensor) -> Tensor:
        return (pairs[..., :2] - pairs[..., 8:10]).abs()


def positions(rows: int, columns: int, batch: int = 3) -> Tensor:
    y, x = torch.meshgrid(torch.arange(rows) / rows, torch.arange(columns) / columns, indexing="ij")
    own = torch.zeros(batch, rows * columns, 8)
    own[..., 0], own[..., 1] = y.flatten(), x.flatten()
    return own


def test_drloc_targets_are_normalized_distances_on_the_grid() -> None:
    drloc = DRLoc(8, pairs=500)
    drloc.mlp = Oracle()
    assert drloc(tokens(patches=positions(3, 4))).item() == pytest.approx(0, abs=1e-6)
    inner = DRLoc(8, pairs=500, block=1)  # positions + 1: differences stay, and the CLS token must not enter
    inner.mlp = Oracle()
    assert inner(tokens(patches=positions(3, 4))).item() == pytest.approx(0, abs=1e-6)


def test_drloc_of_a_blind_guess_is_the_mean_distance() -> None:
    drloc = DRLoc(8, pairs=4000)
    for parameter in drloc.parameters():
        torch.nn.init.zeros_(parameter)
    torch.manual_seed(0)
    # Two uniform places on n cells lie (n^2 - 1) / (3n) apart on average.
    expected = (9 - 1) / (3 * 3) / 3 + (16 - 1) / (3 * 4) / 4
    assert drloc(tokens(patches=positions(3, 4))).item() == pytest.approx(expected, abs=0.02)


def test_drloc_learns_positions_and_reaches_the_tokens() -> None:
    torch.manual_seed(0)
    drloc = DRLoc(8, pairs=64, hidden=32)
    patches = positions(3, 4).requires_grad_()
    optimizer = torch.optim.Adam(drloc.parameters(), lr=3e-3)
    losses = []
    for _ in range(150):
        optimizer.zero_grad()
        loss = drloc(tokens(patches=patches))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) < 0.4 * sum(losses[:10])
    assert patches.grad.abs().max() > 0


def test_drloc_repeats_with_the_seed_and_refuses_a_kept_subset() -> None:
    drloc = DRLoc(8)
    torch.manual_seed(3)
    first = drloc(tokens(patches=torch.randn(2, 12, 8)))
    torch.manual_seed(3)
    assert torch.equal(drloc(tokens(patches=torch.randn(2, 12, 8))), first)
    with pytest.raises(ValueError, match=r"5 patches of a 3x4 grid; DRLoc needs all 12"):
        drloc(tokens(patches=torch.zeros(2, 5, 8)))
    with pytest.raises(ValueError, match=r"pairs is 0"):
        DRLoc(8, pairs=0)
