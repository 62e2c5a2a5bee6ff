"""Losses on two views: closed forms, brute force, gradients, and several ranks as one."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from vitrail.ops.contrast import (
    barlow_twins,
    batch_contrast,
    cross_correlation,
    negative_cosine,
    nt_xent,
    queue_contrast,
    spread,
)


def pair(count: int = 5, width: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    one, two = torch.randn(2, count, width, generator=generator, dtype=torch.float64)
    return one, two


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


def test_nt_xent_by_hand() -> None:
    """Every anchor by itself, as the paper's Eq. 1 has it."""
    one, two = pair()
    views = [*one, *two]
    losses = []
    for anchor in range(10):
        positive = (anchor + 5) % 10
        others = [math.exp(cosine(views[anchor], views[k]) / 0.3) for k in range(10) if k != anchor]
        losses.append(-math.log(math.exp(cosine(views[anchor], views[positive]) / 0.3) / sum(others)))
    assert nt_xent(one, two, 0.3).item() == pytest.approx(sum(losses) / 10, abs=1e-12)


def test_nt_xent_in_closed_form() -> None:
    alike = torch.ones(4, 3)
    assert nt_xent(alike, alike).item() == pytest.approx(math.log(7), rel=1e-6)
    apart = torch.eye(6)
    told = math.log(math.exp(1 / 0.5) + 10) - 1 / 0.5
    assert nt_xent(apart, apart, 0.5).item() == pytest.approx(told, rel=1e-6)
    assert nt_xent(7 * apart, 0.1 * apart, 0.5).item() == pytest.approx(told, rel=1e-6)  # lengths do not matter


def test_queue_contrast_by_hand_and_in_closed_form() -> None:
    query, key = pair(3)
    queue = pair(7, seed=1)[0]
    losses = []
    for row in range(3):
        positive = math.exp(cosine(query[row], key[row]) / 0.2)
        losses.append(
            -math.log(positive / (positive + sum(math.exp(cosine(query[row], each) / 0.2) for each in queue)))
        )
    assert queue_contrast(query, key, queue, 0.2).item() == pytest.approx(sum(losses) / 3, abs=1e-12)
    ones = torch.ones(2, 3)
    assert queue_contrast(ones, ones, ones.repeat(8, 1)).item() == pytest.approx(math.log(17), rel=1e-6)


def test_batch_contrast_by_hand_and_in_closed_form() -> None:
    query, key = pair()
    losses = []
    for row in range(5):
        likeness = [math.exp(cosine(query[row], each) / 0.2) for each in key]
        losses.append(-math.log(likeness[row] / sum(likeness)))
    assert batch_contrast(query, key, 0.2).item() == pytest.approx(sum(losses) / 5, abs=1e-12)
    assert batch_contrast(torch.ones(6, 3), torch.ones(6, 3)).item() == pytest.approx(math.log(6), rel=1e-6)
    told = math.log(math.exp(1 / 0.5) + 5) - 1 / 0.5
    assert batch_contrast(7 * torch.eye(6), 0.1 * torch.eye(6), 0.5).item() == pytest.approx(told, rel=1e-6)


def test_batch_contrast_of_two_ranks_is_that_of_one() -> None:
    query, key = (each.requires_grad_() for each in pair(6))
    whole = batch_contrast(query, key, 0.3)
    (wanted,) = torch.autograd.grad(whole, (query,))
    unit = torch.nn.functional.normalize(key.detach(), dim=1)

    def ranked(start: int) -> Tensor:
        def gather(mine: Tensor) -> tuple[Tensor, int]:
            assert torch.equal(mine, unit[start : start + 3])
            return unit, start

        return batch_contrast(query[start : start + 3], key[start : start + 3], 0.3, gather=gather)

    mean = (ranked(0) + ranked(3)) / 2
    torch.testing.assert_close(mean, whole)
    torch.testing.assert_close(torch.autograd.grad(mean, (query,))[0], wanted)


def test_barlow_twins_by_hand_and_in_closed_form() -> None:
    one, two = pair(9, 3)
    wanted = torch.zeros(3, 3, dtype=torch.float64)
    for i in range(3):
        for j in range(3):
            a, b = one[:, i] - one[:, i].mean(), two[:, j] - two[:, j].mean()
            spreads = ((a.square().mean() + 1e-5) * (b.square().mean() + 1e-5)).sqrt()
            wanted[i, j] = (a * b).mean() / spreads
    torch.testing.assert_close(cross_correlation(one, two), wanted, atol=1e-12, rtol=0)
    loss = sum((1 - wanted[i, i]) ** 2 for i in range(3))
    loss = loss + 0.1 * sum(wanted[i, j] ** 2 for i in range(3) for j in range(3) if i != j)
    assert barlow_twins(one, two, 0.1).item() == pytest.approx(float(loss), abs=1e-12)
    signs = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])  # uncorrelated features of variance 1
    assert barlow_twins(signs, signs).item() == pytest.approx(0, abs=1e-8)
    assert barlow_twins(signs, torch.ones(4, 2)).item() == pytest.approx(2, abs=1e-6)  # constant: no correlation at all
    assert barlow_twins(signs, -signs, 0.7).item() == pytest.approx(8, abs=1e-3)


