"""Patches and grids."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vitrail.ops.patches import grid_of, patchify, unpatchify


def test_patchify_is_what_a_patch_embedding_sees() -> None:
    images = torch.randn(2, 3, 8, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    embed = nn.Conv2d(3, 5, kernel_size=(4, 2), stride=(4, 2), bias=False, dtype=torch.float64)
    seen = patchify(images, (4, 2)) @ embed.weight.flatten(1).T
    torch.testing.assert_close(seen, embed(images).flatten(2).mT)


def test_unpatchify_is_the_inverse() -> None:
    images = torch.randn(2, 3, 6, 9)
    patches = patchify(images, 3)
    assert patches.shape == (2, 6, 27)
    assert torch.equal(unpatchify(patches, (2, 3), 3), images)
    assert torch.equal(unpatchify(patchify(images[:, :1], (2, 3)), (3, 3), (2, 3)), images[:, :1])


def test_padding_adds_zeros_at_the_bottom_and_right() -> None:
    images = torch.ones(1, 1, 5, 7)
    back = unpatchify(patchify(images, 4, pad=True), grid_of(5, 7, 4, pad=True), 4)
    assert torch.equal(back[:, :, :5, :7], images)
    assert back.shape == (1, 1, 8, 8)
    assert back.sum() == 35


def test_grids() -> None:
    assert grid_of(224, 224, 16) == (14, 14)
    assert grid_of(32, 64, (16, 8)) == (2, 8)
    assert grid_of(225, 10, 16, pad=True) == (15, 1)


def test_gradient_flows_through() -> None:
    images = torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: unpatchify(patchify(x, 2).sin(), (2, 2), 2), images)


def test_bad_input_is_answered_in_words() -> None:
    with pytest.raises(ValueError, match=r"image width 225 is not a multiple of the patch size 16.*240.*pad=True"):
        grid_of(224, 225, 16)
    with pytest.raises(ValueError, match=r"image height 0 and patch size 16"):
        grid_of(0, 16, 16)
    with pytest.raises(ValueError, match=r"\(3, 4, 4\)"):
        patchify(torch.zeros(3, 4, 4), 2)
    with pytest.raises(ValueError, match=r"\(1, 5, 12\).*2x3 grid has 6"):
        unpatchify(torch.zeros(1, 5, 12), (2, 3), 2)
    with pytest.raises(ValueError, match=r"13 values.*2x2"):
        unpatchify(torch.zeros(1, 6, 13), (2, 3), 2)
