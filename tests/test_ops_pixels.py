"""Pixels from one normalization to another."""

from __future__ import annotations

import pytest
import torch

from vitrail.ops.pixels import Normalization, renormalize

IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = Normalization((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def normalized(pixels: torch.Tensor, by: Normalization) -> torch.Tensor:
    mean, std = (torch.tensor(values, dtype=pixels.dtype).view(3, 1, 1) for values in by)
    return (pixels - mean) / std


def test_it_is_what_normalizing_the_pixels_would_have_given() -> None:
    pixels = torch.rand(2, 3, 4, 5, dtype=torch.float64)
    found = renormalize(normalized(pixels, IMAGENET), IMAGENET, HALF)
    torch.testing.assert_close(found, normalized(pixels, HALF))
    torch.testing.assert_close(renormalize(found, HALF, IMAGENET), normalized(pixels, IMAGENET))


def test_equal_normalizations_change_nothing() -> None:
    images = torch.randn(1, 3, 2, 2)
    assert renormalize(images, HALF, Normalization([0.5] * 3, [0.5] * 3)) is images


def test_other_numbers_of_channels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"images have 1 channels; means and deviations are for \[3, 3, 3, 3\]"):
        renormalize(torch.zeros(1, 1, 2, 2), IMAGENET, HALF)
