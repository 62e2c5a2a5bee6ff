"""The centered box in pixels."""

from __future__ import annotations

import pytest
import torch
from planted_vit import box_of

from vitrail.localizers.centered_box import CenteredBox

OPENINGS = {
    "default": lambda folder: {},
    "small": lambda folder: {"image_size": (24, 40), "share": 0.25},
}


@pytest.mark.parametrize(
    ("size", "share", "box"),
    [
        ((100, 200), 0.5, (50, 25, 150, 75)),
        ((224, 224), 0.7, (34, 34, 190, 190)),
        ((10, 10), 1.0, (0, 0, 10, 10)),
        ((10, 9), 0.01, (4, 4, 5, 6)),
        ((1, 1), 0.1, (0, 0, 1, 1)),
    ],
)
def test_the_box(size: tuple[int, int], share: float, box: tuple[int, int, int, int]) -> None:
    maps = CenteredBox(share=share)(torch.zeros(2, 3, *size)).maps
    assert maps.shape == (2, *size)
    assert all(box_of(each == 1) == box for each in maps)
    assert maps.unique().tolist() == ([1] if size == (1, 1) else [0, 1])


@pytest.mark.parametrize("share", [0.0, 1.1, -0.5])
def test_shares_that_are_refused(share: float) -> None:
    with pytest.raises(ValueError, match=r"it is the box's part of each side, in \(0, 1\]"):
        CenteredBox(share=share)
