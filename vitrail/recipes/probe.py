"""k-NN while a model learns without labels: a number to watch, on part of the images."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from pydantic import Field
from torch import Tensor

from vitrail.backbones import AnyBackbone, TimmConvNet
from vitrail.config import Config
from vitrail.contracts import ImageSet
from vitrail.data import EvalTransformConfig, build_eval_transform, is_multi_label, ordered_batches
from vitrail.evaluation.features import FeatureConfig, read_features
from vitrail.evaluation.knn import classify
from vitrail.recipes.sources import Part, Splits
from vitrail.recipes.start import tell_unreadable
from vitrail.train import Ranks


class ProbeConfig(Config):
    """How many images are looked at between epochs; `vitrail evaluate knn` takes all."""

    train: int = Field(5000, ge=1)
    """Images whose labels vote, at most."""
    val: int = Field(1000, ge=1)
    """Images to classify, at most."""
    k: int = Field(20, ge=1)
    """Neighbors."""
    features: FeatureConfig = FeatureConfig()
    """Which tokens are compared."""


def knn_probe(
    backbone: AnyBackbone | TimmConvNet,
    splits: Splits,
    transform: EvalTransformConfig,
    config: ProbeConfig,
    workers: int,
    ranks: Ranks,
) -> Callable[[], Mapping[str, float]] | None:
    """A function that gives `knn_top1`, percent; None where images have no classes, or several labels each."""
    classes = splits.train.classes
    if classes is None or len(classes) < 2 or is_multi_label(splits.train):
        return None
    bank, queries = spread(splits.train, config.train), spread(splits.val, config.val)
    told: dict[str, set[int]] = {"train": set(), "val": set()}

    @torch.no_grad()
    def evaluate() -> Mapping[str, float]:
        found = {
            name: _features(backbone, data, transform, config.features, workers, ranks, told[name])
            for name, data in (("train", bank), ("val", queries))
        }
        k = min(config.k, len(found["train"][0]))
        accuracy = classify(*found["val"], *found["train"], ks=(k,), classes=len(classes))
        return {"knn_top1": accuracy[k][1]}

    return evaluate


def spread(data: ImageSet, most: int) -> ImageSet:
    """The set, or `most` of its images, evenly spaced."""
    if len(data) <= most:
        return data
    return Part(data, [number * len(data) // most for number in range(most)], f"{most} evenly spaced")


def _features(
    backbone: AnyBackbone | TimmConvNet,
    data: ImageSet,
    transform: EvalTransformConfig,
    config: FeatureConfig,
    workers: int,
    ranks: Ranks,
    told: set[int],
) -> tuple[Tensor, Tensor]:
    """Features and labels of all images, on the CPU; each rank computes its part."""
    device = next(backbone.parameters()).device
    skipped: dict[int, tuple[str, str]] = {}
    place = {"rank": ranks.rank, "world": ranks.world, "workers": min(workers, 2), "skipped": skipped}
    values, labels = [], []
    for batch in ordered_batches(data, build_eval_transform(transform), 128, **place):  # type: ignore[arg-type]
        assert batch.labels is not None
        values.append(read_features(backbone, batch.images.to(device), config).cpu())
        labels.append(batch.labels)
    mine = (torch.cat(values), torch.cat(labels)) if values else None
    tell_unreadable({i: why for part in ranks.gather(skipped) for i, why in part.items()}, len(data), told)
    parts = [part for part in ranks.gather(mine) if part is not None]
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
