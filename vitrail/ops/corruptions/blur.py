"""Blur: out of focus, behind rough glass, in motion, and towards a moving camera."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np


def defocus_blur(image: np.ndarray, radius: float, softness: float) -> np.ndarray:
    """Average over a disk (`disk_kernel`), the image mirrored at its rim without its outermost pixels twice."""
    import cv2

    pixels = np.ascontiguousarray(image, np.float32)
    return rounded(cv2.filter2D(pixels, -1, disk_kernel(radius, softness), borderType=cv2.BORDER_REFLECT_101))


@lru_cache(maxsize=16)
def disk_kernel(radius: float, softness: float) -> np.ndarray:
    """Pixels whose centers are at most `radius` from the middle, softened by a Gaussian, float32 `[K, K]` of sum 1.

    The Gaussian of deviation `softness` reaches one pixel far up to a radius of 8, two beyond.
    """
    far = 1 if radius <= 8 else 2
    reach = math.floor(radius) + far
    places = np.arange(-reach, reach + 1)
    disk = (places[:, None] ** 2 + places**2 <= radius**2).astype(np.float64)
    soft = np.exp(-(np.arange(-far, far + 1) ** 2) / (2 * softness**2))
    for _ in range(2):
        disk = np.stack([np.convolve(row, soft, "same") for row in disk]).T
    kernel = (disk / disk.sum()).astype(np.float32)
    kernel.setflags(write=False)
    return kernel


def glass_blur(image: np.ndarray, sigma: float, reach: int, rounds: int, rng: np.random.Generator) -> np.ndarray:
    """Blur, swap each pixel with a near one, in `rounds` from the last pixel to the first, and blur again.

    Args:
        sigma: of the Gaussian, pixels.
        reach: of a swap, in rows and in columns: from -reach to reach - 1.
    """
    from vitrail.ops.corruptions.cpu import swap_near

    pixels = gaussian(np.ascontiguousarray(image), sigma)
    for shifts in rng.integers(-reach, reach, (rounds, *image.shape[:2], 2), np.int8):
        swap_near(pixels, shifts, reach)
    return gaussian(pixels, sigma)


def motion_blur(image: np.ndarray, radius: int, sigma: float, angle: float) -> np.ndarray:
    """Average along a straight way that begins at each pixel, with weights that fall; the rim's pixels go on outside.

    The k-th weight is exp(-k^2 / (2 sigma^2)), k from 0 to 2 radius, over their sum; its pixel is the nearest to k
    steps in the direction of `angle`, degrees, 0 to the right and 90 downwards.

    Args:
        image: as everywhere here, or of one channel, `[H, W, 1]`.
    """
    import cv2

    from vitrail.ops.corruptions.cpu import sum_along

    weights, rows, columns = motion_way(radius, sigma, angle)
    height, width, channels = image.shape
    top, bottom, left, right = -rows.min(), rows.max(), -columns.min(), columns.max()
    padded: Any = cv2.copyMakeBorder(
        np.ascontiguousarray(image), int(top), int(bottom), int(left), int(right), cv2.BORDER_REPLICATE
    )
    out = np.empty((height, width * channels), np.uint8)
    sum_along(padded.reshape(len(padded), -1), weights, rows + top, (columns + left) * channels, out)
    return out.reshape(image.shape)


def motion_way(radius: int, sigma: float, angle: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights float32, rows and columns int64 from the pixel itself, `[2 radius + 1]` each."""
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    turn = math.radians(angle)
    rows, columns = (np.rint(steps * part).astype(np.int64) for part in (math.sin(turn), math.cos(turn)))
    return (weights / weights.sum()).astype(np.float32), rows, columns


def zoom_blur(image: np.ndarray, zooms: int, step: float) -> np.ndarray:
    """The mean of the image and of `zooms` enlargements of its middle, by 1, 1 + step, 1 + 2 step, ..., bilinear."""
    import cv2

    height, width = image.shape[:2]
    pixels = np.ascontiguousarray(image, np.float32)
    total = 2 * pixels  # the image itself, and enlarged by 1
    for number in range(1, zooms):
        scale = 1 + number * step
        # Where a pixel of the result is read: the middle stays where it is.
        back = np.array(
            [[1 / scale, 0, (width - 1) / 2 * (1 - 1 / scale)], [0, 1 / scale, (height - 1) / 2 * (1 - 1 / scale)]]
        )
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        total += cv2.warpAffine(pixels, back, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return rounded(total / (zooms + 1))


def gaussian(image: np.ndarray, sigma: float) -> np.ndarray:
    """A Gaussian blur cut at four deviations, the rim's pixels going on outside; uint8 or float32 as given."""
    import cv2

    side = 2 * int(4 * sigma + 0.5) + 1
    if side == 1:
        return image.copy()
    if image.dtype == np.uint8:
        return rounded(gaussian(image.astype(np.float32), sigma))
    return cv2.GaussianBlur(image, (side, side), sigma, borderType=cv2.BORDER_REPLICATE)


def rounded(values: np.ndarray) -> np.ndarray:
    """Levels 0 to 255 as uint8, to the nearest; what lies beyond is cut."""
    import cv2

    return np.asarray(cv2.add(values, np.zeros(1), dtype=cv2.CV_8U))
