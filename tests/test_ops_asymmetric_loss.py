"""The asymmetric loss: its closed forms, its gradient, and that it stays finite."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from vitrail.ops.asymmetric_loss import asymmetric_loss


def given(rows: int = 5, classes: int = 7) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(rows, classes, generator=generator, dtype=torch.float64)
    return logits, torch.randint(0, 2, (rows, classes), generator=generator).double()


def by_hand(logit: float, there: bool, gamma_negative: float, gamma_positive: float, clip: float) -> float:
    p = 1 / (1 + math.exp(-logit))
    if there:
        return -((1 - p) ** gamma_positive) * math.log(p)
    shifted = max(p - clip, 0.0)
    return -(shifted**gamma_negative) * math.log(1 - shifted)


def test_without_gammas_and_clip_it_is_binary_cross_entropy() -> None:
    logits, targets = given()
    plain = {"gamma_negative": 0.0, "gamma_positive": 0.0, "clip": 0.0}
    ours = asymmetric_loss(logits, targets, reduction="none", **plain)
    torch.testing.assert_close(ours, F.binary_cross_entropy_with_logits(logits, targets, reduction="none"))
    assert torch.equal(asymmetric_loss(logits, targets.bool(), reduction="none", **plain), ours)


@pytest.mark.parametrize(("gamma_negative", "gamma_positive", "clip"), [(4, 0, 0.05), (2, 1, 0.0), (0.5, 0.3, 0.2)])
def test_values_by_hand(gamma_negative: float, gamma_positive: float, clip: float) -> None:
    logits, targets = given()
    options = {"gamma_negative": gamma_negative, "gamma_positive": gamma_positive, "clip": clip}
    expected = [
        [by_hand(x, bool(y), **options) for x, y in zip(row, labels)]
        for row, labels in zip(logits.tolist(), targets.tolist())
    ]
    for through in (True, False):
        found = asymmetric_loss(logits, targets, reduction="none", focus_gradient=through, **options)
        torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_a_value_with_pencil_and_paper() -> None:
    """p = 1/2: a negative has 0.45^4 of -log 0.55, a positive log 2."""
    logits = torch.zeros(1, 2)
    found = asymmetric_loss(logits, torch.tensor([[0.0, 1.0]]), reduction="none")
    torch.testing.assert_close(found, torch.tensor([[0.45**4 * -math.log(0.55), math.log(2)]]))


@pytest.mark.parametrize(("gamma_negative", "gamma_positive", "clip"), [(4, 0, 0.05), (2, 1, 0.0), (0.5, 0.3, 0.2)])
def test_the_gradient_is_that_of_the_value(gamma_negative: float, gamma_positive: float, clip: float) -> None:
    logits, targets = given()

    def loss(x: Tensor) -> Tensor:
        return asymmetric_loss(
            x, targets, gamma_negative=gamma_negative, gamma_positive=gamma_positive, clip=clip, reduction="none"
        )

    assert torch.autograd.gradcheck(loss, (logits.requires_grad_(),))


def test_held_factors_leave_the_slope_of_the_logarithm_alone() -> None:
    """Negatives: p_m^gamma * p (1 - p) / (1 - p_m); positives without gamma: p - 1."""
    logits, targets = given()
    logits.requires_grad_()
    asymmetric_loss(logits, targets, focus_gradient=False, reduction="sum").backward()
    p = logits.detach().sigmoid()
    shifted = (p - 0.05).clamp(min=0)
    negative = torch.where(shifted > 0, shifted**4 * p * (1 - p) / (1 - shifted), 0.0)
    torch.testing.assert_close(logits.grad, torch.where(targets.bool(), p - 1, negative))
    through = torch.autograd.grad(asymmetric_loss(logits, targets, reduction="sum"), logits)[0]
    hard = ~targets.bool() & (shifted > 0)
    assert bool((through[hard] > logits.grad[hard]).all())  # the factor falls with the logit, too


@pytest.mark.parametrize("through", [True, False])
@pytest.mark.parametrize(("gammas", "clip"), [((4.0, 0.0), 0.05), ((4.0, 1.0), 0.0), ((0.5, 0.5), 0.05), ((0, 0.5), 0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_loss_and_gradient_are_finite_far_out(
    through: bool, gammas: tuple[float, float], clip: float, dtype: torch.dtype
) -> None:
    edge = math.log(0.05 / 0.95)  # p = clip
    row = torch.tensor([-1e4, -100.0, edge, 0.0, 100.0, 1e4], dtype=dtype)
    logits = torch.stack([row, row]).requires_grad_()
    targets = torch.stack([torch.zeros(6), torch.ones(6)])
    losses = asymmetric_loss(
        logits,
        targets,
        gamma_negative=gammas[0],
        gamma_positive=gammas[1],
        clip=clip,
        focus_gradient=through,
        reduction="none",
    )
    losses.sum().backward()
    assert bool(losses.isfinite().all())
    assert bool((losses >= 0).all())
    assert logits.grad is not None
    assert bool(logits.grad.isfinite().all())
    assert losses.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert losses[1, 0].item() == pytest.approx(1e4, rel=0.01)  # a label that is missed outright


def test_easy_negatives_have_no_loss_and_no_slope() -> None:
    logits = torch.tensor([[-3.0, -2.9, -5.0]], requires_grad=True)  # p = 0.047, 0.052, 0.007
    losses = asymmetric_loss(logits, torch.zeros(1, 3), reduction="none")
    losses.sum().backward()
    assert losses[0, 0] == losses[0, 2] == 0
    assert logits.grad is not None
    assert logits.grad[0, 0] == logits.grad[0, 2] == 0
    assert losses[0, 1] > 0
    assert logits.grad[0, 1] > 0


def test_unknown_labels_do_not_count() -> None:
    logits, targets = given()
    logits.requires_grad_()
    known = torch.rand(logits.shape, generator=torch.Generator().manual_seed(1)) < 0.6
    every = asymmetric_loss(logits, targets, reduction="none").detach()
    kept = every * known
    torch.testing.assert_close(asymmetric_loss(logits, targets, known=known, reduction="none"), kept)
    torch.testing.assert_close(asymmetric_loss(logits, targets, known=known, reduction="sum"), kept.sum())
    torch.testing.assert_close(asymmetric_loss(logits, targets, known=known, reduction="mean"), every[known].mean())
    loss = asymmetric_loss(logits, targets, known=known)
    torch.testing.assert_close(loss, kept.sum() / 5)
    loss.backward()
    assert logits.grad is not None
    assert bool((logits.grad[~known] == 0).all())
    assert asymmetric_loss(logits, targets, known=torch.zeros_like(known), reduction="mean") == 0


def test_reductions() -> None:
    logits, targets = given()
    every = asymmetric_loss(logits, targets, reduction="none")
    torch.testing.assert_close(asymmetric_loss(logits, targets), every.sum(1).mean())
    torch.testing.assert_close(asymmetric_loss(logits, targets, reduction="sum"), every.sum())
    torch.testing.assert_close(asymmetric_loss(logits, targets, reduction="mean"), every.mean())
    with pytest.raises(ValueError, match=r"'max'; choose none, mean, sum or image"):
        asymmetric_loss(logits, targets, reduction="max")  # type: ignore[arg-type]


def test_what_does_not_fit_is_refused() -> None:
    logits, targets = given()
    with pytest.raises(ValueError, match=r"\[5, 7\] and targets \[5\]"):
        asymmetric_loss(logits, targets[:, 0])
    with pytest.raises(ValueError, match=r"known is \[5, 7\] of torch.float64; it is bool"):
        asymmetric_loss(logits, targets, known=targets)
    with pytest.raises(ValueError, match="gamma_negative -1"):
        asymmetric_loss(logits, targets, gamma_negative=-1)
    with pytest.raises(ValueError, match=r"clip 1 is not inside \[0, 1\)"):
        asymmetric_loss(logits, targets, clip=1)
