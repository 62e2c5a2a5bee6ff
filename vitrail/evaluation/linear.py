"""A linear classifier on frozen features: the probes of DINO, iBOT, MoCo-v3 and SAR.

Definition: SGD with momentum 0.9, no weight decay, learning rate 1e-3 times batch size / 256, one cosine per
run stepped once per epoch down to 0, 100 epochs, batch 1024; weights start at normal(0, 0.01). Training
images pass RandomResizedCrop to 224 px (bilinear, as released) and a horizontal flip, validation images a
resize to 256 px (bicubic) and the central 224.

Presets:
    dino       the feature is the CLS of the last 4 blocks, each after the final norm, joined (ViT-S)
    dino_vitb  the feature is the last CLS joined with the mean patch (ViT-B)
    ibot       the feature of `dino`, 45 learning rates {1..9} x 10^{-4..0}, the best of them reported as such
    mocov3     the feature is the last CLS; learning rate 3 times batch size / 256, 90 epochs
    sar        of SAR's self-supervised models: as `mocov3`, for 100 epochs. The text says SGD, 100 epochs and "a
        standard protocol"; the rest is inferred from MoCo-v3. For its DINO rows take `dino`, which has 100 epochs
    features   quick: no augmentation, so features are computed once and cached; last CLS, 9 learning rates,
        batch 256

All learning rates train at once on the same features (`vitrail.nn.linear_heads`): 45 cost little more than
one.

Source: DINO, Caron et al. 2021 (arXiv 2104.14294); iBOT, Zhou et al. 2021 (arXiv 2111.07832); MoCo-v3, Chen et al.
2021 (arXiv 2104.02057), with the learning rate of its released commands for ViTs; SAR, Peruzzo et al. 2022 (arXiv
2206.04636), supplement D.4.
Expected on ImageNet-1k: DINO ViT-S/16 77.0, ViT-B/16 78.2; iBOT ViT-S/16 77.9; MoCo-v3 ViT-S/16 73.2, ViT-B/16 76.7
top-1. On ImageNet-100, SAR's Table 8: MoCo-v3 77.60, with SAR 78.88; DINO 77.42, with SAR 79.90.

Deviations: the number is that of the last epoch (the published script keeps the best epoch on the validation
set). With augmentation, images that do not fill an epoch's last batch are left out of that epoch, others in
the next. A batch is never larger than the training set, and the learning rate follows it. `augment=False`
trains on the features of the validation transform instead of augmented images: it is quick, but it is not the
published number, and the card says so. `linear_best_*` of a sweep is chosen on the validation set itself, as
published. MoCo-v3 resizes validation images bilinearly: `transform.interpolation=bilinear`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from vitrail.config import Config, Listed
from vitrail.contracts import Backbone, ImageSet
from vitrail.data.loader import Loader
from vitrail.data.transforms import EvalTransformConfig, TrainTransform, TrainTransformConfig
from vitrail.evaluation.features import (
    NO_INFLUENCE,
    FeatureConfig,
    Features,
    Precision,
    autocast,
    eval_transform,
    extract,
    frozen,
    pixel_statistics,
    read_features,
    require_labels,
    shared_classes,
    weights_digest,
)
from vitrail.evaluation.progress import progress
from vitrail.evaluation.result import Report, changes, make_card
from vitrail.metrics.classification import topk_accuracy
from vitrail.nn.linear_heads import LinearHeads

SOURCES = {
    "dino": "DINO, Caron et al. 2021, arXiv 2104.14294",
    "dino_vitb": "DINO, Caron et al. 2021, arXiv 2104.14294",
    "ibot": "iBOT, Zhou et al. 2021, arXiv 2111.07832",
    "mocov3": "MoCo-v3, Chen et al. 2021, arXiv 2104.02057",
    "sar": "SAR, Peruzzo et al. 2022, arXiv 2206.04636; after MoCo-v3, arXiv 2104.02057",
    "features": "this library; after DINO, arXiv 2104.14294",
}


class Settings(NamedTuple):
    """What a preset decides."""

    cls_blocks: int
    mean_patch: bool
    augment: bool
    epochs: int
    batch_size: int
    learning_rates: tuple[float, ...]  # per 256 images of the batch
    momentum: float

    def features(self) -> FeatureConfig:
        """Which tokens are read."""
        return FeatureConfig(cls_blocks=self.cls_blocks, mean_patch=self.mean_patch)


SWEEP = tuple(round(digit * 10.0**power, 6) for power in range(-4, 1) for digit in range(1, 10))
COARSE = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)
PRESETS = {
    "dino": Settings(4, False, True, 100, 1024, (1e-3,), 0.9),
    "dino_vitb": Settings(1, True, True, 100, 1024, (1e-3,), 0.9),
    "ibot": Settings(4, False, True, 100, 1024, SWEEP, 0.9),
    "mocov3": Settings(1, False, True, 90, 1024, (3.0,), 0.9),
    "sar": Settings(1, False, True, 100, 1024, (3.0,), 0.9),
    "features": Settings(1, False, False, 100, 256, COARSE, 0.9),
}


class LinearConfig(Config):
    """A preset, and what differs from it (null: as the preset says)."""

    preset: Literal["dino", "dino_vitb", "ibot", "mocov3", "sar", "features"] = "dino"
    cls_blocks: int | None = Field(default=None, ge=0)
    """Join the CLS of the last n blocks; 0 for none, with `mean_patch`."""
    mean_patch: bool | None = None
    """Append the mean patch of the last block."""
    augment: bool | None = None
    """RandomResizedCrop and flip, the backbone runs every epoch."""
    epochs: int | None = Field(default=None, ge=1)
    batch_size: int | None = Field(default=None, ge=1)
    """Images per step; the learning rate grows with it."""
    learning_rates: Annotated[tuple[float, ...] | None, Listed] = None
    """Per 256 images of the batch."""
    momentum: float | None = Field(default=None, ge=0, lt=1)
    transform: EvalTransformConfig = EvalTransformConfig()
    train_transform: TrainTransformConfig = TrainTransformConfig(interpolation="bilinear")
    forward_batch_size: int = Field(default=64, ge=1)
    """Images per forward pass of the backbone; no influence."""
    workers: int = Field(default=0, ge=0)
    """Loading processes."""
    precision: Precision = "fp32"
    """Of the backbone: fp32 or bf16 autocast."""
    seed: int = 0
    """Of the heads' start, the order and the augmentation."""

    def settings(self) -> Settings:
        """The preset with the fields that were given."""
        given = {name: getattr(self, name) for name in Settings._fields}
        return PRESETS[self.preset]._replace(**{name: value for name, value in given.items() if value is not None})


