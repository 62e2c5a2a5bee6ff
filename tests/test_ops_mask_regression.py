"""Half the mean squared difference of maps and masks."""

from __future__ import annotations

import pytest
import torch

from vitrail.ops.mask_regression import mask_regression, on_cells


def test_closed_form() -> None:
    maps, masks = torch.rand(3, 4, 5), (torch.rand(3, 4, 5) > 0.5).float()
    assert torch.allclose(mask_regression(maps, masks), ((maps - masks) ** 2).mean() / 2)
    assert mask_regression(masks, masks) == 0
    assert mask_regression(torch.zeros(2, 8, 8), torch.ones(2, 8, 8)) == 0.5


def test_masks_are_averaged_over_cells() -> None:
    mask = torch.zeros(1, 4, 4)
    mask[0, :2, :3] = 1
    assert on_cells(mask, (2, 2)).tolist() == [[[1.0, 0.5], [0.0, 0.0]]]
    assert mask_regression(torch.tensor([[[1.0, 0.5], [0.0, 0.0]]]), mask) == 0


def test_a_map_larger_than_its_mask() -> None:
    mask = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    assert on_cells(mask, (4, 4))[0, :2, :2].eq(1).all()
    assert on_cells(mask, (4, 4)).sum() == 4


def test_gradient_and_precision() -> None:
    maps = torch.rand(2, 3, 3, dtype=torch.float64, requires_grad=True)
    masks = torch.rand(2, 6, 6, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: mask_regression(x, masks), (maps,))
    assert mask_regression(torch.rand(2, 3, 3).bfloat16(), torch.ones(2, 3, 3)).dtype == torch.float32


@pytest.mark.parametrize(("maps", "masks"), [((2, 3, 3), (3, 3, 3)), ((2, 1, 3, 3), (2, 3, 3)), ((2, 3, 3), (3, 3))])
def test_refusals(maps: tuple[int, ...], masks: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"give \[B, h, w\] and \[B, H, W\]"):
        mask_regression(torch.zeros(maps), torch.zeros(masks))
