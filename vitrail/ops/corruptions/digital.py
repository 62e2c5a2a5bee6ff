"""What cameras, screens and files do: light and contrast, elastic warps, coarse pixels, JPEG."""

from __future__ import annotations

import io
import math
from functools import lru_cache

import numpy as np
from PIL import Image


def brightness(image: np.ndarray, rise: float) -> np.ndarray:
    """Raise the value of hue, saturation and value, the largest of the channels in [0, 1], by `rise`, to 1 at most."""
    value = np.maximum(np.maximum(image[..., 0], image[..., 1]), image[..., 2])
    return _brighter(float(rise))[value[..., None], image]


@lru_cache(maxsize=16)
def _brighter(rise: float) -> np.ndarray:
    """uint8 `[256, 256]`: by the largest channel and a channel. Black has no hue and becomes gray."""
    levels = np.arange(256)
    raised = np.minimum(levels / 255 + rise, 1)[:, None]
    table = np.rint(255 * raised * np.minimum(levels / np.maximum(levels, 1)[:, None], 1))
    table[0] = np.rint(255 * raised[0])
    return table.astype(np.uint8)


def contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """Multiply the distance from the mean of each channel over the image by `factor`, in [0, 1]."""
    import cv2

    means = image.reshape(-1, 3).mean(0)
    table = np.rint((np.arange(256)[:, None] - means) * factor + means)
    return cv2.LUT(np.ascontiguousarray(image), np.clip(table, 0, 255).astype(np.uint8)[:, None])


def pixelate(image: np.ndarray, share: float) -> np.ndarray:
    """Resize both sides to a `share` of them, rounded down, and back, averaging over boxes both times."""
    height, width = image.shape[:2]
    small = Image.fromarray(image).resize((int(width * share), int(height * share)), Image.Resampling.BOX)
    return np.array(small.resize((width, height), Image.Resampling.BOX))


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """Write as JPEG of this quality, by Pillow's defaults, and read again."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=quality)
    with Image.open(stream) as read:
        return np.array(read)


def elastic_transform(
    image: np.ndarray, strength: float, smoothness: float, jitter: float, rng: np.random.Generator
) -> np.ndarray:
    """Move three points by up to `jitter` pixels and the image with them, then each pixel by a smooth field.

    The field is uniform noise in [-1, 1], of rows and of columns, smoothed (`smoothed`) and times `strength`. Bilinear,
    the image mirrored outside of its rim.

    Args:
        strength: pixels, before smoothing.
        smoothness: deviation of the Gaussian, pixels.
    """
    import cv2

    height, width = image.shape[:2]
    across, down = elastic_field(height, width, strength, smoothness, rng)
    middle, side = np.array([width // 2, height // 2]), min(height, width) // 3
    corners = middle + side * np.array([[1, 1], [1, -1], [-1, -1]])
    moved = corners + rng.uniform(-jitter, jitter, (3, 2))
    back = cv2.getAffineTransform(moved.astype(np.float32), corners.astype(np.float32))
    x, y = np.arange(width) + across, np.arange(height)[:, None] + down
    columns, rows = ((row[0] * x + row[1] * y + row[2]).astype(np.float32) for row in back)
    pixels, edge = np.ascontiguousarray(image), cv2.BORDER_REFLECT_101
    return np.asarray(cv2.remap(pixels, columns, rows, cv2.INTER_LINEAR, borderMode=edge))


def elastic_field(
    height: int, width: int, strength: float, smoothness: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """How far each pixel is read to the right and below, float64 `[height, width]` each."""
    if not strength:
        return np.zeros((height, width)), np.zeros((height, width))
    across, down = (strength * smoothed(rng.uniform(-1, 1, (height, width)), smoothness) for _ in range(2))
    return across, down


def smoothed(values: np.ndarray, sigma: float) -> np.ndarray:
    """A Gaussian blur of `[H, W]`, mirrored at the rim with the outermost values twice. float64.

    With that mirror it only weakens the waves of the cosine transform. A wide one leaves few, so it is the cheaper.
    """
    import cv2

    if sigma <= 8:
        side = 2 * int(4 * sigma + 0.5) + 1
        return cv2.GaussianBlur(values, (side, side), sigma, borderType=cv2.BORDER_REFLECT)
    (rows, down), (columns, across) = (_waves(size, sigma) for size in values.shape)
    return rows.T @ (down[:, None] * (rows @ values @ columns.T) * across) @ columns


@lru_cache(maxsize=16)
def _waves(size: int, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    """Cosines `[K, size]` of length 1, and how much of each a Gaussian leaves, those of more than 1e-8."""
    most = min(size, math.ceil(size / (math.pi * sigma) * math.sqrt(2 * math.log(1e8))))
    numbers = np.arange(most)
    waves = np.cos(math.pi / size * numbers[:, None] * (np.arange(size) + 0.5)) * math.sqrt(2 / size)
    waves[0] = 1 / math.sqrt(size)
    return waves, np.exp(-((math.pi * sigma / size * numbers) ** 2) / 2)
