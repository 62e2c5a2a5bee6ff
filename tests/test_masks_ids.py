"""Ids of what is visible, and the way back."""

from __future__ import annotations

import pytest
import torch

from vitrail.masks import Random, restore, visible


def test_visible_ids_ascend_and_name_what_is_not_hidden() -> None:
    mask = torch.tensor([[True, False, True, False], [False, False, True, True]])
    assert visible(mask).tolist() == [[1, 3], [0, 1]]
    assert visible(mask, 2).equal(visible(mask))
    assert visible(mask, 0.5).dtype == torch.int64
    assert visible(torch.zeros(0, 4, dtype=torch.bool)).shape == (0, 0)


def test_restore_undoes_visible_first() -> None:
    mask = Random()(torch.zeros(5, 3, 6, 8), (6, 8), torch.tensor([0, 3, 47, 20, 9]))
    values = torch.arange(48).expand(5, -1)
    apart = torch.stack([torch.cat([row[~hidden], row[hidden]]) for row, hidden in zip(values, mask)])
    assert apart.gather(1, restore(mask)).equal(values)


def test_images_that_keep_different_numbers_cannot_be_dropped_from() -> None:
    mask = torch.tensor([[True, False, True], [False, False, True]])
    with pytest.raises(ValueError, match=r"image 0 keeps 1 patches and image 1 keeps 2; .* mask token"):
        visible(mask)
    with pytest.raises(ValueError, match=r"the mask keeps 1 of 3 patches, hidden 1 keeps 2"):
        visible(mask[:1], 1)
    with pytest.raises(ValueError, match=r"torch.int64 \[2, 3\]; it is bool"):
        visible(mask.long())
    with pytest.raises(ValueError, match=r"torch.bool \[3\]"):
        restore(mask[0])
