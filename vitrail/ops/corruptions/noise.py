"""Noise: what sensors add where there is little light, and what bits do that tip over."""

from __future__ import annotations

from functools import lru_cache

import numpy as np


def gaussian_noise(image: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Add a normal number to each channel of each pixel; `sigma` is its deviation, 1 the range from black to white."""
    import cv2

    noise = rng.standard_normal(image.shape, np.float32)
    noise *= np.float32(255 * sigma)
    return cv2.add(np.ascontiguousarray(image), noise, dtype=cv2.CV_8U)


def shot_noise(image: np.ndarray, photons: float, rng: np.random.Generator) -> np.ndarray:
    """Count light in whole photons, of which white gives `photons` on average: each channel is Poisson of its light.

    Levels are 256, so there are 256 distributions, which are inverted by table: exact to 2^-32.
    """
    from vitrail.ops.corruptions.cpu import draw_counts

    out = np.empty(image.shape, np.uint8)
    bits = rng.integers(0, 2**32, image.size, np.uint32)
    draw_counts(np.ascontiguousarray(image).reshape(-1), bits, *_poisson(float(photons)), out.reshape(-1))
    return out


def impulse_noise(image: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Set a `share` of all values to 0 or 255, as often the one as the other: salt and pepper, channel by channel."""
    drawn = rng.random(image.shape, np.float32)
    out = image.copy()
    out[drawn < share / 2] = 0
    out[drawn >= 1 - share / 2] = 255
    return out


@lru_cache(maxsize=16)
def _poisson(photons: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What `draw_counts` reads: bounds, guide, and the level of each count."""
    means = np.arange(256)[:, None] / 255 * photons
    counts = np.arange(int(photons + 12 * np.sqrt(photons) + 20))
    factorials = np.concatenate([[0.0], np.cumsum(np.log(counts[1:]))])
    logs = counts * np.log(np.maximum(means, 1e-300)) - means - factorials
    chances = np.where(means > 0, np.exp(logs), counts == 0)
    bounds = np.minimum(np.cumsum(chances, 1) * 2.0**32, 2.0**32 - 1).astype(np.uint32)
    bounds[:, -1] = 2**32 - 1
    firsts = np.arange(256, dtype=np.uint32) << np.uint32(24)
    guide = np.stack([np.searchsorted(each, firsts) for each in bounds]).astype(np.uint16)
    values = np.rint(np.minimum(counts / photons, 1) * 255).astype(np.uint8)
    return bounds, guide, values