def evaluate(
    backbone: Backbone,
    train: ImageSet,
    val: ImageSet,
    config: LinearConfig | None = None,
    *,
    cache: Path | None = None,
    device: str = "auto",
) -> Report:
    """Train linear heads on `train` and score them on `val`.

    Args:
        cache: folder for the validation features, and for the training features where `augment` is off.

    Returns:
        A report with `linear_top1`, `linear_top5` in percent; with several learning rates they are called
        `linear_best_top1`, `linear_best_top5`, and `details["per_learning_rate"]` holds all of them.

    Raises:
        ValueError: empty or unlabeled data, different class lists, or training that diverged at every rate.
    """
    config = config or LinearConfig()
    settings = config.settings()
    settings = settings._replace(batch_size=min(settings.batch_size, max(len(train), 1)))
    classes = shared_classes(train, val)
    with frozen(backbone, device) as place:
        target = _extract(backbone, val, "val", config, cache, device)
        labels = require_labels(target, "val")
        notes = list(target.notes)
        if settings.augment:
            batches = _augmented(backbone, train, config, settings, place, notes)
        else:
            source = _extract(backbone, train, "train", config, cache, device)
            notes += source.notes
            known = require_labels(source, "train").to(place)
            batches = shuffled(source.values.to(place), known, settings.epochs, settings.batch_size, config.seed)
        heads, losses = fit_heads(batches, target.values.shape[1], classes, settings, seed=config.seed, device=place)
        accuracies = _score(heads, target.values.to(place), labels.to(place), notes)
    best = max(range(len(settings.learning_rates)), key=accuracies[1].__getitem__)
    prefix = "linear" if len(settings.learning_rates) == 1 else "linear_best"
    numbers = {f"{prefix}_top{k}": values[best] for k, values in accuracies.items()}
    details = {
        "per_learning_rate": [
            {"learning_rate": rate, **{f"top{k}": values[index] for k, values in accuracies.items()}}
            for index, rate in enumerate(settings.learning_rates)
        ],
        "best_learning_rate": settings.learning_rates[best],
        "loss_per_epoch": [epoch[best] for epoch in losses],
        "notes": notes,
    }
    return Report("linear", numbers, _card(backbone, train, val, config, settings), details)


