"""Positive rate against similarity: of pairs of patches that are so alike, how many are of one class?

Definition: images are resized to 256 px on the short side (bicubic) and cropped to the central 224, masks along; a
patch has the class that most of its pixels have, if these are at least half (`purity`), as in `dispersion`. Each image
is compared with 5 others, every patch with every patch, by the cosine of the patches after the final norm. Pairs are
binned by similarity; the share of a bin's pairs that are of one class is its positive rate. Two patches of background
may show anything, so their pairs are left out; one of background and one of a class is a pair of two classes.

    positive_rate_top    the positive rate of the most similar 1 % of all pairs
    auc                  how often a pair of one class is more similar than a pair of two; 50 where it means nothing
    floor_positive_rate  of all pairs: what similarity that says nothing earns

in percent. The curve stands in the details, in bins of 0.05; a bin of fewer than 100 pairs has no rate.

Source: CoTAP, Figure 4, by whose text the rate rises with the similarity, the more after training. Expected: its values
cannot be read.

Deviations: which images are compared, how many, and how wide the bins are is not stated. Here up to 200 evenly spaced
images in an order drawn from the seed, each with those that follow it. `auc` and `positive_rate_top` come from bins of
0.0005; within a bin pairs count as tied.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from vitrail.config import Config
from vitrail.contracts import Backbone, ImageSet
from vitrail.data.transforms import EvalTransformConfig
from vitrail.evaluation.features import NO_INFLUENCE, Precision, eval_transform, weights_digest
from vitrail.evaluation.labeled_patches import Labeled, each_labeled
from vitrail.evaluation.progress import progress
from vitrail.evaluation.result import Report, changes, make_card
from vitrail.evaluation.some import Some

SEGMENTS = True
"""Images need masks of class ids."""
SOURCE = "this library; after CoTAP, Figure 4"
BINS = 4000  # over cosines from -1 to 1; the curve's are joined from them
CURVE_BINS = 40
FEWEST = 100  # pairs of a bin that has a rate
TOP = 0.01


class PositiveRateConfig(Config):
    """Which patches of which images are compared."""

    purity: float = Field(default=0.5, gt=0, le=1)
    """Least share of a patch's pixels that its class has."""
    background: Literal["other", "class", "none"] = "other"
    """Patches of mask value 0, where the data set says that it is background (VOC and scenes): other: they differ from
    classes, their own pairs are left out; class: these are of one class; none: they are left out."""
    images: int | None = Field(default=200, ge=2)
    """At most so many images, evenly spaced; null takes all, whose patches must fit into memory."""
    partners: int = Field(default=5, ge=1)
    """How many other images each image is compared with."""
    seed: int = 0
    """Of the order of the images, which decides who is compared with whom."""
    transform: EvalTransformConfig = EvalTransformConfig()
    batch_size: int = Field(default=32, ge=1)
    """Images per forward pass; no influence on the result."""
    precision: Precision = "fp32"
    """Of the backbone: fp32 or bf16 autocast."""


