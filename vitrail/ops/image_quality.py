"""How alike two images are: PSNR and SSIM, one number for each pair.

    PSNR = 10 log10(range^2 / mean squared difference)
    SSIM = mean over windows of (2 m_a m_b + c1)(2 s_ab + c2) / ((m_a^2 + m_b^2 + c1)(s_a^2 + s_b^2 + c2))

with means m, variances s^2 and covariance s_ab under a Gaussian window; c1 = (0.01 range)^2, c2 = (0.03 range)^2. Of
images that nearly agree it is computed from what it lacks to 1, so that float32 can tell which agree better:

    1 - (first factor) = (m_a - m_b)^2 / (m_a^2 + m_b^2 + c1),   1 - (second) = s_(a-b)^2 / (s_a^2 + s_b^2 + c2)

Source: Wang et al., "Image Quality Assessment: From Error Visibility to Structural Similarity", 2004: a window of 11
pixels and sigma 1.5, only where the whole window lies within the image, color channels by themselves and then averaged.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def psnr(first: Tensor, second: Tensor, *, data_range: float = 1.0, limit: float = 120.0) -> Tensor:
    """Peak signal-to-noise ratio.

    Args:
        first, second: `[B, C, H, W]`, of one shape; computed in float32 or wider.
        data_range: largest pixel less the smallest, as they could be.
        limit: dB, the most that is returned: images that are identical have it.

    Returns:
        dB, `[B]`.

    Raises:
        ValueError: shapes that differ, or a range that is not positive.
    """
    first, second = _pair(first, second, data_range)
    error = ((first - second) / data_range).square().mean((1, 2, 3))
    return -10 * error.clamp(min=10 ** (-limit / 10)).log10()


def ssim(first: Tensor, second: Tensor, *, data_range: float = 1.0, window: int = 11, sigma: float = 1.5) -> Tensor:
    """Structural similarity, `[B]`, at most 1, which identical images have: 1 less `dissimilarity`; see there."""
    return 1 - dissimilarity(first, second, data_range=data_range, window=window, sigma=sigma)


def dissimilarity(
    first: Tensor, second: Tensor, *, data_range: float = 1.0, window: int = 11, sigma: float = 1.5
) -> Tensor:
    """What SSIM lacks to 1.

    Args:
        first, second: `[B, C, H, W]`, of one shape; computed in float32 or wider, also under autocast.
        data_range: largest pixel less the smallest, as they could be.
        window: pixels across, odd.
        sigma: of the Gaussian, pixels.

    Returns:
        `[B]`, 0 for identical images, and at most 2.

    Raises:
        ValueError: shapes that differ, images smaller than the window, an even window, or a sigma or range that is not
            positive.
    """
    first, second = _pair(first, second, data_range)
    if window < 1 or not window % 2 or sigma <= 0:
        raise ValueError(
            f"the window is {window} and sigma {sigma:g}; give an odd number of pixels and a sigma above 0"
        )
    if min(first.shape[2:]) < window:
        raise ValueError(
            f"images are {first.shape[2]} x {first.shape[3]} and the window {window}; give larger images or a smaller "
            "window"
        )
    first, second = first / data_range, second / data_range
    change = first - second
    with torch.autocast(first.device.type, enabled=False):
        products = torch.cat((first, second, change, first.square() + second.square(), change.square()))
        mean_a, mean_b, mean_d, squares, square_d = _blurred(products, window, sigma).split(len(first))
    c1, c2 = 0.01**2, 0.03**2
    means = mean_a.square() + mean_b.square()
    lightness = mean_d.square() / (means + c1)
    structure = (square_d - mean_d.square()).clamp(min=0) / (squares - means + c2)
    return (lightness + structure - lightness * structure).mean((1, 2, 3))


def _pair(first: Tensor, second: Tensor, data_range: float) -> tuple[Tensor, Tensor]:
    if first.ndim != 4 or first.shape != second.shape:
        raise ValueError(f"images are {list(first.shape)} and {list(second.shape)}; both must be the same [B, C, H, W]")
    if data_range <= 0:
        raise ValueError(f"data_range is {data_range:g}; it must be above 0")
    wide = torch.promote_types(torch.promote_types(first.dtype, second.dtype), torch.float32)
    return first.to(wide), second.to(wide)


def _blurred(images: Tensor, window: int, sigma: float) -> Tensor:
    """Weighted means of all windows that lie within the image."""
    offsets = torch.arange(window, dtype=images.dtype, device=images.device) - window // 2
    weights = (-offsets.square() / (2 * sigma**2)).exp()
    weights = weights / weights.sum()
    batch, channels, height, width = images.shape
    flat = images.reshape(batch * channels, 1, height, width)
    flat = functional.conv2d(functional.conv2d(flat, weights.view(1, 1, -1, 1)), weights.view(1, 1, 1, -1))
    return flat.view(batch, channels, *flat.shape[2:])