def test_negative_cosine_and_its_stopped_gradient() -> None:
    one, two = (each.requires_grad_() for each in pair())
    loss = negative_cosine(one, two)
    wanted = -sum(cosine(one[row].detach(), two[row].detach()) for row in range(5)) / 5
    assert loss.item() == pytest.approx(wanted, abs=1e-12)
    loss.backward()
    assert two.grad is None
    assert one.grad is not None
    assert one.grad.abs().sum() > 0
    assert (one.grad * one).sum(1).abs().max() < 1e-12  # a cosine does not change with the length
    assert negative_cosine(torch.eye(3), 2 * torch.eye(3)).item() == pytest.approx(-1)


def test_keys_and_queue_get_no_gradient() -> None:
    query, key = (each.requires_grad_() for each in pair())
    queue = pair(6, seed=2)[0].requires_grad_()
    (queue_contrast(query, key, queue) + batch_contrast(query, key)).backward()
    assert key.grad is None
    assert queue.grad is None
    assert query.grad is not None


def test_gradients() -> None:
    one, two = (each.requires_grad_() for each in pair(4, 3))
    queue = pair(6, 3, seed=3)[0]
    assert torch.autograd.gradcheck(lambda a, b: nt_xent(a, b, 0.4), (one, two))
    assert torch.autograd.gradcheck(lambda a, b: barlow_twins(a, b, 0.2), (one, two))
    assert torch.autograd.gradcheck(lambda a: queue_contrast(a, two, queue), (one,))
    assert torch.autograd.gradcheck(lambda a: batch_contrast(a, two), (one,))
    assert torch.autograd.gradcheck(lambda a: negative_cosine(a, two), (one,))


@pytest.mark.parametrize("loss", [nt_xent, barlow_twins])
def test_two_ranks_are_one(loss: Callable[..., Tensor]) -> None:
    """Each rank with half of the rows: the mean over ranks is the loss of the whole batch, and so is the gradient."""
    one, two = (each.requires_grad_() for each in pair(6))
    whole = loss(one, two, 0.3)
    wanted = torch.autograd.grad(whole, (one, two))

    def ranked(start: int) -> Tensor:
        rows = [one[start : start + 3], two[start : start + 3]]
        given = iter([one, two])  # a rank sends the first view's rows first

        def gather(mine: Tensor) -> tuple[Tensor, int]:
            full = next(given)
            full = torch.nn.functional.normalize(full, dim=1) if loss is nt_xent else full
            torch.testing.assert_close(full[start : start + 3], mine)
            return full, start

        return loss(*rows, 0.3, gather=gather)

    mean = (ranked(0) + ranked(3)) / 2
    torch.testing.assert_close(mean, whole)
    for found, right in zip(torch.autograd.grad(mean, (one, two)), wanted):
        torch.testing.assert_close(found, right)


def test_half_precision_is_widened() -> None:
    one, two = (each.bfloat16() for each in pair(8))
    with torch.autocast("cpu", torch.bfloat16):
        for loss in (
            nt_xent(one, two),
            barlow_twins(one, two),
            negative_cosine(one, two),
            queue_contrast(one, two, one),
            batch_contrast(one, two),
        ):
            assert loss.dtype == torch.float32
    assert nt_xent(one, two).item() == pytest.approx(nt_xent(one.float(), two.float()).item(), abs=1e-6)


def test_spread_tells_a_collapse() -> None:
    assert spread(torch.ones(10, 4)).item() == pytest.approx(0, abs=1e-6)
    everywhere = torch.randn(4000, 32, generator=torch.Generator().manual_seed(0))
    assert spread(everywhere).item() == pytest.approx(1, abs=0.01)


def test_what_does_not_fit_is_refused() -> None:
    one, two = pair()
    with pytest.raises(ValueError, match=r"\[5, 4\] and \[4, 4\].*row by row of the same images"):
        nt_xent(one, two[:4])
    with pytest.raises(ValueError, match=r"there is 1 image in the batch, and nothing to tell it from"):
        nt_xent(one[:1], two[:1])
    with pytest.raises(ValueError, match=r"there is 1 image in the batch; a correlation needs at least 2"):
        barlow_twins(one[:1], two[:1])
    with pytest.raises(ValueError, match=r"temperature is 0; it must be positive"):
        nt_xent(one, two, 0)
    with pytest.raises(ValueError, match=r"queue is \[0, 4\] and queries are \[5, 4\]"):
        queue_contrast(one, two, one[:0])
    with pytest.raises(ValueError, match=r"redundancy is -1"):
        barlow_twins(one, two, -1)
