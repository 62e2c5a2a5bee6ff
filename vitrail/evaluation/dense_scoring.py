"""Segmenters measured: their label maps against the truth of a whole validation set, and a few to look at."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vitrail.data.dense_batches import DenseBatch
from vitrail.data.semantic import SemanticLabels
from vitrail.evaluation.dense_training import enlarged
from vitrail.metrics.confusion import Confusion, Scores

LONGEST = 320  # pixels of the longer side of a map that is kept to look at


class Seen(NamedTuple):
    """What the images of a validation set showed."""

    confusions: list[Confusion]  # L, one for each segmenter
    examples: list[list[dict[str, Any]]]  # for each segmenter, label maps to look at, JSON values
    images: int


def measured(
    batches: Iterable[DenseBatch],
    predict: Callable[[DenseBatch], Sequence[Tensor]],
    labels: SemanticLabels,
    *,
    own_size: bool,
    shown: Sequence[int] = (),
    advance: Callable[[int], None] = lambda _: None,
) -> Seen:
    """Count the pixels of all images.

    Args:
        batches: at least one.
        predict: a batch -> L score maps `[B, C, y, x]`, which are enlarged bilinearly before the best class is taken.
        own_size: measure at the size of each mask; otherwise at that of the images that the backbone sees.
        shown: positions in the data set of the images whose label maps are kept.
        advance: told how many images are done.
    """
    confusions: list[Confusion] = []
    examples: list[list[dict[str, Any]]] = []
    images = 0
    for batch in batches:
        maps = predict(batch)
        if not confusions:
            confusions, examples = [Confusion(labels.classes) for _ in maps], [[] for _ in maps]
        for found, confusion, kept in zip(maps, confusions, examples):
            for row, index in enumerate(batch.indices):
                truth = batch.truths[row] if own_size else batch.targets[row]
                called = best_class(found[row : row + 1], truth.shape)
                confusion.add(called.cpu(), truth)
                if index in shown:
                    kept.append({"index": index, "path": batch.paths[row], "predicted": packed(called.cpu())})
        images += len(batch.indices)
        advance(len(batch.indices))
    return Seen(confusions, examples, images)


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
