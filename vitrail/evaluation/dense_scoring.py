"""Segmenters measured: their label maps against the truth of a whole validation set, and a few to look at."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vitrail.data.dense_batches import DenseBatch
from vitrail.data.semantic import SemanticLabels
from vitrail.evaluation.dense_training import enlarged
from vitrail.metrics.confusion import Confusion, Scores

LONGEST = 320  # pixels of the longer side of a map that is kept to look at


class LabelMaps:
    """Label maps of several segmenters against the truth, image by image.

    Attributes: `confusions` (one for each segmenter), `examples` (of each, label maps to look at, as JSON values),
    `images` (how many were added).
    """

    def __init__(self, labels: SemanticLabels, segmenters: int, own_size: bool, shown: Sequence[int] = ()) -> None:
        """Args:
        segmenters: how many there are.
        own_size: measure at the size of each mask; otherwise at that of the images that the backbone sees.
        shown: positions in the data set of the images whose label maps are kept.
        """
        self.own_size, self.shown, self.images = own_size, frozenset(shown), 0
        self.confusions = [Confusion(labels.classes) for _ in range(segmenters)]
        self.examples: list[list[dict[str, Any]]] = [[] for _ in range(segmenters)]

    def add(self, batch: DenseBatch, scores: Sequence[Tensor]) -> None:
        """Count the pixels of a batch.

        Args:
            scores: of each segmenter, `[B, C, y, x]`; they are enlarged bilinearly before the best class is taken.
        """
        for found, confusion, kept in zip(scores, self.confusions, self.examples, strict=True):
            for row, index in enumerate(batch.indices):
                truth = batch.truths[row] if self.own_size else batch.targets[row]
                called = best_class(found[row : row + 1], truth.shape).cpu()
                confusion.add(called, truth)
                if index in self.shown:
                    kept.append(example(index, batch.paths[row], called))
        self.images += len(batch.indices)


def example(index: int, path: str, called: Tensor) -> dict[str, Any]:
    """A label map `[H, W]` to look at, as JSON values; `recipes.label_maps` draws it."""
    return {"index": index, "path": path, "predicted": packed(called)}


def best_class(scores: Tensor, size: Sequence[int]) -> Tensor:
    """The best class of each pixel, int64 `[H, W]`, of scores `[1, C, y, x]`."""
    return enlarged(scores, size)[0].argmax(0)


def evenly(count: int, number: int) -> list[int]:
    """`number` of the positions 0..count-1, evenly spaced; all of them where there are no more."""
    return list(range(count)) if number >= count else [place * count // number for place in range(number)]


def packed(classes: Tensor) -> str:
    """A label map `[H, W]` as the text of a small PNG (base64), its longer side at most `LONGEST` pixels."""
    ids = classes.to(torch.int32).numpy()
    picture = Image.fromarray(ids.astype(np.uint8) if ids.max(initial=0) < 256 else ids.astype(np.uint16))
    scale = min(1.0, LONGEST / max(picture.size))
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    stream = io.BytesIO()
    picture.resize(size, Image.Resampling.NEAREST).save(stream, "PNG", optimize=True)
    return base64.b64encode(stream.getvalue()).decode()


def unpacked(text: str) -> np.ndarray:
    """The label map `[H, W]` int64 that `packed` made a text of."""
    with Image.open(io.BytesIO(base64.b64decode(text))) as picture:
        return np.array(picture).astype(np.int64)


def per_class(labels: SemanticLabels, confusion: Confusion, scores: Scores) -> list[dict[str, Any]]:
    """Of each class that is in truth or prediction: share of the labeled pixels, IoU and recall, percent."""
    counts = confusion.counts.sum(1)
    whole = int(counts.sum())
    rows = zip(labels.names, counts.tolist(), scores.iou, scores.recall, strict=True)
    return [
        {"class": name, "share": 100.0 * count / whole, "iou": iou, "recall": recall}
        for name, count, iou, recall in rows
        if iou is not None
    ]
