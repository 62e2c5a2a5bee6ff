"""ListMLE against its definition, golden numbers, and closed forms."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from vitrail.ops.listmle import listmle


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=dtype), torch.rand(*shape, generator=generator, dtype=dtype)


def defined(scores: list[float], targets: list[float], top: int | None = None) -> float:
    """The definition, item by item, for one list."""
    order = sorted(range(len(scores)), key=lambda item: -targets[item])
    total = 0.0
    for place, item in list(enumerate(order))[:top]:
        rest = [scores[other] for other in order[place:]]
        largest = max(rest)
        total += largest + math.log(sum(math.exp(value - largest) for value in rest)) - scores[item]
    return total


def test_golden_numbers(oracle: Callable[[str], dict[str, np.ndarray]]) -> None:
    golden = oracle("listmle")
    scores = torch.tensor(golden["y"], dtype=torch.float64, requires_grad=True)
    loss = listmle(scores, torch.tensor(golden["t"], dtype=torch.float64))
    loss.backward()  # type: ignore[no-untyped-call]
    assert abs(loss.item() - float(golden["loss"])) < 1e-6 * abs(float(golden["loss"]))
    assert scores.grad is not None
    torch.testing.assert_close(scores.grad, torch.tensor(golden["grad"], dtype=torch.float64), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("top", [None, 1, 3, 7, 50])
def test_the_definition(top: int | None) -> None:
    scores, targets = draw(4, 7)
    found = listmle(scores, targets, top=top, reduction="none")
    for row in range(4):
        assert found[row].item() == pytest.approx(defined(scores[row].tolist(), targets[row].tolist(), top), abs=1e-12)
    assert listmle(scores, targets, top=top).item() == pytest.approx(found.mean().item(), abs=1e-12)
    assert listmle(scores, targets, top=top, reduction="sum").item() == pytest.approx(found.sum().item(), abs=1e-12)


def test_the_probabilities_of_all_orders_sum_to_one() -> None:
    scores, _ = draw(5)
    orders = torch.tensor(list(itertools.permutations(range(5))), dtype=torch.float64)
    losses = listmle(scores.expand(len(orders), 5), orders, reduction="none")
    assert (-losses).exp().sum().item() == pytest.approx(1, abs=1e-12)


def test_equal_scores_cost_the_log_of_the_number_of_orders() -> None:
    _, targets = draw(6)
    assert listmle(torch.full((6,), 3.0, dtype=torch.float64), targets).item() == pytest.approx(math.log(720))


def test_two_items_are_a_logistic_loss() -> None:
    scores, targets = torch.tensor([0.3, 1.1]), torch.tensor([2.0, 1.0])
    assert listmle(scores, targets).item() == pytest.approx(math.log1p(math.exp(1.1 - 0.3)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [60.0, 100.0, 1e4])
def test_large_scores_are_exact(size: float, dtype: torch.dtype) -> None:
    scores, targets = draw(3, 19, seed=1)
    scores = (size * (scores - scores.mean()) / scores.abs().max()).to(dtype).requires_grad_()
    found = listmle(scores, targets.to(dtype), reduction="none")
    for row in range(3):
        wanted = defined(scores[row].tolist(), targets[row].tolist())
        assert found[row].item() == pytest.approx(wanted, rel=1e-5 if dtype == torch.float32 else 1e-13)
    (gradient,) = torch.autograd.grad(found.sum(), scores)
    assert gradient.isfinite().all()


def test_a_shift_changes_nothing() -> None:
    scores, targets = draw(3, 9)
    wanted = listmle(scores, targets)
    for shift in (-1e4, -30.0, 1e4):
        assert listmle(scores + shift, targets).item() == pytest.approx(wanted.item(), abs=1e-10)


def test_the_gradient_has_a_closed_form() -> None:
    scores, targets = draw(7, seed=2)
    scores.requires_grad_()
    (found,) = torch.autograd.grad(listmle(scores, targets), scores)
    order = targets.argsort(descending=True)
    wanted = torch.zeros(7, dtype=torch.float64)
    for place in range(7):
        wanted[order[place:]] += scores.detach()[order[place:]].softmax(0)
        wanted[order[place]] -= 1
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


def test_the_order_of_items_does_not_matter() -> None:
    scores, targets = draw(2, 11)
    shuffled = torch.randperm(11, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(listmle(scores, targets), listmle(scores[:, shuffled], targets[:, shuffled]))


def test_the_right_order_is_the_likeliest() -> None:
    _, targets = draw(6)
    right = listmle(targets, targets)
    assert all(listmle(targets[list(order)], targets) >= right for order in itertools.permutations(range(6)))


class TestMask:
    def test_equals_the_shorter_list(self) -> None:
        scores, targets = draw(5, 8)
        mask = torch.rand(5, 8, generator=torch.Generator().manual_seed(4)) < 0.6
        mask[:, 0] = True
        targets[~mask] = torch.nan  # what is not an item may be anything
        scores[~mask] = 1e4
        scores.requires_grad_()
        found = listmle(scores, targets, mask, reduction="none")
        for row in range(5):
            assert found[row].item() == pytest.approx(
                listmle(scores[row][mask[row]], targets[row][mask[row]]).item(), abs=1e-12
            )
        (gradient,) = torch.autograd.grad(found.sum(), scores)
        assert (gradient[~mask] == 0).all()
        assert gradient.isfinite().all()

    def test_empty_lists_do_not_count(self) -> None:
        scores, targets = draw(3, 4)
        mask = torch.tensor([[True] * 4, [False] * 4, [True] * 4])
        assert listmle(scores, targets, mask, reduction="none")[1] == 0
        torch.testing.assert_close(listmle(scores, targets, mask), listmle(scores[::2], targets[::2]))
        assert listmle(scores, targets, torch.zeros_like(mask)) == 0


def test_half_precision_is_summed_in_float32() -> None:
    scores, targets = draw(2, 196, dtype=torch.float32)
    half = scores.to(torch.bfloat16)
    assert listmle(half, targets).dtype == torch.float32
    torch.testing.assert_close(listmle(half, targets), listmle(half.float(), targets), rtol=0, atol=0)


def test_equal_targets_take_the_first_item_first() -> None:
    scores = torch.tensor([0.5, -1.0, 2.0])
    torch.testing.assert_close(
        listmle(scores, torch.tensor([1.0, 1.0, 1.0])), listmle(scores, torch.tensor([3.0, 2.0, 1.0]))
    )


class TestRefused:
    def test_shapes(self) -> None:
        with pytest.raises(ValueError, match=r"scores are \[2, 3\] and targets \[2, 4\]"):
            listmle(torch.zeros(2, 3), torch.zeros(2, 4))
        with pytest.raises(ValueError, match=r"scores are \[2, 0\]"):
            listmle(torch.zeros(2, 0), torch.zeros(2, 0))
        with pytest.raises(ValueError, match=r"mask is \[3\] of torch.bool and the scores are \[2, 3\]"):
            listmle(torch.zeros(2, 3), torch.zeros(2, 3), torch.ones(3, dtype=torch.bool))

    def test_values(self) -> None:
        with pytest.raises(ValueError, match="1 of 3 targets are NaN or infinite"):
            listmle(torch.zeros(3), torch.tensor([0, torch.nan, 1]))
        with pytest.raises(ValueError, match="top is 0"):
            listmle(torch.zeros(3), torch.zeros(3), top=0)
        with pytest.raises(ValueError, match="reduction is 'median'"):
            listmle(torch.zeros(3), torch.zeros(3), reduction="median")  # type: ignore[arg-type]
