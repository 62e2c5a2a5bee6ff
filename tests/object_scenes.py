"""Colored squares on gray noise: the color is the class, the square the mask. For tests of localizers that learn."""

from __future__ import annotations

import numpy as np
from evaluation_doubles import ListSet
from PIL import Image

from vitrail.contracts import Sample

COLORS = np.array([[220, 40, 40], [40, 220, 40], [40, 40, 220]])


def squares(count: int, seed: int = 0, size: int = 32, *, masks_of: str = "own", labels_of: str = "own") -> ListSet:
    """Squares of 10 to 18 pixels. "others" takes masks or labels of other images: a control that nothing can learn."""
    rng = np.random.default_rng(seed)
    samples = []
    for number in range(count):
        label = number % 3
        side = int(rng.integers(10, 19))
        top, left = rng.integers(0, size - side + 1, 2)
        pixels = rng.normal(128, 30, (size, size, 1)) + rng.normal(0, 5, (size, size, 3))
        mask = np.zeros((size, size), np.uint8)
        mask[top : top + side, left : left + side] = 1
        pixels[mask == 1] = COLORS[label] + rng.normal(0, 20, (side * side, 3))
        box = np.array([[left, top, left + side, top + side]], float)
        image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
        samples.append(Sample(image, label, mask, box, f"{seed}/{number}.png"))
    order = rng.permutation(count)
    masks = order if masks_of == "others" else range(count)
    labels = order if labels_of == "others" else range(count)
    mixed = [
        each._replace(mask=samples[mask].mask, label=samples[label].label)
        for each, mask, label in zip(samples, masks, labels, strict=True)
    ]
    return ListSet(mixed, ("red", "green", "blue"), name=f"squares{seed}{masks_of}{labels_of}")
