"""Weather: snow, frost on the window, fog."""

from __future__ import annotations

import math

import numpy as np

from vitrail.ops.corruptions.blur import motion_blur, rounded
from vitrail.ops.corruptions.frost import frost_texture


def snow(
    image: np.ndarray,
    mean: float,
    spread: float,
    zoom: float,
    least: float,
    radius: int,
    sigma: float,
    keep: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """Flakes that fall on both sides of the middle, over an image that turns white where it is bright.

    Args:
        mean, spread: of the normal noise that flakes are made of, in units of white.
        zoom: pixels a side of one number of that noise; it is enlarged bilinearly.
        least: noise below it is no flake.
        radius, sigma: of the blur along a way down, in a direction drawn from -135 to -45 degrees (`motion_blur`).
        keep: share of the image; the rest is the brighter of it and of 1.5 times its gray plus 0.5.
    """
    import cv2

    height, width = image.shape[:2]
    flakes = _flakes((height, width), mean, spread, zoom, least, rng)
    fallen = motion_blur(flakes[..., None], radius, sigma, rng.uniform(-135, -45))[..., 0]
    pixels = np.ascontiguousarray(image, np.float32)
    gray = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY) * np.float32(1.5) + np.float32(127.5)
    white = np.maximum(pixels, gray[..., None])
    layer = fallen.astype(np.float32) + fallen[::-1, ::-1]
    return rounded(np.float32(keep) * pixels + np.float32(1 - keep) * white + layer[..., None])


def _flakes(
    size: tuple[int, int], mean: float, spread: float, zoom: float, least: float, rng: np.random.Generator
) -> np.ndarray:
    import cv2

    height, width = size
    noise = rng.standard_normal((math.ceil(height / zoom), math.ceil(width / zoom)), np.float32)
    noise = noise * np.float32(spread) + np.float32(mean)
    if zoom > 1:
        noise = np.asarray(cv2.resize(noise, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)
    noise[noise < least] = 0
    return rounded(255 * noise)


def frost(
    image: np.ndarray, keep: float, strength: float, scale: float, rng: np.random.Generator, textures: int = 5
) -> np.ndarray:
    """`keep` times the image plus `strength` times a random cut of one of so many textures (`frost_texture`).

    Args:
        scale: of the textures: 1 for images of about 224 pixels, 0.3 for those of about 64.
    """
    import cv2

    height, width = image.shape[:2]
    number = int(rng.integers(textures))
    texture = frost_texture(number, max(height, width), scale)
    top, left = rng.integers(0, len(texture) - height + 1), rng.integers(0, len(texture) - width + 1)
    cut = np.ascontiguousarray(texture[top : top + height, left : left + width])
    return cv2.addWeighted(np.ascontiguousarray(image), keep, cut, strength, 0)


def fog(image: np.ndarray, strength: float, decay: float, rng: np.random.Generator) -> np.ndarray:
    """Add `strength` times clouds (`plasma`) in [0, 1], and darken so that the brightest value stays the brightest."""
    height, width = image.shape[:2]
    side = 1 << (max(height, width) - 1).bit_length()
    clouds = plasma(side, decay, rng)[:height, :width, None] * np.float32(255 * strength)
    most = np.float32(image.max() / 255)
    return rounded((image + clouds) * (most / (most + np.float32(strength))))


def plasma(side: int, decay: float, rng: np.random.Generator) -> np.ndarray:
    """Clouds by midpoint displacement (diamonds and squares) on a torus, stretched to [0, 1]; float32 `[side, side]`.

    Args:
        side: a power of two.
        decay: the displacement falls by its square from each step to the next, which is half as long.
    """
    heights = np.zeros((side, side), np.float32)
    step, most = side, np.float32(1)
    while step > 1:
        half = step // 2

        def moved(total: np.ndarray, most: np.float32 = most) -> np.ndarray:
            return total / 4 + most * (2 * rng.random(total.shape, np.float32) - 1)

        corners = heights[::step, ::step]
        beside, below = corners + np.roll(corners, -1, 1), corners + np.roll(corners, -1, 0)
        middles = moved(beside + np.roll(beside, -1, 0))
        heights[half::step, half::step] = middles
        heights[::step, half::step] = moved(beside + middles + np.roll(middles, 1, 0))
        heights[half::step, ::step] = moved(below + middles + np.roll(middles, 1, 1))
        step, most = half, most / np.float32(decay * decay)
    low, high = heights.min(), heights.max()
    return (heights - low) / (high - low)
