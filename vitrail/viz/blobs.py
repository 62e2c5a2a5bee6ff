"""What spatial entropy sees: the regions above the mean, and how the map's mass is shared among them.

Each map is cut at its mean; every 8-connected region that stays is a blob and gets a color. Within a blob the
color is brighter where the score is higher. The caption gives the number of blobs and the spatial entropy in
nats: 0 for one blob, ln(r) for r blobs of equal mass.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vitrail.ops.components import components_above_mean
from vitrail.ops.spatial_entropy import spatial_entropy
from vitrail.viz.canvas import PAPER, Array, Theme, as_maps, grayed, to_unit
from vitrail.viz.heads import each_head

# Stained glass: neighbors in this list differ in hue and lightness, for color-blind eyes too.
GLASS = (
    (230, 159, 0),
    (40, 120, 200),
    (200, 60, 80),
    (0, 158, 115),
    (150, 90, 190),
    (240, 228, 66),
    (86, 190, 233),
    (213, 94, 0),
    (204, 121, 167),
    (120, 180, 60),
)
_REST = (34, 38, 46)


def blob_labels(scores: Tensor | Array, connectivity: int = 8) -> NDArray[np.int64]:
    """Blobs of each map: connected regions of scores above the map's mean.

    Args:
        scores: `[H, Y, X]`, finite.
        connectivity: 4 or 8; spatial entropy uses 8.

    Returns:
        `[H, Y, X]`: 1, 2, ... in reading order per map, 0 at and below the mean. A constant map has no blob.
    """
    values = torch.from_numpy(as_maps(scores, "scores"))
    labels: NDArray[np.int64] = components_above_mean(values, connectivity).numpy()
    return labels


def blob_picture(scores: Array, labels: NDArray[np.int64], size: tuple[int, int]) -> Image.Image:
    """One map `[Y, X]` and its labels as a picture of `size` (width, height); patches stay squares."""
    rows, columns = scores.shape
    canvas = np.empty((rows, columns, 3))
    canvas[:] = _REST
    palette = np.array(GLASS, dtype=np.float64)
    inside = labels > 0
    if inside.any():
        light = 0.55 + 0.45 * to_unit(scores, low=float(scores[inside].min()))[inside, None]
        canvas[inside] = palette[(labels[inside] - 1) % len(GLASS)] * light
    return Image.fromarray(canvas.round().astype(np.uint8)).resize(size, Image.Resampling.NEAREST)


def attention_blobs(
    image: Image.Image,
    scores: Tensor | Array,
    *,
    connectivity: int = 8,
    opacity: float = 0.8,
    columns: int = 5,
    cell: int = 224,
    theme: Theme = PAPER,
) -> Image.Image:
    """The image and every head's blobs over it, captioned with the number of blobs and the entropy.

    Args:
        image: what the scores were computed from.
        scores: CLS scores before the softmax, `[H, Y, X]`.
        opacity: of the blobs over the grayed image, in [0, 1].

    Raises:
        ValueError: scores of another shape, NaN or infinite scores.
    """
    overlays = partial(blob_overlays, connectivity=connectivity, opacity=opacity)
    return each_head(image, scores, overlays, columns=columns, cell=cell, theme=theme)


def blob_overlays(
    image: Image.Image, scores: Tensor | Array, *, connectivity: int = 8, opacity: float = 0.8
) -> tuple[list[Image.Image], list[str]]:
    """The same, as one picture and one caption per head, at the image's size."""
    values = as_maps(scores, "scores")
    labels = blob_labels(values, connectivity)
    entropy = spatial_entropy(torch.from_numpy(values)).tolist()
    gray = grayed(image)
    pictures = [Image.blend(gray, blob_picture(one, label, image.size), opacity) for one, label in zip(values, labels)]
    captions = []
    for head, (label, nats) in enumerate(zip(labels, entropy)):
        count = int(label.max())
        captions.append(f"head {head}, {count} blob{'s' * (count != 1)}, {abs(nats):.2f}\u00a0nats")
    return pictures, captions
