"""Dense k-NN: every patch is labeled by the training patches that it resembles. Nothing is trained.

Definition: a bank holds patch tokens of training images (last block, after the final norm) and, for each, the share
that every class has of the patch's pixels. The k bank entries of highest cosine vote for their classes with weights
softmax(cosine / temperature); the votes are enlarged bilinearly to the truth's size, and the largest one wins. mIoU is
that of the data set, as of `linear_seg`.

Source: after Balazevic et al. 2023, "Towards in-context scene understanding" (arXiv 2306.01667).
Expected: no published number is comparable, for published banks hold millions of patches of augmented images; compare
models of your own at one size of the bank.

Deviations: k = 30, the temperature of 0.02 and a bank of 20,000 patches are chosen here. The bank is drawn evenly from
all patches of unaugmented training images (the card and `details["bank"]` say how many there were). Patches without a
labeled pixel are taken out of it, for they cannot vote.
`labels=majority` lets every entry vote for its largest class alone.
Beside the numbers stands a floor: `floor_majority_*` calls every pixel the class that has most of the bank.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from vitrail.contracts import Backbone, ImageSet
from vitrail.data.semantic import semantic_labels
from vitrail.evaluation.dense_scoring import LabelMaps, evenly, per_class
from vitrail.evaluation.features import NO_INFLUENCE, weights_digest
from vitrail.evaluation.patch_sample import PatchConfig, PatchSample, patch_reader, squashing
from vitrail.evaluation.result import Report, changes, make_card
from vitrail.ops.neighbors import nearest

SOURCE = "after Balazevic et al. 2023, arXiv 2306.01667"
SEGMENTS = True
"""This protocol's images have masks of class ids: of COCO, its semantic maps."""


class SegmentRetrievalConfig(PatchConfig):
    """How many neighbors vote, out of how many."""

    k: int = Field(default=30, ge=1)
    """Neighbors that vote."""
    temperature: float = Field(default=0.02, gt=0)
    """Divides the cosine in the vote's softmax."""
    bank: int = Field(default=20_000, ge=1)
    """Patches of training images that are kept; all where there are no more."""
    labels: Literal["shares", "majority"] = "shares"
    """What an entry votes for: its classes by their share of its pixels, or the largest one alone."""


def evaluate(
    backbone: Backbone,
    train: ImageSet,
    val: ImageSet,
    config: SegmentRetrievalConfig | None = None,
    *,
    cache: Path | None = None,
    device: str = "auto",
) -> Report:
    """Label the patches of `val` by those of `train`; samples have masks.

    Args:
        cache: taken so that all protocols are called alike; patch features are computed anew each time.

    Returns:
        A report with `segment_retrieval_miou`, `segment_retrieval_accuracy`, `segment_retrieval_mean_accuracy`,
        `floor_majority_miou` and `floor_majority_accuracy`, percent. Details: `bank`, `per_class`, `examples`, `notes`.

    Raises:
        ValueError: data without masks, different class lists, a size that the patch size does not divide, or a bank
            smaller than k.
    """
    config, labels = config or SegmentRetrievalConfig(), semantic_labels(train, val)
    with patch_reader(backbone, labels, config, device) as reader:
        bank = _labeled(reader.sample(train, "train", config.bank), config)
        maps = LabelMaps(labels, 1, config.truth == "image", evenly(len(val), config.pictures))
        patches, shares = bank.patches.to(reader.place), bank.shares.to(reader.place)
        for batch, features in reader.batches(val, "val"):
            maps.add(batch, [votes(features, patches, shares, config.k, config.temperature)])
    confusion = maps.confusions[0]
    scores, floor = confusion.scores(), confusion.constant(int(bank.shares.sum(0).argmax())).scores()
    if train.digest() == val.digest():
        reader.notes.append("train and val are the same images: every patch finds itself, so the numbers are too high")
    numbers = {
        "segment_retrieval_miou": scores.miou,
        "segment_retrieval_accuracy": scores.accuracy,
        "segment_retrieval_mean_accuracy": scores.mean_accuracy,
        "floor_majority_miou": floor.miou,
        "floor_majority_accuracy": floor.accuracy,
    }
    details = {
        "images": maps.images,
        "bank": {"patches": len(bank.patches), "of": bank.total},
        "per_class": per_class(labels, confusion, scores),
        "classes": list(labels.names),
        "examples": maps.examples[0],
        "examples_of": "segment_retrieval_miou",
        "notes": reader.notes,
    }
    return Report("segment_retrieval", numbers, _card(backbone, train, val, config, len(bank.patches)), details)


def votes(features: Tensor, bank: Tensor, shares: Tensor, k: int, temperature: float) -> Tensor:
    """What the neighbors say of each patch.

    Args:
        features: `[B, D, Y, X]`.
        bank: `[M, D]`.
        shares: `[M, C]`, what each entry votes for.
        k: neighbors, 1 to M.
        temperature: positive.

    Returns:
        `[B, C, Y, X]`, the share of votes that each class has.
    """
    batch, _, rows, columns = features.shape
    values, ids = nearest(features.permute(0, 2, 3, 1).flatten(0, 2), bank, k)
    weights = (values / temperature).softmax(-1)
    # One image at a time: [N, k, C] of a whole batch would be large.
    parts = [
        (own[:, :, None] * shares[near]).sum(1)
        for own, near in zip(weights.split(rows * columns), ids.split(rows * columns))
    ]
    return torch.stack(parts).transpose(1, 2).reshape(batch, -1, rows, columns)


def _labeled(sample: PatchSample, config: SegmentRetrievalConfig) -> PatchSample:
    known = sample.shares.sum(1) > 0
    patches, shares = sample.patches[known], sample.shares[known]
    if len(patches) < config.k:
        raise ValueError(
            f"the bank has {len(patches)} patches with a labeled pixel, and k is {config.k}; take a smaller k, a "
            "larger bank or more images"
        )
    if config.labels == "majority":
        shares = functional.one_hot(shares.argmax(1), shares.shape[1]).float()
    return sample._replace(patches=patches, shares=shares)


def _card(
    backbone: Backbone, train: ImageSet, val: ImageSet, config: SegmentRetrievalConfig, entries: int
) -> dict[str, Any]:
    size = "each mask's own size" if config.truth == "image" else "the size of what the backbone sees"
    return make_card(
        protocol="segment_retrieval",
        source=SOURCE,
        data={"train": train, "val": val},
        transform=squashing(backbone, config).config,
        layer="last block, after the final norm",
        token=f"patches, divided by their Euclidean length; a bank of {entries:,}",
        averaging=f"IoU of pixels counted over the whole validation set at {size}, mean over classes; percent",
        weights=weights_digest(backbone),
        config=config.plain(),
        backbone=backbone,
        deviations=changes(SegmentRetrievalConfig().plain(), config.plain(), (*NO_INFLUENCE, "pictures", "seed")),
        seed=config.seed,
        precision=config.precision,
    )
