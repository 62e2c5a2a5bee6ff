"""Top-1 and top-5 accuracy of a backbone with the classifier it was trained with.

Definition: every image is resized to 256 px on its short side (bicubic) and cropped to the central 224; the
linear head reads the CLS token after the final norm, or the mean of the patches after it where it was trained on
that; a prediction is right when the label is the best (top-1) or among the five best classes (top-5). Percent of the
validation images.

Source: Krizhevsky et al. 2012; the resize and crop of DeiT, Touvron et al. 2021 (arXiv 2012.12877).
Expected on ImageNet-1k: SAR reports 79.8 for ViT-S/16 (300 epochs) and 80.7 with SAR; 74.22 and 76.72 on
ImageNet-100 after 100 epochs.

Deviations: none. Labels are matched with the head's class names, and not by position, and classes that the head does
not know are refused: a silently shifted class list is how 0.1 % top-1 comes about. A head that does not name its 1,000
outputs has ImageNet's classes where those of the data are some of their WordNet ids; all 1,000 may be predicted.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from vitrail.config import Config
from vitrail.contracts import Backbone, ImageSet
from vitrail.data.imagenet_c import ImageNetC
from vitrail.data.transforms import EvalTransformConfig
from vitrail.evaluation.class_match import output_names
from vitrail.evaluation.features import (
    NO_INFLUENCE,
    FeatureConfig,
    Precision,
    device_of,
    eval_transform,
    extract,
    frozen,
    require_labels,
    weights_digest,
)
from vitrail.evaluation.result import Report, changes, make_card
from vitrail.evaluation.selecting import Pool, SelectingClassifier, outputs_of
from vitrail.metrics.classification import confusion_matrix, topk_accuracy

WHOLE = True
"""A folder of ImageNet's classes without splits is measured as a whole, unless the weights were trained on it."""
SOURCE = "resize and crop of DeiT, Touvron et al. 2021, arXiv 2012.12877"


class AccuracyConfig(Config):
    """The published settings by default; a small model asks for another `transform`."""

    transform: EvalTransformConfig = EvalTransformConfig()
    batch_size: int = Field(default=64, ge=1)
    """Images per forward pass; no influence on the result."""
    workers: int = Field(default=0, ge=0)
    """Loading processes."""
    precision: Precision = "fp32"
    """Of the backbone: fp32 or bf16 autocast."""


def evaluate(
    backbone: Backbone,
    head: nn.Module,
    val: ImageSet,
    config: AccuracyConfig | None = None,
    *,
    classes: Sequence[str] | None = None,
    pool: Literal["cls", "mean"] = "cls",
    cache: Path | None = None,
    device: str = "auto",
) -> Report:
    """Accuracy of `head(token)` on `val`.

    Args:
        head: `[B, D]` -> logits `[B, C]`.
        classes: names of the head's C outputs; None takes 1,000 of them for ImageNet's in their standard order where
            the data's classes are WordNet ids, and as many as the data has classes to be in their order.
        pool: what the head reads, the class token or the mean of the patches; `load_classifier` says it.

    Returns:
        A report with `top1`, `top5` in percent; details hold the accuracy per class and the most frequent
        confusions.

    Raises:
        ValueError: empty or unlabeled data, classes that the head does not know, outputs without names of which nothing
            says which is which, or a head that reads all tokens.
    """
    config = config or AccuracyConfig()
    if pool not in ("cls", "mean"):
        raise ValueError(
            f"the head reads {pool} tokens, and accuracy is of a head that reads one vector of features; "
            "multi_label and selection_accuracy take such a head"
        )
    tokens = FeatureConfig() if pool == "cls" else FeatureConfig(cls_blocks=0, mean_patch=True)
    layer, token = tokens.words()
    if isinstance(val, ImageNetC):
        raise ValueError(
            f"{val.root} is a tree of ImageNet-C; measure with `vitrail evaluate robustness`, or name one of its "
            "folders CORRUPTION/SEVERITY"
        )
    if classes is None and val.classes is not None:
        classes = _names(backbone, head, pool, config, val.classes, device)
    features = extract(
        backbone,
        val,
        eval_transform(config.transform, backbone),
        tokens,
        batch_size=config.batch_size,
        workers=config.workers,
        precision=config.precision,
        device=device,
        cache=cache,
        title="accuracy features, val",
    )
    labels = match_classes(require_labels(features, "val"), val.classes, classes)
    logits = _logits(head, features.values)
    if int(labels.max()) >= logits.shape[1]:
        raise ValueError(f"val has class {int(labels.max())}, but the head has {logits.shape[1]} outputs")
    card = make_card(
        protocol="accuracy",
        source=SOURCE,
        data={"val": val},
        transform=eval_transform(config.transform, backbone).config,
        layer=layer,
        token=f"{token}, linear head",
        averaging="share of images, in percent",
        weights=weights_digest(backbone),
        config=config.plain(),
        backbone=backbone,
        deviations=changes(AccuracyConfig().plain(), config.plain(), NO_INFLUENCE),
        precision=config.precision,
    )
    numbers = {f"top{k}": value for k, value in topk_accuracy(logits, labels).items()}
    details = {**_per_class(logits, labels, classes or val.classes), "notes": list(features.notes)}
    return Report("accuracy", numbers, card, details)


def _names(
    backbone: Backbone, head: nn.Module, pool: Pool, config: AccuracyConfig, classes: Sequence[str], device: str
) -> tuple[str, ...]:
    """Of a head's outputs that have none."""
    size = eval_transform(config.transform, backbone).config.image_size
    with frozen(backbone, device) as place, frozen(head, str(place)):
        return output_names(outputs_of(SelectingClassifier(backbone, head, pool), size, place), classes)


def match_classes(labels: Tensor, names: Sequence[str] | None, head_names: Sequence[str] | None) -> Tensor:
    """Labels `[N]` of the data set's class list, as positions in the head's.

    Raises:
        ValueError: classes among the labels that the head does not know; the message lists them.
    """
    if names is None or head_names is None or list(names) == list(head_names):
        return labels
    position = {name: index for index, name in enumerate(head_names)}
    unknown = [names[label] for label in labels.unique().tolist() if names[label] not in position]
    if unknown:
        raise ValueError(
            f"the head does not know {len(unknown)} of the data set's classes ({', '.join(unknown[:5])}); "
            f"it knows {', '.join(list(head_names)[:5])}, ...: give data with the classes it was trained on"
        )
    return torch.tensor([position.get(name, -1) for name in names])[labels]


def _logits(head: nn.Module, values: Tensor) -> Tensor:
    home = device_of(head)
    with frozen(head, str(home)):
        return torch.cat([head(part.to(home)).float().cpu() for part in values.split(4096)])


def _per_class(logits: Tensor, labels: Tensor, names: Sequence[str] | None) -> dict[str, object]:
    counts = confusion_matrix(logits.argmax(1), labels, logits.shape[1])
    known = [*(names or ()), *(str(index) for index in range(len(names or ()), len(counts)))]
    totals = counts.sum(1)
    right = {
        known[index]: 100.0 * counts[index, index].item() / totals[index].item()
        for index in totals.nonzero()[:, 0].tolist()
    }
    wrong = counts - counts.diag().diag()
    worst = wrong.flatten().topk(min(10, wrong.numel()))
    confused = [
        {"true": known[place // len(counts)], "predicted": known[place % len(counts)], "images": images}
        for images, place in zip(worst.values.tolist(), worst.indices.tolist(), strict=True)
        if images
    ]
    return {"per_class": right, "confused": confused}
