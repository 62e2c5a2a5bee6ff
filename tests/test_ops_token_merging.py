"""Token merging against the five steps of the paper, written out token by token."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from vitrail.ops.token_merging import match_tokens, merge_tokens, most_merges


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cosine(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other)) / (math.hypot(*one) * math.hypot(*other))


def defined(keys: list[list[float]], merges: int, protected: int) -> list[int]:
    """Place of each token, by the steps: two sets, one edge each, the r best, merge, concatenate."""
    count = len(keys)
    first, second = list(range(0, count, 2)), list(range(1, count, 2))
    edges = [
        max((cosine(keys[a], keys[b]), -b, a) for b in second if b >= protected)
        for a in first
        if a >= protected and any(b >= protected for b in second)
    ]
    kept = sorted(edges, key=lambda edge: (-edge[0], edge[2]))[:merges]
    into = {a: -b for _, b, a in kept}
    left = [a for a in first if a not in into] + second
    left = list(range(protected)) + [each for each in left if each >= protected]
    return [left.index(into.get(token, token)) for token in range(count)]


@pytest.mark.parametrize("count", [1, 2, 3, 6, 7, 12, 17])
@pytest.mark.parametrize("protected", [0, 1, 2, 3])
def test_the_definition(count: int, protected: int) -> None:
    if protected > count:
        return
    keys = draw(3, count, 4, seed=count)
    for merges in range(most_merges(count, protected) + 1):
        places = match_tokens(keys, merges, protected)
        assert places.dtype == torch.int64
        for row in range(3):
            assert places[row].tolist() == (
                defined(keys[row].tolist(), merges, protected) if merges else list(range(count))
            )
            assert sorted(set(places[row].tolist())) == list(range(count - merges))
            assert places[row, :protected].tolist() == list(range(protected))
            assert (places[row, protected:] >= protected).all()


def test_ties_go_to_the_smaller_place() -> None:
    keys = torch.ones(1, 7, 2)
    # A: 0 2 4 6, B: 1 3 5; 2 and 4 go into 1. Left: 0 6 1 3 5.
    assert match_tokens(keys, 2).tolist() == [[0, 2, 2, 3, 2, 4, 1]]
    assert torch.equal(match_tokens(torch.zeros(1, 7, 2), 2), match_tokens(keys, 2))


def test_only_directions_count() -> None:
    keys = draw(2, 9, 5)
    scaled = keys * torch.rand(2, 9, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64).add(0.1)
    assert torch.equal(match_tokens(keys, 3), match_tokens(scaled, 3))
    narrow = keys.bfloat16()
    assert torch.equal(match_tokens(narrow, 3), match_tokens(narrow.float(), 3))


def test_merging_is_the_weighted_mean() -> None:
    tokens, sizes = draw(2, 6, 3).requires_grad_(), torch.tensor([[1.0, 2, 3, 1, 5, 1], [1, 1, 1, 1, 1, 4]])
    places = torch.tensor([[0, 1, 2, 1, 2, 1], [0, 0, 1, 1, 2, 2]])
    merged, total = merge_tokens(tokens, sizes.double(), places, 3)
    assert total.tolist() == [[1, 4, 8], [2, 2, 5]]
    for row in range(2):
        for place in range(3):
            here = places[row] == place
            mean = (tokens[row, here] * sizes[row, here, None]).sum(0) / sizes[row, here].sum()
            torch.testing.assert_close(merged[row, place], mean)
    assert torch.autograd.gradcheck(lambda x: merge_tokens(x, sizes.double(), places, 3)[0], tokens)


def test_merging_twice_is_merging_once() -> None:
    """Sizes remember, so the mean over a group does not depend on the way."""
    tokens, keys = draw(2, 13, 3), draw(2, 13, 4, seed=1)
    sizes = torch.ones(2, 13, dtype=torch.float64)
    first = match_tokens(keys, 4)
    half, half_sizes = merge_tokens(tokens, sizes, first, 9)
    second = match_tokens(half, 3)
    whole, whole_sizes = merge_tokens(half, half_sizes, second, 6)
    at_once, once_sizes = merge_tokens(tokens, sizes, second.gather(1, first), 6)
    torch.testing.assert_close(whole, at_once)
    assert torch.equal(whole_sizes, once_sizes)
    assert whole_sizes.sum(1).tolist() == [13, 13]


def test_narrow_tokens_are_summed_wide() -> None:
    tokens, sizes = torch.ones(1, 2, 1, dtype=torch.bfloat16), torch.tensor([[300.0, 1.0]])
    merged, total = merge_tokens(tokens, sizes, torch.zeros(1, 2, dtype=torch.int64), 1)
    assert merged.dtype == torch.bfloat16
    assert total.tolist() == [[301]]


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match=r"4 merges among 8 tokens of which 1 are protected; at most 3 can be"):
        match_tokens(draw(1, 8, 2), 4)
    with pytest.raises(ValueError, match=r"-1 merges"):
        match_tokens(draw(1, 8, 2), -1)
    with pytest.raises(ValueError, match=r"keys are \[8, 2\] with 1 protected; give \[B, T, D\] and 0 to T"):
        match_tokens(draw(8, 2), 1)
    with pytest.raises(ValueError, match=r"with 9 protected"):
        match_tokens(draw(1, 8, 2), 0, 9)
    keys = draw(1, 8, 2)
    keys[0, 3, 1] = torch.inf
    with pytest.raises(ValueError, match=r"1 of 16 values of the keys are NaN or infinite"):
        match_tokens(keys, 1)
