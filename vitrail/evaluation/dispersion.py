"""Over-dispersion: are patches of one class nearer to each other than to patches of other classes?

Definition: every image is resized to 256 px on its short side (bicubic) and cropped to the central 224, its mask along.
A patch has the class that most of its pixels have, if these are at least half (`purity`); the others are left out. Of
the cosine similarity between patches after the final norm,

    intra_class     mean over pairs of patches of one class in different images
    inter_class     mean over pairs of patches of two classes in different images
    gap             intra_class - inter_class
    intra_instance  mean over pairs of patches of one class in one image
    inter_instance  mean over pairs of patches of two classes in one image
    gap_instance    intra_instance - inter_instance

in percent (100 is a cosine of 1). The mean is taken over the pairs of a class (or of two classes), then over classes
(or pairs of classes): `average=macro`. `micro` pools all pairs.

Over all pairs the mean is exact and none is drawn: the sum of the similarities of two groups is the product of the
groups' sums, so the cost is linear in the number of patches and there is nothing to subsample.

An instance is what an image has of a class. Masks of class ids do not tell two dogs of one image apart; in generated
scenes it is one object.

Source: CoTAP, the introduction and Figures 1 and 12, which show the phenomenon as pictures. Expected: no number is
published. The floor is 0: with classes dealt at random, intra and inter are the same in expectation. Features that all
share a direction have high similarities everywhere, so compare gaps, and them with `positive_rate`, which looks at
ranks alone.
"""

from __future__ import annotations

import math
from collections import defaultdict
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from vitrail.config import Config
from vitrail.contracts import Backbone, ImageSet
from vitrail.data.transforms import EvalTransformConfig
from vitrail.evaluation.features import NO_INFLUENCE, Precision, eval_transform, weights_digest
from vitrail.evaluation.labeled_patches import Labeled, each_labeled
from vitrail.evaluation.result import Report, changes, make_card
from vitrail.evaluation.some import Some

SEGMENTS = True
"""Images need masks of class ids."""
SOURCE = "this library; after CoTAP, introduction, Figures 1 and 12"
Average = Literal["macro", "micro"]


class DispersionConfig(Config):
    """Which patches count, and how they are averaged."""

    purity: float = Field(default=0.5, gt=0, le=1)
    """Least share of a patch's pixels that its class has."""
    background: bool | None = None
    """Whether mask value 0 is a class of its own; null: as the data set says (VOC and scenes: yes, ADE20K: no)."""
    average: Average = "macro"
    """macro: over the pairs of a class, then over classes; micro: over all pairs."""
    images: int | None = Field(default=1000, ge=2)
    """At most so many images, evenly spaced; null takes all."""
    transform: EvalTransformConfig = EvalTransformConfig()
    batch_size: int = Field(default=32, ge=1)
    """Images per forward pass; no influence on the result."""
    precision: Precision = "fp32"
    """Of the backbone: fp32 or bf16 autocast."""


class Similarity(NamedTuple):
    """Mean cosine similarities between the patches of K classes, NaN where there is no pair; float64."""

    ids: list[int]  # [K] class ids, ascending
    patches: list[int]  # [K]
    images: list[int]  # [K] images with a patch of the class
    across: Tensor  # [K, K] pairs in different images
    within: Tensor  # [K, K] pairs in one image, a patch and itself left out
    across_pairs: Tensor  # [K, K] ordered pairs
    within_pairs: Tensor  # [K, K]


class PairSums:
    """Adds up patches image by image; `similarity` gives the mean over all pairs of them, exactly."""

    def __init__(self) -> None:
        self.sums: dict[int, Tensor] = {}
        self.counts: dict[int, int] = defaultdict(int)
        self.images: dict[int, int] = defaultdict(int)
        self.squares: dict[int, float] = defaultdict(float)  # what patches give with themselves: 1 each, or 0
        self.same: dict[tuple[int, int], float] = defaultdict(float)  # similarities within images
        self.same_pairs: dict[tuple[int, int], int] = defaultdict(int)

    def add(self, features: Tensor, labels: Tensor) -> None:
        """One image: features `[n, D]` of length 1 (or 0), class ids `[n]`."""
        ids, place, counts = labels.unique(return_inverse=True, return_counts=True)
        features = features.double()
        sums = torch.zeros(len(ids), features.shape[1], dtype=torch.float64).index_add_(0, place, features)
        squares = torch.zeros(len(ids), dtype=torch.float64).index_add_(0, place, features.square().sum(1))
        products = (sums @ sums.T).tolist()
        known, numbers = ids.tolist(), counts.tolist()
        for row, one in enumerate(known):
            self.sums[one] = self.sums[one] + sums[row] if one in self.sums else sums[row]
            self.counts[one] += numbers[row]
            self.images[one] += 1
            self.squares[one] += squares[row].item()
            for column, other in enumerate(known):
                self.same[one, other] += products[row][column]
                self.same_pairs[one, other] += numbers[row] * numbers[column]

    def similarity(self) -> Similarity:
        """Mean similarities of all pairs seen."""
        ids = sorted(self.sums)
        sums = torch.stack([self.sums[each] for each in ids])
        counts = torch.tensor([self.counts[each] for each in ids], dtype=torch.float64)
        table = [[(self.same.get((a, b), 0.0), self.same_pairs.get((a, b), 0)) for b in ids] for a in ids]
        same, same_pairs = torch.tensor(table, dtype=torch.float64).unbind(2)
        across_pairs = counts[:, None] * counts - same_pairs
        within_pairs = same_pairs - counts.diag()
        own = torch.tensor([self.squares[each] for each in ids], dtype=torch.float64).diag()
        across = torch.where(across_pairs > 0, (sums @ sums.T - same) / across_pairs, math.nan)
        within = torch.where(within_pairs > 0, (same - own) / within_pairs, math.nan)
        patches, images = ([part[each] for each in ids] for part in (self.counts, self.images))
        return Similarity(ids, patches, images, across, within, across_pairs, within_pairs)


