"""Maps that give the wanted box."""

from __future__ import annotations

import torch

from vitrail.localizers.maps import box_map, of_patches
from vitrail.ops.mean_attention import stretched


def test_a_mask_of_everything_gets_a_hole_and_others_stay() -> None:
    masks = torch.rand(6, 4, 5, generator=torch.Generator().manual_seed(0)) > 0.5
    masks[2], masks[4] = True, False
    maps = box_map(masks)
    assert maps.dtype == torch.float32
    for index in (0, 1, 3, 4, 5):
        assert torch.equal(maps[index], masks[index].float())
    assert (maps[2] == 0).nonzero().tolist() == [[2, 2]]
    assert masks[2].all()
    assert box_map(torch.ones(1, 1, 5, dtype=torch.bool)).min() == 1  # no room


def test_patches_become_their_pixels() -> None:
    mask = torch.tensor([[[True, False], [False, True]]])
    assert torch.equal(of_patches(mask, (2, 3)), torch.kron(mask[0].int(), torch.ones(2, 3).int())[None].bool())


def test_each_map_is_stretched_by_its_own_ends() -> None:
    maps = torch.tensor([[[1.0, 3.0], [2.0, 1.0]], [[-5.0, -5.0], [-5.0, -5.0]]])
    assert stretched(maps).tolist() == [[[0, 1], [0.5, 0]], [[0, 0], [0, 0]]]
