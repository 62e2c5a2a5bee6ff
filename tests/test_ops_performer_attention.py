"""Attention by random features: the sum over all pairs, what it stands for, and half precision."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from vitrail.ops.performer_attention import draw_directions, performer_attention


def pair_by_pair(query: Tensor, key: Tensor, value: Tensor, w: Tensor) -> Tensor:
    """The definition, one query and one key after the other."""
    mixed = torch.zeros(*query.shape[:2], value.shape[2], dtype=value.dtype)
    for image in range(len(query)):
        for t, q in enumerate(query[image]):
            total = 1e-8
            for k, v in zip(key[image], value[image], strict=True):
                features = (math.exp(row @ q - q @ q / 2) * math.exp(row @ k - k @ k / 2) for row in w)
                product = sum(features) / len(w)
                total += product
                mixed[image, t] += product * v
            mixed[image, t] /= total
    return mixed


def drawn(*shape: int, scale: float = 0.5) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64) * scale


def test_is_the_sum_over_all_pairs() -> None:
    query, key, value, w = drawn(2, 5, 6), drawn(2, 7, 6), drawn(2, 7, 3), drawn(4, 6, scale=1.0)
    found = performer_attention(query, key, value, w)
    torch.testing.assert_close(found, pair_by_pair(query, key, value, w), atol=1e-12, rtol=1e-12)


def test_tokens_that_are_far_from_all_directions_give_zero_and_no_nan() -> None:
    far = torch.full((1, 3, 4), 40.0)
    found = performer_attention(far, far, torch.ones(1, 3, 2), torch.zeros(2, 4))
    assert torch.equal(found, torch.zeros(1, 3, 2))


def test_many_normal_directions_are_softmax_attention() -> None:
    query, key, value = drawn(1, 4, 3), drawn(1, 6, 3), drawn(1, 6, 2)
    found = performer_attention(query, key, value, torch.randn(200_000, 3, dtype=torch.float64))
    torch.testing.assert_close(found, (query @ key.transpose(1, 2)).softmax(-1) @ value, atol=0.01, rtol=0.01)


def test_directions_are_orthogonal_and_of_one_length() -> None:
    w = draw_directions(5, 12)
    torch.testing.assert_close(w @ w.T, 5 * torch.eye(5), atol=1e-5, rtol=0)


def test_gradients() -> None:
    given = [drawn(1, 3, 4).requires_grad_(), drawn(1, 3, 4).requires_grad_(), drawn(1, 3, 2).requires_grad_()]
    w = drawn(2, 4)
    assert torch.autograd.gradcheck(lambda *each: performer_attention(*each, w), given)


@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_is_computed_wide(autocast: bool) -> None:
    query, key, value = (torch.randn(1, 5, 8).bfloat16() * 3 for _ in range(3))
    w = draw_directions(4, 8)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = performer_attention(query, key, value, w)
    assert found.dtype == torch.float32
    assert torch.equal(found, performer_attention(query.float(), key.float(), value.float(), w))
