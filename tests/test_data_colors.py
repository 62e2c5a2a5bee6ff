"""Changes of color against Pillow's, colorsys, SciPy's Gaussian, and at their ends."""

from __future__ import annotations

import colorsys
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps
from scipy.ndimage import gaussian_filter

from vitrail.data import colors


def levels(height: int = 30, width: int = 40, seed: int = 0) -> np.ndarray:
    """uint8 `[H, W, 3]`, with pure black, white, gray and primary colors among them."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    corners = [[0, 0, 0], [255, 255, 255], [128, 128, 128], [255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0]]
    pixels[0, : len(corners)] = corners
    return pixels


def planes(pixels: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)).astype(np.float32)


def changed(change: Callable[..., None], pixels: np.ndarray, *given: float) -> np.ndarray:
    result = planes(pixels)
    assert change(result, *given) is None
    assert result.dtype == np.float32
    assert result.min() >= -1e-3
    assert result.max() <= 255 + 1e-3
    return result.transpose(1, 2, 0)


@pytest.mark.parametrize("factor", [0.0, 0.6, 1.0, 1.4, 3.0])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (colors.scale_brightness, ImageEnhance.Brightness),
        (colors.scale_contrast, ImageEnhance.Contrast),
        (colors.scale_saturation, ImageEnhance.Color),
    ],
)
def test_as_pillow_but_for_rounding(ours: Callable[..., None], theirs: type, factor: float) -> None:
    pixels = levels()
    expected = np.asarray(theirs(Image.fromarray(pixels)).enhance(factor)).astype(float)
    most = 1 + abs(1 - factor)  # Pillow rounds the gray that it mixes with, and the result
    assert np.abs(changed(ours, pixels, factor) - expected).max() <= most


def test_gray_is_pillows() -> None:
    pixels = levels()
    expected = np.asarray(Image.fromarray(pixels).convert("L")).astype(float)
    assert np.abs(colors.gray(planes(pixels)) - expected).max() <= 0.51


@pytest.mark.parametrize("turn", [0.0, 0.07, -0.1, 1 / 3, 0.5, -0.5])
def test_hue_is_that_of_the_hexcone(turn: float) -> None:
    pixels = levels(12, 12)
    expected = np.empty(pixels.shape)
    for place in np.ndindex(12, 12):
        hue, saturation, value = colorsys.rgb_to_hsv(*pixels[place].astype(float).tolist())
        expected[place] = colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value)
    np.testing.assert_allclose(changed(colors.turn_hue, pixels, turn), expected, atol=1e-3)


def test_hue_in_strips_is_hue_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = levels(31, 17)
    whole = changed(colors.turn_hue, pixels, 0.1)
    for strip in (1, 17 * 4, 17 * 31):
        monkeypatch.setattr(colors, "STRIP", strip)
        assert np.array_equal(changed(colors.turn_hue, pixels, 0.1), whole)


def test_solarize_is_pillows() -> None:
    pixels = levels()
    expected = np.asarray(ImageOps.solarize(Image.fromarray(pixels), 128))
    assert np.array_equal(changed(colors.solarize, pixels, 128), expected)


@pytest.mark.parametrize("sigma", [0.1, 0.7, 1.3, 2.0])
def test_blur_is_a_gaussian(sigma: float) -> None:
    pixels = levels(20, 25)
    expected = gaussian_filter(
        pixels.astype(float), (sigma, sigma, 0), mode="nearest", radius=int(np.ceil(3 * sigma)), axes=(0, 1, 2)
    )
    np.testing.assert_allclose(changed(colors.blur, pixels, sigma), expected, atol=1e-3)


def test_blur_wider_than_the_picture_and_of_a_uniform_one() -> None:
    found = changed(colors.blur, levels()[:1, :2], 2.0)
    assert found.shape == (1, 2, 3)
    np.testing.assert_allclose(changed(colors.blur, np.full((5, 9, 3), 77, np.uint8), 2.0), 77, rtol=1e-6)


def test_arrays_that_are_not_contiguous_are_changed_too() -> None:
    pixels = levels()
    for change, given in [(colors.turn_hue, 0.1), (colors.blur, 1.0), (colors.solarize, 128.0)]:
        laid = pixels.transpose(2, 0, 1).astype(np.float32)  # keeps the order of the memory
        assert not laid.flags.c_contiguous
        change(laid, given)
        np.testing.assert_allclose(laid.transpose(1, 2, 0), changed(change, pixels, given), atol=1e-3)
