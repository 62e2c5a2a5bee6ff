"""PSNR and SSIM against closed forms, a Gaussian filter of scipy's, and windows one by one."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from vitrail.ops.image_quality import dissimilarity, psnr, ssim


def draw(*shape: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    first = torch.rand(*shape, generator=generator, dtype=torch.float64)
    return first, (first + 0.2 * torch.randn(*shape, generator=generator, dtype=torch.float64)).clamp(0, 1)


class TestPsnr:
    def test_closed_forms(self) -> None:
        zeros = torch.zeros(3, 2, 4, 4)
        other = torch.tensor([0.1, 1.0, 0.0]).view(3, 1, 1, 1).expand_as(zeros)
        torch.testing.assert_close(psnr(zeros, other), torch.tensor([20.0, 0.0, 120.0]))
        torch.testing.assert_close(psnr(zeros, other * 255, data_range=255), torch.tensor([20.0, 0.0, 120.0]))
        assert psnr(zeros, zeros, limit=80).tolist() == [80, 80, 80]

    def test_one_pixel(self) -> None:
        first = torch.zeros(1, 3, 8, 8)
        second = first.clone()
        second[0, 1, 2, 3] = 0.5
        assert psnr(first, second).item() == pytest.approx(10 * math.log10(3 * 64 / 0.25), rel=1e-6)

    def test_half_precision_is_summed_wider(self) -> None:
        first, second = (value.bfloat16() for value in draw(2, 3, 16, 16))
        torch.testing.assert_close(psnr(first, second), psnr(first.double(), second.double()).float())


class TestSsim:
    def test_float32_orders_what_nearly_agrees(self) -> None:
        """Changes of a ten thousandth and less, whose SSIM is 1 in float32."""
        first, _ = draw(1, 3, 24, 24, seed=2)
        noise = torch.randn(12, 3, 24, 24, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        second = first + noise * torch.linspace(1e-5, 1e-4, 12, dtype=torch.float64).view(-1, 1, 1, 1)
        first = first.expand_as(second)
        exact, found = dissimilarity(first, second), dissimilarity(first.float(), second.float())
        assert exact.max() < 1e-6
        torch.testing.assert_close(found.double(), exact, rtol=0.02, atol=0)
        assert found.argsort().tolist() == exact.argsort().tolist()

    def test_identical(self) -> None:
        first, _ = draw(2, 3, 16, 12)
        torch.testing.assert_close(ssim(first, first), torch.ones(2, dtype=torch.float64), atol=1e-12, rtol=0)

    def test_flat_images(self) -> None:
        first, second = (torch.full((1, 1, 11, 11), value, dtype=torch.float64) for value in (0.3, 0.5))
        expected = (2 * 0.15 + 1e-4) / (0.09 + 0.25 + 1e-4)
        assert ssim(first, second).item() == pytest.approx(expected, abs=1e-12)

    def test_negative_of_an_image(self) -> None:
        first, _ = draw(1, 1, 20, 20)
        assert ssim(first, 1 - first).item() < -0.5

    def test_windows_one_by_one(self) -> None:
        first, second = draw(2, 3, 13, 15, seed=1)
        offsets = np.arange(11) - 5
        weights = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))
        weights /= weights.sum()
        for b in range(2):
            values = []
            for c in range(3):
                for y in range(3):
                    for x in range(5):
                        one, two = (v[b, c, y : y + 11, x : x + 11].numpy() for v in (first, second))
                        m1, m2 = (weights * one).sum(), (weights * two).sum()
                        v1, v2 = (weights * (one - m1) ** 2).sum(), (weights * (two - m2) ** 2).sum()
                        cov = (weights * (one - m1) * (two - m2)).sum()
                        values.append(
                            (2 * m1 * m2 + 1e-4) * (2 * cov + 9e-4) / ((m1**2 + m2**2 + 1e-4) * (v1 + v2 + 9e-4))
                        )
            assert ssim(first, second)[b].item() == pytest.approx(float(np.mean(values)), abs=1e-12)

    def test_a_filter_of_scipy(self) -> None:
        first, second = draw(1, 1, 24, 30, seed=2)

        def blur(value: np.ndarray) -> np.ndarray:
            for axis in (0, 1):
                value = gaussian_filter1d(value, 2.0, axis=axis, radius=3)
            return value[3:-3, 3:-3]

        one, two = first[0, 0].numpy() * 255, second[0, 0].numpy() * 255
        m1, m2 = blur(one), blur(two)
        v1, v2, cov = blur(one * one) - m1**2, blur(two * two) - m2**2, blur(one * two) - m1 * m2
        c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
        expected = ((2 * m1 * m2 + c1) * (2 * cov + c2) / ((m1**2 + m2**2 + c1) * (v1 + v2 + c2))).mean()
        found = ssim(first * 255, second * 255, data_range=255, window=7, sigma=2.0)
        assert found.item() == pytest.approx(float(expected), abs=1e-9)

    def test_autocast_changes_nothing(self) -> None:
        first, second = (value.float() for value in draw(1, 3, 16, 16))
        expected = ssim(first, second)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(ssim(first, second), expected)


def test_errors() -> None:
    first, second = draw(1, 3, 12, 12)
    for measure in (psnr, ssim):
        with pytest.raises(ValueError, match=r"\[1, 3, 12, 12\] and \[1, 3, 12, 11\]"):
            measure(first, second[..., 1:])
        with pytest.raises(ValueError, match="data_range is 0"):
            measure(first, second, data_range=0)
    with pytest.raises(ValueError, match="10 x 12 and the window 11"):
        ssim(first[:, :, 2:], second[:, :, 2:])
    with pytest.raises(ValueError, match="window is 4"):
        ssim(first, second, window=4)
    with pytest.raises(ValueError, match="sigma 0"):
        ssim(first, second, sigma=0)
