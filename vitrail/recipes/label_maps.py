"""Label maps that a report of segmentation holds, beside the images and the truth of the data that it measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from PIL import Image

from vitrail.contracts import ImageSet
from vitrail.data.semantic import semantic_labels
from vitrail.evaluation.dense_scoring import unpacked
from vitrail.viz.segmentation import Segmented, segmentation_sheet


def label_maps(details: Mapping[str, Any], val: ImageSet) -> Image.Image:
    """A row for each of `details["examples"]`: the image, its truth, the prediction.

    Args:
        details: of a report with `examples` and `classes`, as the protocols of segmentation leave them.
        val: the data that were measured.
    """
    labels = semantic_labels(val)
    rows = []
    for example in details["examples"]:
        sample = val[example["index"]]
        truth = labels.targets(torch.from_numpy(sample.mask), sample.path).numpy()
        rows.append(Segmented(sample.image, truth, unpacked(example["predicted"])))
    return segmentation_sheet(rows, details["classes"], background=labels.background)
