"""Attention under a policy: plain with everything on, physically smaller with tokens off, and with gradients."""

from __future__ import annotations

import pytest
import torch
from timm.layers import Attention
from torch import Tensor

from vitrail.nn.policy_attention import policy_attention


def setting() -> tuple[Attention, Tensor]:
    torch.manual_seed(0)
    attn = Attention(12, num_heads=3, qkv_bias=True).double().eval()
    with torch.no_grad():
        attn.qkv.weight.mul_(4)
    return attn, torch.randn(2, 7, 12, dtype=torch.float64)


def test_with_everything_on_it_is_plain_attention() -> None:
    attn, x = setting()
    torch.testing.assert_close(policy_attention(attn, x, x.new_ones(2, 7), x.new_ones(2, 3)), attn(x))


def test_tokens_that_are_off_are_as_if_they_were_not_there() -> None:
    attn, x = setting()
    kept = torch.tensor([0, 2, 3, 6])
    policy = torch.zeros(2, 7, dtype=torch.float64).index_fill(1, kept, 1)
    torch.testing.assert_close(policy_attention(attn, x, policy)[:, kept], attn(x[:, kept]))


def test_weights_by_hand() -> None:
    """Also with a policy between 0 and 1."""
    attn, x = setting()
    policy = torch.rand(2, 7, dtype=torch.float64)
    query, key, value = attn.qkv(x).view(2, 7, 3, 3, 4).permute(2, 0, 3, 1, 4)
    mixed = torch.zeros_like(query)
    for image in range(2):
        for head in range(3):
            for row in range(7):
                gate = policy[image].clone()
                gate[row] = 1
                weight = (key[image, head] @ query[image, head, row] / 2).exp() * gate
                mixed[image, head, row] = (weight / weight.sum()) @ value[image, head]
    torch.testing.assert_close(policy_attention(attn, x, policy), attn.proj(mixed.transpose(1, 2).reshape(2, 7, 12)))


@pytest.mark.parametrize("as_identity", [False, True])
def test_heads_that_are_off(as_identity: bool) -> None:
    attn, x = setting()
    heads = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    query, key, value = attn.qkv(x).view(2, 7, 3, 3, 4).permute(2, 0, 3, 1, 4)
    mixed = (query @ key.transpose(-2, -1) / 2).softmax(-1) @ value
    for image, head in (heads == 0).nonzero().tolist():
        mixed[image, head] = value[image, head] if as_identity else 0
    expected = attn.proj(mixed.transpose(1, 2).reshape(2, 7, 12))
    found = policy_attention(attn, x, x.new_ones(2, 7), heads, as_identity=as_identity)
    torch.testing.assert_close(found, expected)


def test_gradients_of_heads() -> None:
    attn, x = setting()
    policy = torch.rand(2, 7, dtype=torch.float64)
    heads = torch.rand(2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda h: policy_attention(attn, x[:1], policy[:1], h[:1]), (heads,))


def test_gradients_of_tokens_that_are_on_are_slopes() -> None:
    attn, x = setting()
    policy = torch.ones(1, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda p: policy_attention(attn, x[:1], p), (policy,))


@pytest.mark.parametrize("binary", [True, False])
def test_gradients_of_tokens_that_are_off_say_what_switching_them_on_changes(binary: bool) -> None:
    """So they are bounded, also where a token that is off has by far the largest score."""
    attn, x = setting()
    policy = torch.rand(2, 7, dtype=torch.float64)
    policy = (policy > 0.5).double() if binary else policy
    weight = torch.randn(2, 7, 12, dtype=torch.float64)
    policy.requires_grad_(True)
    made = (policy_attention(attn, x, policy) * weight).sum((1, 2))
    made.sum().backward()
    assert policy.grad is not None
    with torch.no_grad():
        for token in range(7):
            on = policy.detach().clone()
            on[:, token] = 1
            change = (policy_attention(attn, x, on) * weight).sum((1, 2)) - made
            torch.testing.assert_close(policy.grad[:, token] * (1 - policy[:, token]), change)


def test_it_stays_finite_where_all_that_is_on_is_far_below() -> None:
    attn, x = setting()
    attn, x = attn.float(), x.float()
    with torch.no_grad():
        attn.qkv.weight.mul_(200)
    policy = torch.zeros(2, 7, requires_grad=True)
    made = policy_attention(attn, x, policy)
    made.sum().backward()
    assert made.isfinite().all()
    assert policy.grad is not None