def shuffled(
    features: Tensor, labels: Tensor, epochs: int, batch_size: int, seed: int
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """(epoch, features `[B, D]`, labels `[B]`) in a new order each epoch; the last batch may be smaller."""
    generator = torch.Generator().manual_seed(seed)
    for epoch in range(epochs):
        for chosen in torch.randperm(len(features), generator=generator).split(batch_size):
            chosen = chosen.to(features.device)
            yield epoch, features[chosen], labels[chosen]


def fit_heads(
    batches: Iterable[tuple[int, Tensor, Tensor]],
    width: int,
    classes: int,
    settings: Settings,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> tuple[LinearHeads, list[list[float | None]]]:
    """Train one linear head per learning rate, all on the same batches.

    Args:
        batches: (epoch, features `[B, width]`, labels `[B]`), epochs 0 to settings.epochs - 1 in order.
        width: D of the features.
        classes: C.
        settings: learning rates are multiplied by batch_size / 256 and follow a cosine, constant within an
            epoch.

    Returns:
        The heads, and the mean training loss per epoch and head (nats; None where it diverged).
    """
    rates = [rate * settings.batch_size / 256 for rate in settings.learning_rates]
    heads = LinearHeads(width, classes, rates, settings.momentum, seed).to(device)
    sums = torch.zeros(settings.epochs, len(rates), device=device)
    seen = [0] * settings.epochs
    for epoch, features, labels in batches:
        factor = 0.5 * (1.0 + math.cos(math.pi * epoch / settings.epochs))
        sums[epoch] += heads.sgd_step(features, labels, factor) * len(labels)
        seen[epoch] += len(labels)
    means = sums.cpu() / torch.tensor(seen).clamp(min=1)[:, None]
    return heads, [[loss if math.isfinite(loss) else None for loss in epoch] for epoch in means.tolist()]


def _augmented(
    backbone: Backbone,
    train: ImageSet,
    config: LinearConfig,
    settings: Settings,
    place: torch.device,
    notes: list[str],
) -> Iterator[tuple[int, Tensor, Tensor]]:
    loader = Loader(
        train,
        _train_transform(config.train_transform, backbone),
        global_batch_size=settings.batch_size,
        seed=config.seed,
        workers=config.workers,
    )
    steps, reading = loader.steps_per_epoch, settings.features()
    with progress("linear probe", settings.epochs * steps, "steps") as advance:
        for step, parts in enumerate(loader.batches(0, settings.epochs * steps)):
            for batch in parts:
                if batch.labels is None:
                    raise ValueError("train has images without a label; a linear probe needs class folders")
                with autocast(place, config.precision):
                    chunks = batch.images.split(config.forward_batch_size)
                    values = torch.cat([read_features(backbone, chunk.to(place), reading) for chunk in chunks])
                yield step // steps, values, batch.labels.to(place)
            advance(1)
    notes += [f"train image {path} could not be read ({reason})" for path, reason in loader.skipped.values()]


def _train_transform(config: TrainTransformConfig, backbone: Backbone) -> TrainTransform:
    return TrainTransform(config.model_copy(update=pixel_statistics(backbone)))


def _score(heads: LinearHeads, values: Tensor, labels: Tensor, notes: list[str]) -> dict[int, list[float]]:
    logits = torch.cat([heads(part).cpu() for part in values.split(1024)], dim=1)
    diverged = [rate for own, rate in zip(logits, heads.learning_rates.tolist()) if not own.isfinite().all()]
    if len(diverged) == len(logits):
        raise ValueError(f"training diverged at every learning rate ({diverged}); give smaller learning_rates")
    if diverged:
        notes.append(f"training diverged at the learning rates {diverged} and counts as wrong there")
    per_head = [topk_accuracy(own, labels.cpu()) for own in logits]
    return {k: [accuracy[k] for accuracy in per_head] for k in per_head[0]}


def _extract(
    backbone: Backbone, data: ImageSet, role: str, config: LinearConfig, cache: Path | None, device: str
) -> Features:
    return extract(
        backbone,
        data,
        eval_transform(config.transform, backbone),
        config.settings().features(),
        batch_size=config.forward_batch_size,
        workers=config.workers,
        precision=config.precision,
        device=device,
        cache=cache,
        title=f"linear probe features, {role}",
    )


def _card(
    backbone: Backbone, train: ImageSet, val: ImageSet, config: LinearConfig, settings: Settings
) -> dict[str, Any]:
    layer, token = settings.features().words()
    words = changes(PRESETS[config.preset]._asdict(), settings._asdict())
    if not settings.augment:
        words.append("no augmentation: trained on the features of the validation transform")
    words += changes(LinearConfig().plain(), config.plain(), (*NO_INFLUENCE, "preset", "seed", *Settings._fields))
    return make_card(
        protocol="linear",
        source=SOURCES[config.preset],
        data={"train": train, "val": val},
        transform=eval_transform(config.transform, backbone).config,
        layer=layer,
        token=token,
        averaging="share of validation images after the last epoch, in percent",
        weights=weights_digest(backbone),
        config={**config.plain(), **settings._asdict()},
        backbone=backbone,
        preset=config.preset,
        deviations=words,
        seed=config.seed,
        precision=config.precision,
    )