def image_pairs(count: int, partners: int, seed: int) -> list[tuple[int, int]]:
    """Pairs of different images, none twice: in an order drawn from the seed, each with the `partners` that follow it.

    The order is closed to a ring; with `partners` of half the images or more these are all pairs.
    """
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    pairs = dict.fromkeys(
        (min(pair), max(pair))
        for shift in range(1, min(partners, count // 2) + 1)
        for place in range(count)
        if (pair := (order[place], order[(place + shift) % count]))
    )
    return [(one, other) for one, other in pairs if one != other]


def count_pairs(first: Labeled, second: Labeled, *, of_background: bool = False) -> Tensor:
    """Pairs of patches of two images by similarity, int64 `[BINS, 2]`: of two classes, of one class.

    Pairs of two patches of background (class 0) count as of one class, or not at all.
    """
    likeness = first.features @ second.features.T
    bins = ((likeness.double() + 1) * (BINS / 2)).long().clamp(0, BINS - 1)
    same = first.labels[:, None] == second.labels
    known = (first.labels > 0)[:, None] | (second.labels > 0) | of_background
    return torch.bincount((2 * bins + same)[known], minlength=2 * BINS).view(BINS, 2)


def area_under(counts: Tensor) -> float:
    """Chance that a pair of one class lies in a higher bin than one of two, ties half; NaN where either is missing."""
    negative, positive = counts.double().unbind(1)
    below = negative.cumsum(0) - negative / 2
    return ((positive * below).sum() / (positive.sum() * negative.sum())).item()


def rate_of_top(counts: Tensor, share: float) -> float:
    """Positive rate of the most similar `share` of all pairs; of the bin where it ends the part that it needs."""
    falling = counts.double().flip(0)
    pairs = falling.sum(1)
    wanted = share * pairs.sum()
    taken = (wanted - (pairs.cumsum(0) - pairs)).clamp(min=0).minimum(pairs)
    return ((falling[:, 1] * taken / pairs.clamp(min=1)).sum() / wanted).item()


def curve_of(counts: Tensor) -> dict[str, list[float | None]]:
    """In wider bins: middle similarity, positive rate in percent (None of few pairs), percent of all pairs."""
    wide = counts.view(CURVE_BINS, -1, 2).sum(1).double()
    pairs = wide.sum(1)
    middles = (torch.arange(CURVE_BINS, dtype=torch.float64) + 0.5) * (2 / CURVE_BINS) - 1
    rates = [100 * float(one / both) if both >= FEWEST else None for one, both in zip(wide[:, 1], pairs)]
    return {"similarity": middles.tolist(), "positive_rate": rates, "share": (100 * pairs / pairs.sum()).tolist()}


def evaluate(
    backbone: Backbone,
    data: ImageSet,
    config: PositiveRateConfig | None = None,
    *,
    cache: Path | None = None,
    device: str = "auto",
) -> Report:
    """Positive rate against similarity on `data`, whose samples hold masks.

    Args:
        cache: taken so that all protocols are called alike; nothing is kept.

    Returns:
        A report in percent: `positive_rate_top`, `auc`, `floor_positive_rate`. Details: the curve.

    Raises:
        ValueError: empty data, fewer than two images with a patch of a class, pairs that are all of one class or all of
            two, or a size that the patch size does not divide.
    """
    config = config or PositiveRateConfig()
    some, transform = Some(data, config.images), eval_transform(config.transform, backbone)
    seen: list[Labeled] = []
    how: dict[str, Any] = {name: getattr(config, name) for name in ("purity", "batch_size", "precision")}
    how["background"] = False if config.background == "none" else None
    found = each_labeled(backbone, some, transform, seen.append, device=device, title="positive rate", **how)
    pairs = image_pairs(len(seen), config.partners, config.seed)
    counts = torch.zeros(BINS, 2, dtype=torch.int64)
    with progress("positive rate", len(pairs), "pairs of images") as advance:
        for one, other in pairs:
            counts += count_pairs(seen[one], seen[other], of_background=config.background == "class")
            advance(1)
    if not pairs or math.isnan(area_under(counts)):
        raise ValueError(
            f"{len(seen)} images with labeled patches give {int(counts.sum()):,} pairs, {int(counts[:, 1].sum()):,} of "
            "them of one class; the rate needs pairs of both kinds: take more images, or a smaller purity"
        )
    notes = found.notes
    if len(some) < len(data):
        notes.append(f"{len(some)} of {len(data)} images, evenly spaced; images=null takes all")
    numbers = {
        "positive_rate_top": 100 * rate_of_top(counts, TOP),
        "auc": 100 * area_under(counts),
        "floor_positive_rate": 100 * (counts[:, 1].sum() / counts.sum()).item(),
    }
    card = make_card(
        protocol="positive_rate",
        source=SOURCE,
        data={"val": some},
        transform=transform.config,
        layer="last block, after the final norm",
        token="patches with a class",
        averaging="pairs of patches of different images, pooled; percent",
        weights=weights_digest(backbone),
        config=config.plain(),
        backbone=backbone,
        deviations=changes(PositiveRateConfig().plain(), config.plain(), (*NO_INFLUENCE, "seed", "images")),
        seed=config.seed,
        precision=config.precision,
    )
    details = {"images": found.images, "image_pairs": len(pairs), "pairs": int(counts.sum())}
    return Report("positive_rate", numbers, card, details | {"curve": curve_of(counts), "notes": notes})
