"""Exact t-SNE against its definition: the perplexity of rows, the gradient, neighbors that are kept."""

from __future__ import annotations

import math

import pytest
import torch

from vitrail.ops.tsne import affinities, divergence, gradient, tsne


def clusters(count: int = 3, each: int = 20, width: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    centers = 10 * torch.randn(count, width, generator=generator)
    points = centers.repeat_interleave(each, 0) + torch.randn(count * each, width, generator=generator)
    return points, torch.arange(count).repeat_interleave(each)


def test_each_row_has_the_perplexity_that_was_asked_for():
    points = torch.randn(40, 5, dtype=torch.float64)
    perplexity = 7.0
    found = affinities(points, perplexity)
    # By the definition, one row at a time: the sharpness that gives the entropy, found by a fine grid.
    distances = torch.cdist(points, points) ** 2
    rows = []
    for number in range(40):
        others = torch.cat((distances[number, :number], distances[number, number + 1 :]))
        low, high = 1e-6, 1e6
        for _ in range(200):
            middle = math.sqrt(low * high)
            share = torch.softmax(-middle * others, 0)
            wide = float(-(share * share.clamp(min=1e-300).log()).sum()) > math.log(perplexity)
            low, high = (middle, high) if wide else (low, middle)
        rows.append(torch.cat((share[:number], torch.zeros(1, dtype=share.dtype), share[number:])))
    conditional = torch.stack(rows)
    assert torch.allclose(found, (conditional + conditional.T) / 80, atol=1e-12)
    assert float(found.sum()) == pytest.approx(1)
    assert (found.diagonal() == 0).all()


def test_perplexity_does_not_depend_on_scale_or_place():
    points = torch.randn(20, 3, dtype=torch.float64)
    reference = affinities(points, 5)
    for other in (points * 1e-4, points * 1e6, points + 100):
        assert torch.allclose(affinities(other, 5), reference, atol=1e-9)


def test_the_gradient_is_that_of_the_divergence():
    affinity = affinities(torch.randn(15, 4), 4)
    layout = torch.randn(15, 2, dtype=torch.float64, requires_grad=True)
    value = divergence(affinity, layout)
    (expected,) = torch.autograd.grad(value, layout)
    assert torch.allclose(gradient(affinity, layout.detach()), expected, atol=1e-12)
    # The definition, pair by pair.
    with torch.no_grad():
        weight = 1 / (1 + (layout[:, None] - layout[None]).square().sum(2))
        weight.fill_diagonal_(0)
        share = weight / weight.sum()
        terms = affinity * (affinity / share).log()
    assert value.item() == pytest.approx(float(terms[affinity > 0].sum()))


def test_neighbors_stay_neighbors():
    points, own = clusters()
    layout = tsne(points, perplexity=10)
    assert layout.shape == (60, 2)
    nearest = torch.cdist(layout, layout).fill_diagonal_(math.inf).topk(10, largest=False).indices
    assert (own[nearest] == own[:, None]).all()
    centers = torch.stack([layout[own == number].mean(0) for number in range(3)])
    within = max(float((layout[own == number] - centers[number]).norm(dim=1).max()) for number in range(3))
    assert float(torch.pdist(centers).min()) > 2 * within
    assert torch.allclose(layout.mean(0), torch.zeros(2), atol=1e-4)


def test_descent_goes_below_its_start():
    points, _ = clusters(each=10)
    affinity = affinities(points, 5)
    start, end = (float(divergence(affinity, tsne(points, perplexity=5, steps=steps).double())) for steps in (1, 300))
    assert end < 0.5 * start


def test_the_same_seed_gives_the_same_layout():
    points, _ = clusters(each=8)
    first, again, other = (tsne(points, perplexity=5, steps=60, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    "points",
    [
        torch.ones(12, 3),
        torch.arange(12.0)[:, None],
        torch.cat((torch.zeros(8, 2), torch.ones(4, 2))),
        torch.cat((torch.randn(11, 2), torch.full((1, 2), 1e6))),
        torch.randn(4, 700),
    ],
    ids=["all equal", "a line", "copies", "an outlier", "few points, wide"],
)
def test_odd_points_have_a_layout(points: torch.Tensor):
    layout = tsne(points, perplexity=2, steps=100)
    assert layout.shape == (len(points), 2)
    assert layout.isfinite().all()
    assert layout.unique(dim=0).shape[0] == len(points)  # equal points are parted, too


@pytest.mark.parametrize(
    ("points", "how", "words"),
    [
        (torch.zeros(5), {}, r"shape \[5\], not \[N, D\]"),
        (torch.full((5, 2), torch.nan), {}, "NaN"),
        (torch.zeros(5001, 1), {}, "5001 points, and exact t-SNE takes 5000 at most"),
        (torch.zeros(20, 2), {"perplexity": 30}, "perplexity 30 and 20 points"),
        (torch.zeros(20, 2), {"perplexity": 0.5}, "perplexity 0.5 and 20 points"),
        (torch.zeros(20, 2), {"perplexity": 5, "steps": 0}, "steps is 0"),
    ],
)
def test_what_has_no_layout(points: torch.Tensor, how: dict, words: str):
    with pytest.raises(ValueError, match=words):
        tsne(points, **how)
