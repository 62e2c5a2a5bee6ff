"""RankNet, ListNet, point-wise regression and the top-focused loss against their definitions."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from vitrail.ops.listmle import listmle
from vitrail.ops.ranking_losses import listnet, pointwise, ranknet, top_focused

LOSSES: list[Callable[..., Tensor]] = [ranknet, listnet, pointwise, top_focused]


def draw(*shape: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(*shape, generator=generator, dtype=torch.float64) for _ in range(2))  # type: ignore


def coin(score: float, wanted: float) -> float:
    return math.log1p(math.exp(score)) - wanted * score


def test_ranknet_is_the_mean_over_pairs() -> None:
    scores, targets = draw(5)
    targets[3] = targets[1] + 5e-4  # less than the margin: equal
    pairs = [(i, j) for i in range(5) for j in range(i)]
    wanted = []
    for i, j in pairs:
        apart = float(targets[i] - targets[j])
        wanted.append(coin(float(scores[i] - scores[j]), 0.5 if abs(apart) < 1e-3 else float(apart > 0)))
    assert ranknet(scores, targets).item() == pytest.approx(sum(wanted) / 10, abs=1e-12)


def test_listnet_is_a_cross_entropy() -> None:
    scores, targets = draw(3, 6)
    found = listnet(scores, targets, temperature=0.5, reduction="none")
    wanted = -((targets / 0.5).softmax(-1) * scores.softmax(-1).log()).sum(-1)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
    entropy = torch.distributions.Categorical(logits=targets / 0.5).entropy()
    torch.testing.assert_close(listnet(targets / 0.5, targets, temperature=0.5, reduction="none"), entropy)


def test_pointwise_is_a_mean_square() -> None:
    scores, targets = draw(3, 6)
    torch.testing.assert_close(pointwise(scores, targets), ((scores - targets) ** 2).mean())


def test_top_focused_is_listmle_of_the_leaders_and_pairs_with_the_rest() -> None:
    scores, targets = draw(6)
    order = targets.argsort(descending=True)
    leaders, rest = order[:2], order[2:]
    pairs = [coin(float(scores[i] - scores[j]), 1.0) for i in leaders for j in rest]
    wanted = listmle(scores[leaders], targets[leaders]).item() + sum(pairs) / 8
    assert top_focused(scores, targets, top=2).item() == pytest.approx(wanted, abs=1e-12)
    torch.testing.assert_close(top_focused(scores, targets, top=9), listmle(scores, targets))


@pytest.mark.parametrize("loss", LOSSES)
def test_a_mask_equals_the_shorter_list(loss: Callable[..., Tensor]) -> None:
    scores, targets = draw(4, 9)
    mask = torch.rand(4, 9, generator=torch.Generator().manual_seed(1)) < 0.5
    mask[:, :3] = True
    scores[~mask], targets[~mask] = 1e4, torch.nan
    scores.requires_grad_()
    found = loss(scores, targets, mask, reduction="none")
    for row in range(4):
        kept = mask[row]
        assert found[row].item() == pytest.approx(loss(scores[row][kept], targets[row][kept]).item(), abs=1e-10)
    (gradient,) = torch.autograd.grad(found.sum(), scores)
    assert gradient.isfinite().all()
    assert (gradient[~mask] == 0).all()
    assert (gradient[mask] != 0).any()
    empty = torch.zeros_like(mask)
    assert loss(scores, targets, empty) == 0


@pytest.mark.parametrize("loss", [ranknet, listnet, top_focused])
def test_a_shift_changes_nothing(loss: Callable[..., Tensor]) -> None:
    scores, targets = draw(2, 8)
    assert loss(scores + 1e4, targets).item() == pytest.approx(loss(scores, targets).item(), abs=1e-8)


@pytest.mark.parametrize("loss", LOSSES)
def test_descent_finds_the_order(loss: Callable[..., Tensor]) -> None:
    _, targets = draw(2, 12, seed=5)
    scores = torch.zeros(2, 12, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([scores], lr=0.1)
    for _ in range(300):
        optimizer.zero_grad()
        loss(scores, targets).backward()
        optimizer.step()
    assert torch.equal(scores.argsort(-1), targets.argsort(-1))


def test_what_is_refused() -> None:
    zeros = torch.zeros(3)
    for loss in LOSSES:
        with pytest.raises(ValueError, match=r"scores are \[3\] and targets \[4\]"):
            loss(zeros, torch.zeros(4))
    with pytest.raises(ValueError, match="margin is -1"):
        ranknet(zeros, zeros, margin=-1)
    with pytest.raises(ValueError, match="temperature is 0"):
        listnet(zeros, zeros, temperature=0)
    with pytest.raises(ValueError, match="top is 0"):
        top_focused(zeros, zeros, top=0)
