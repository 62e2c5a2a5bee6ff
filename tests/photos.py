"""Pictures like photographs: smooth colors, edges, and noise whose power falls with frequency."""

from __future__ import annotations

import numpy as np


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """uint8 `[height, width, 3]`."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / max(height, width)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)) + 1 / max(height, width)
    pixels = np.empty((height, width, 3))
    for channel in range(3):
        waves = np.fft.fft2(rng.standard_normal((height, width))) / frequency**1.3
        texture = np.fft.ifft2(waves).real
        pixels[..., channel] = 110 + 40 * texture / texture.std() + 30 * rng.uniform(-1, 1) * (x - y)
    for _ in range(4):
        center, radius = rng.uniform(0.2, 0.8, 2), rng.uniform(0.1, 0.25)
        inside = (
            np.hypot(y - center[0] * height / max(height, width), x - center[1] * width / max(height, width)) < radius
        )
        pixels[inside] = 0.5 * pixels[inside] + 0.5 * rng.uniform(20, 235, 3)
    return np.clip(pixels, 0, 255).astype(np.uint8)