def mean_similarity(values: Tensor, pairs: Tensor, average: Average) -> tuple[float, float]:
    """Intra and inter: the mean over the diagonal and over the rest of `[K, K]`; NaN where there is nothing."""
    own = torch.eye(len(values), dtype=torch.bool)
    found = []
    for chosen in (own, ~own):
        there = chosen & (pairs > 0)
        weights = pairs[there] if average == "micro" else torch.ones_like(pairs[there])
        found.append(((values[there] * weights).sum() / weights.sum()).item())
    return found[0], found[1]


def evaluate(
    backbone: Backbone,
    data: ImageSet,
    config: DispersionConfig | None = None,
    *,
    cache: Path | None = None,
    device: str = "auto",
) -> Report:
    """How alike patches of one class and of different classes of `data` are, whose samples hold masks.

    Args:
        cache: taken so that all protocols are called alike; nothing is kept.

    Returns:
        A report in percent: `intra_class`, `inter_class`, `gap`, and where images hold two patches of a class and two
        classes, `intra_instance`, `inter_instance`, `gap_instance`. Details: per class.

    Raises:
        ValueError: empty data, no mask with a class, one class alone, no class in two images, or a size that the
            patch size does not divide.
    """
    config = config or DispersionConfig()
    some, transform, sums = Some(data, config.images), eval_transform(config.transform, backbone), PairSums()

    def add(seen: Labeled) -> None:
        sums.add(seen.features, seen.labels)

    found = each_labeled(
        backbone,
        some,
        transform,
        add,
        purity=config.purity,
        background=config.background,
        batch_size=config.batch_size,
        precision=config.precision,
        device=device,
        title="dispersion",
    )
    similarity = sums.similarity()
    notes = found.notes
    if len(some) < len(data):
        notes.append(f"{len(some)} of {len(data)} images, evenly spaced; images=null takes all")
    card = make_card(
        protocol="dispersion",
        source=SOURCE,
        data={"val": some},
        transform=transform.config,
        layer="last block, after the final norm",
        token="patches with a class",
        averaging="cosine over all pairs, none drawn; "
        + {"macro": "mean over pairs, then over classes; percent", "micro": "mean over pairs; percent"}[config.average],
        weights=weights_digest(backbone),
        config=config.plain(),
        backbone=backbone,
        deviations=changes(DispersionConfig().plain(), config.plain(), (*NO_INFLUENCE, "images")),
        precision=config.precision,
    )
    details: dict[str, Any] = {"images": found.images, "patches": found.patches}
    details |= {"per_class": _per_class(similarity, data.classes), "notes": notes}
    return Report("dispersion", _numbers(similarity, config.average), card, details)


def _numbers(found: Similarity, average: Average) -> dict[str, float]:
    intra, inter = mean_similarity(found.across, found.across_pairs, average)
    if math.isnan(intra) or math.isnan(inter):
        raise ValueError(
            f"the images hold {len(found.ids)} classes, each in {min(found.images)} to {max(found.images)} images; the "
            "gap needs at least two classes, and one of them in two images: take more images, or a smaller purity"
        )
    numbers = {"intra_class": 100 * intra, "inter_class": 100 * inter, "gap": 100 * (intra - inter)}
    intra, inter = mean_similarity(found.within, found.within_pairs, average)
    if not (math.isnan(intra) or math.isnan(inter)):
        numbers |= {"intra_instance": 100 * intra, "inter_instance": 100 * inter, "gap_instance": 100 * (intra - inter)}
    return numbers


def _per_class(found: Similarity, classes: tuple[str, ...] | None) -> list[dict[str, Any]]:
    rows = []
    for place, number in enumerate(found.ids):
        others = found.across[place][torch.arange(len(found.ids)) != place]
        values = (found.across[place, place], others[~others.isnan()].mean(), found.within[place, place])
        percent = [None if value.isnan() else 100 * value.item() for value in values]
        rows.append(
            {
                "id": number,
                "name": class_name(number, classes),
                "patches": found.patches[place],
                "images": found.images[place],
                **dict(zip(("intra_class", "inter_class", "intra_instance"), percent)),
            }
        )
    return rows


def class_name(number: int, classes: tuple[str, ...] | None) -> str:
    """What a mask value means: k is `classes[k - 1]`, 0 the background."""
    if number == 0:
        return "background"
    return classes[number - 1] if classes is not None and number <= len(classes) else f"class {number}"
