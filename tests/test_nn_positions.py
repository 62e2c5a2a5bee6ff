"""Fixed positions against the formula written out, numbers by hand, and symmetries."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from vitrail.nn.positions import sine_cosine, sine_cosine_of_numbers


def written_out(rows: int, columns: int, width: int) -> np.ndarray:
    """Channel by channel, in float64: first half of the column, second half of the row, sines before cosines."""
    table = np.zeros((rows * columns, width))
    quarter = width // 4
    for patch in range(rows * columns):
        y, x = divmod(patch, columns)
        for half, place in enumerate((x, y)):
            for i in range(quarter):
                angle = place / 10000 ** (i / quarter)
                table[patch, half * 2 * quarter + i] = math.sin(angle)
                table[patch, half * 2 * quarter + quarter + i] = math.cos(angle)
    return table


@pytest.mark.parametrize(("grid", "width"), [((3, 5), 16), ((1, 1), 4), ((14, 14), 512), ((7, 2), 20), ((32, 4), 8)])
def test_the_formula(grid: tuple[int, int], width: int) -> None:
    found = sine_cosine(grid, width)
    assert found.shape == (grid[0] * grid[1], width)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), written_out(*grid, width), atol=1e-5)


def test_numbers_by_hand() -> None:
    # The patch in row 1, column 2 of a grid three wide. Frequencies of 8 channels: 1 and 1 / sqrt(10000) = 0.01.
    expected = [0.909297, 0.019999, -0.416147, 0.999800, 0.841471, 0.010000, 0.540302, 0.999950]
    torch.testing.assert_close(sine_cosine((2, 3), 8)[5], torch.tensor(expected), atol=2e-6, rtol=0)
    assert sine_cosine((2, 3), 8)[0].tolist() == [0, 0, 1, 1, 0, 0, 1, 1]


def test_turning_the_grid_swaps_the_halves() -> None:
    wide, tall = sine_cosine((3, 5), 12).view(3, 5, 12), sine_cosine((5, 3), 12).view(5, 3, 12)
    assert torch.equal(wide, torch.cat((tall[..., 6:], tall[..., :6]), dim=2).transpose(0, 1))


def test_a_smaller_grid_is_a_corner_of_a_larger_one() -> None:
    assert torch.equal(sine_cosine((6, 7), 8).view(6, 7, 8)[:2, :3], sine_cosine((2, 3), 8).view(2, 3, 8))


@pytest.mark.parametrize("width", [0, 6, 30])
def test_widths_that_do_not_divide(width: int) -> None:
    with pytest.raises(ValueError, match=rf"width {width} is not a multiple of 4.*choose {width // 4 * 4 + 4}"):
        sine_cosine((2, 2), width)


def test_no_patches() -> None:
    with pytest.raises(ValueError, match="0x3 has no patches"):
        sine_cosine((0, 3), 8)


@pytest.mark.parametrize(("count", "width"), [(197, 24), (5, 7), (1, 1), (0, 4)])
def test_of_numbers_is_the_formula(count: int, width: int) -> None:
    found = sine_cosine_of_numbers(count, width)
    assert (found.shape, found.dtype) == ((count, width), torch.float32)
    for n in range(count):
        for channel in range(width):
            angle = n / 10000 ** (2 * (channel // 2) / width)
            expected = math.cos(angle) if channel % 2 else math.sin(angle)
            assert abs(found[n, channel].item() - expected) < 1e-7


def test_of_numbers_without_channels() -> None:
    with pytest.raises(ValueError, match="width 0 is not positive"):
        sine_cosine_of_numbers(3, 0)
