"""The class token's attention: softmax over patches by hand, without gradient, in float32."""

from __future__ import annotations

import torch

from vitrail.backbones import BackboneConfig, create
from vitrail.nn.cls_attention import attention_of, cls_attention


def test_by_hand() -> None:
    scores = torch.randn(2, 3, 2, 4)
    found = attention_of(scores.requires_grad_())
    for b in range(2):
        weights = scores[b].reshape(3, 8).exp()
        torch.testing.assert_close(found[b], (weights / weights.sum(1, keepdim=True)).mean(0).detach())
    assert not found.requires_grad
    assert attention_of(scores.bfloat16()).dtype == torch.float32
    assert torch.equal(attention_of(torch.full((1, 2, 2, 2), 1e4)), torch.full((1, 4), 0.25))


def test_of_any_block() -> None:
    torch.manual_seed(0)
    backbone = create(BackboneConfig(image_size=16, patch_size=8, embed_dim=24, depth=3, heads=2))
    images = torch.randn(2, 3, 16, 24)
    every = [cls_attention(backbone, images, block) for block in (0, 1, 2)]
    assert every[0].shape == (2, 6)
    assert torch.equal(cls_attention(backbone, images), every[2])
    assert not torch.allclose(every[0], every[1])
