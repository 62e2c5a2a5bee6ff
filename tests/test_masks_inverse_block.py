"""What is visible is a block."""

from __future__ import annotations

import pytest
import torch

from vitrail.masks import Block, InverseBlock, Random
from vitrail.ops.components import connected_components


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("share", [0.6, 0.75, 0.9])
def test_few_pieces_are_visible(share: float) -> None:
    images = torch.zeros(300, 1, 14, 14)
    means = []
    for strategy in (InverseBlock(), Random()):
        shown = ~strategy(images, (14, 14), share, generator=seeded()).view(-1, 14, 14)
        means.append(connected_components(shown, 4).amax((1, 2)).float().mean().item())
    assert means[0] < 1.7
    assert means[1] > 5


def test_roles_are_swapped() -> None:
    images = torch.zeros(20, 1, 14, 14)
    hidden = torch.arange(20) * 9 + 3
    inverse = InverseBlock()(images, (14, 14), hidden, generator=seeded())
    assert inverse.equal(~Block()(images, (14, 14), 196 - hidden, generator=seeded()))


def test_bad_shapes() -> None:
    with pytest.raises(ValueError, match=r"aspect is 0; it lies in"):
        InverseBlock(aspect=0)
