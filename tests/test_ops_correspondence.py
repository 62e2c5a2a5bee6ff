"""Scores of patch pairs, and the pairwise loss on them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from vitrail.ops.correspondence import correspondence, correspondence_bce


def features(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_scores_are_cosines_of_all_pairs() -> None:
    u, v = features(2, 4, 6), features(2, 5, 6, seed=1)
    scores = correspondence(u, v)
    assert scores.shape == (2, 20)
    for image in range(2):
        for a in range(4):
            for b in range(5):
                cosine = functional.cosine_similarity(u[image, a], v[image, b], dim=0)
                assert scores[image, a * 5 + b].item() == pytest.approx(cosine.item() / 2 + 0.5, abs=1e-12)
    torch.testing.assert_close(correspondence(u, v, "raw"), 2 * scores - 1)
    torch.testing.assert_close(correspondence(3 * u, 0.1 * v), scores)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_scores_are_wide_under_autocast(dtype: torch.dtype) -> None:
    u, v = features(1, 30, 64).to(dtype).requires_grad_(), features(1, 30, 64, seed=1).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = correspondence(u, v)
        scores.sum().backward()
    assert scores.dtype == torch.float32
    assert u.grad.dtype == dtype
    assert torch.equal(scores, correspondence(u.double(), v.double()).float())
    assert len(scores.unique()) > 890  # of 900: few ties


def test_features_of_zeros_have_no_direction() -> None:
    u = torch.zeros(1, 2, 3, requires_grad=True)
    scores = correspondence(u, features(1, 2, 3).float())
    scores.sum().backward()
    assert (scores == 0.5).all()
    assert u.grad.isfinite().all()


def test_cross_entropy_is_its_definition() -> None:
    p, q = torch.rand(3, 40, dtype=torch.float64, requires_grad=True), torch.rand(3, 40, dtype=torch.float64)
    q.requires_grad_()
    loss = correspondence_bce(p, q)
    expected = functional.binary_cross_entropy(p.detach(), q.detach(), reduction="none").mean(-1)
    torch.testing.assert_close(loss, expected)
    loss.sum().backward()
    torch.testing.assert_close(p.grad, ((p - q) / (p * (1 - p)) / 40).detach())
    assert q.grad is None


def test_cross_entropy_of_certain_scores_is_finite() -> None:
    p = torch.tensor([[0.0, 1.0, 1.0 + 1e-7, 0.0]], requires_grad=True)
    loss = correspondence_bce(p, torch.tensor([[1.0, 0.0, 1.0, 0.0]]))
    loss.sum().backward()
    assert 7 < loss.item() < 9  # two of four pairs are as wrong as can be: 16 nats each
    assert p.grad.isfinite().all()


def test_bad_input_is_answered_in_words() -> None:
    u = features(2, 3, 4)
    for v in (features(1, 3, 4), features(2, 3, 5), features(3, 4)):
        with pytest.raises(ValueError, match=r"\[2, 3, 4\] and \[.*one B and one D"):
            correspondence(u, v)
    with pytest.raises(ValueError, match=r"'cos'.*'half'.*'raw'"):
        correspondence(u, u, "cos")
    with pytest.raises(ValueError, match=r"\[3\] and q \[2\]"):
        correspondence_bce(torch.rand(3), torch.rand(2))
    with pytest.raises(ValueError, match=r"p runs from -1 to 0.5.*'half'"):
        correspondence_bce(torch.tensor([-1.0, 0.5]), torch.rand(2))
    with pytest.raises(ValueError, match=r"q runs from 0 to 2"):
        correspondence_bce(torch.rand(2), torch.tensor([0.0, 2.0]))
