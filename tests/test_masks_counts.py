"""Shares, numbers and grids."""

from __future__ import annotations

import pytest
import torch

from vitrail.masks.counts import most_visible, number_of, numbers, patch_size

CPU = torch.device("cpu")


def test_a_share_follows_maes_rule() -> None:
    for patches in (1, 2, 36, 49, 100, 196, 1369):
        for share in (0.05, 0.25, 0.6, 0.75, 0.9):
            kept = int(patches * (1 - share))
            if kept:
                assert number_of(share, patches) == patches - kept
    assert number_of(0.75, 196) == 147
    assert numbers(0.75, 3, 196, CPU).tolist() == [147] * 3
    assert numbers(5, 2, 196, CPU).dtype == torch.int64


@pytest.mark.parametrize(
    ("hidden", "words"),
    [
        (1.0, r"hidden is 1\.0; a share lies inside \(0, 1\)"),
        (0.0, r"hidden is 0\.0; a share lies inside \(0, 1\)"),
        (float("nan"), r"hidden is nan"),
        (True, r"hidden is True"),
        (-1, r"hidden is -1 patches"),
        (4, r"hidden is 4 patches of 4: a mask that hides everything .* at most 3"),
        (0.9, r"hidden 0\.9 is 4 patches of 4: a mask that hides everything .* at most 3"),
        (torch.tensor([0, 4]), r"hidden is 4 patches of 4"),
        (torch.tensor([0, -2]), r"hidden is -2 patches"),
        (torch.tensor([0.5, 0.5]), r"hidden is \[2\] of torch.float32; .* int64 \[2\]"),
        (torch.tensor(2), r"hidden is \[\] of torch.int64"),
    ],
)
def test_what_is_no_number(hidden: float, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        numbers(hidden, 2, 4, CPU)


def test_most_visible_looks_at_images_that_hide_any() -> None:
    assert most_visible(0.75, 196) == 49
    assert (most_visible(195, 196), most_visible(0, 196)) == (1, 1)
    assert most_visible(torch.tensor([0, 10, 3, 0]), 20) == 17
    assert most_visible(torch.tensor([0, 0]), 20) == 1


def test_patches_may_be_higher_than_wide() -> None:
    assert patch_size(torch.zeros(1, 3, 32, 48), (2, 6)) == (16, 8)
    with pytest.raises(ValueError, match=r"image width 48 does not divide into the 5 patches of a 2x5 grid"):
        patch_size(torch.zeros(1, 3, 32, 48), (2, 5))
    with pytest.raises(ValueError, match=r"image height 2 does not divide into the 4 patches"):
        patch_size(torch.zeros(1, 3, 2, 48), (4, 6))
    with pytest.raises(ValueError, match=r"\(3, 32, 48\); masks need \[B, C, H, W\]"):
        patch_size(torch.zeros(3, 32, 48), (2, 6))
