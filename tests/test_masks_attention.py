"""Masks that follow a teacher's attention."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from scipy import stats
from torch import Tensor

from vitrail.masks import Amt, AttMask


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def blank(batch: int, grid: tuple[int, int]) -> Tensor:
    return torch.zeros(batch, 1, *grid)


def attention(batch: int, count: int) -> Tensor:
    return torch.randn(batch, count, generator=seeded(4)).softmax(1)


@pytest.mark.parametrize("order", ["high", "low"])
def test_attmask_hides_exactly_the_extremes(order: str) -> None:
    weights, hidden = attention(5, 24), torch.tensor([3, 20, 0, 12, 23])
    mask = AttMask(order=order)(blank(5, (4, 6)), (4, 6), hidden, attention=weights)
    for row, number, values in zip(mask, hidden, weights):
        expected = values.topk(int(number), largest=order == "high").indices.sort().values
        assert row.nonzero()[:, 0].equal(expected)


def test_ties_are_broken_at_random() -> None:
    mask = AttMask()(blank(4000, (3, 4)), (3, 4), 5, attention=torch.ones(4000, 12), generator=seeded())
    assert stats.chisquare(mask.sum(0).numpy()).pvalue > 0.01


@pytest.mark.parametrize(("hints", "hidden", "shown"), [(0.1, 60, 6), (0.5, 30, 15), (0.3, 90, 10), (0.01, 60, 0)])
def test_hints_are_shown_and_the_next_take_their_place(hints: float, hidden: int, shown: int) -> None:
    weights = attention(50, 100)
    mask = AttMask(hints)(blank(50, (10, 10)), (10, 10), hidden, attention=weights, generator=seeded())
    order = weights.argsort(1, descending=True)
    ranked = mask.gather(1, order)
    assert (ranked[:, :hidden].sum(1) == hidden - shown).all()
    assert ranked[:, hidden : hidden + shown].all()
    assert not ranked[:, hidden + shown :].any()


def test_any_hidden_patch_may_be_a_hint() -> None:
    weights = attention(1, 20).expand(3000, -1)
    mask = AttMask(0.25)(blank(3000, (4, 5)), (4, 5), 8, attention=weights, generator=seeded())
    shown = (~mask).gather(1, weights.argsort(1, descending=True))[:, :8].sum(0)
    assert shown.sum() == 2 * 3000
    assert stats.chisquare(shown.numpy()).pvalue > 0.01


def test_amt_draws_by_weight_without_replacement() -> None:
    """Against the enumeration of all ordered draws of two."""
    weights = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
    mask = Amt()(blank(30_000, (2, 2)), (2, 2), 2, attention=weights.expand(30_000, -1), generator=seeded())
    expected: dict[int, float] = {}
    for one, other in permutations(range(4), 2):
        chance = float(weights[one] * weights[other] / (1 - weights[one]))
        expected[2**one + 2**other] = expected.get(2**one + 2**other, 0) + chance
    codes = (mask.long() * 2 ** torch.arange(4)).sum(1)
    counts = [int((codes == code).sum()) for code in expected]
    assert stats.chisquare(counts, [30_000 * chance for chance in expected.values()]).pvalue > 0.01


def test_amt_hides_the_attended_more_often_at_any_scale() -> None:
    weights = torch.linspace(0.1, 1, 12)
    often = []
    for scale in (1.0, 1e-30, 1e30):
        rows = (weights * scale).expand(5000, -1)
        often.append(Amt()(blank(5000, (3, 4)), (3, 4), 4, attention=rows, generator=seeded()).float().mean(0))
    assert (often[0].diff() > -0.01).all()
    assert often[0][-1] > 3 * often[0][0]
    torch.testing.assert_close(often[1], often[0], atol=0.01, rtol=0)
    torch.testing.assert_close(often[2], often[0], atol=0.01, rtol=0)


def test_amt_takes_patches_without_attention_last_and_at_random() -> None:
    weights = torch.zeros(3000, 9)
    weights[:, 4] = 1e-6
    mask = Amt()(blank(3000, (3, 3)), (3, 3), 3, attention=weights, generator=seeded())
    assert mask[:, 4].all()
    others = mask.sum(0)[torch.arange(9) != 4]
    assert stats.chisquare(others.numpy()).pvalue > 0.01


def test_amt_masked_and_thrown_are_nested() -> None:
    weights = attention(6, 24)
    few, more = (Amt()(blank(6, (4, 6)), (4, 6), n, attention=weights, generator=seeded()) for n in (9, 17))
    assert not (few & ~more).any()
    assert not few.equal(more)


@pytest.mark.parametrize("mask", [AttMask(), AttMask(0.2), Amt()])
def test_attention_is_checked(mask: AttMask | Amt) -> None:
    def call(values: Tensor | None) -> Tensor:
        return mask(blank(2, (2, 3)), (2, 3), 3, attention=values)

    good = attention(2, 6)
    assert call(good.bfloat16()).sum(1).tolist() == [3, 3]
    with pytest.raises(ValueError, match=r"needs attention: pass attention=\[B, N\]"):
        call(None)
    with pytest.raises(ValueError, match=r"attention is \[2, 7\] of torch.float32; .* \[2, 6\].* without the class"):
        call(torch.rand(2, 7))
    with pytest.raises(ValueError, match=r"\[2, 6\] of torch.int64"):
        call(torch.ones(2, 6, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"images \[1\] holds NaN"):
        call(good.where(torch.arange(12).view(2, 6) != 8, torch.nan))
    with pytest.raises(ValueError, match=r"goes down to -1; .* after the softmax"):
        call(good - good.amin() - 1)


def test_bad_settings() -> None:
    with pytest.raises(ValueError, match=r"hints is 1\.0; .* \[0, 1\)"):
        AttMask(1.0)
    with pytest.raises(ValueError, match=r"not 'middle'"):
        AttMask(order="middle")
    with pytest.raises(ValueError, match=r'hints is 0\.1 with order "low"'):
        AttMask(0.1, "low")
