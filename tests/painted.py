"""Images whose color tells the class of a cell, for the tests of segmentation."""

from __future__ import annotations

import numpy as np
from evaluation_doubles import ListSet
from PIL import Image

from vitrail.contracts import Sample


def painted(count: int, seed: int = 0, size: int = 24, void: bool = False, sizes: bool = False) -> ListSet:
    """Cells of 8 px in the color of their class, ids 1 to 3; with `void` the first 8 rows are 0 or 255, with `sizes`
    some images are wider."""
    rng = np.random.default_rng(seed)
    colors = np.array([[220, 30, 30], [30, 220, 30], [30, 30, 220]])
    samples = []
    for number in range(count):
        cells = rng.integers(0, 3, (size // 8, size // 8 + (number % 3 if sizes else 0)))
        mask = np.kron(cells + 1, np.ones((8, 8))).astype(np.uint8)
        pixels = (colors[mask - 1] + rng.normal(0, 10, (*mask.shape, 3))).clip(0, 255).astype(np.uint8)
        if void:
            mask[:8] = 255 if number % 2 else 0
        samples.append(Sample(Image.fromarray(pixels), mask=mask, path=f"{seed}/{number}.png"))
    return ListSet(samples, ("red", "green", "blue"), name=f"painted{seed}{void}")
