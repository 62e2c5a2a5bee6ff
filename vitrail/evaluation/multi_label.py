"""Mean average precision of a classifier of several labels an image, on whole images and on what rankers keep.

Definition: resize to 256 px (bicubic), center crop 224. A ranker scores the patches of each image; the k best of N are
kept (k = int(keep N), ties by index), and the classifier runs on them alone, their positions added first. For the full
image, and for each ranker and keep ratio, over all images of the set at once:

    map    the average precision of a class, all images ordered by its logit; then the mean over classes; percent
    cf1    F1 of the mean precision and the mean recall over classes; labels are given at a probability above one half
    of1    F1 of all pairs of image and class

Beside the rankers stands a random selection; the full image is what keep = 1 meets exactly. Classes that no image of
the set has are in no mean, and named in a note.

Sources: Ridnik et al., "Asymmetric Loss For Multi-Label Classification", 2021 (arXiv 2009.14119), for mAP; Wang et al.,
"CNN-RNN", 2016 (arXiv 1604.04573), for CF1 and OF1; LTRP, whose selected patches are given to such a classifier.
Expected: LTRP's authors state a mAP of 82.8 on COCO at 147 of 196 patches, as a mean over batches, a class without a
positive in the batch counting 0, which is another number for every batch size.

Deviations: papers resize to 448 px and squash; here the transform is that of the other protocols (`transform.*` says
another). CF1 leaves out classes without a positive, as mAP does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Annotated, Any, NamedTuple

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from vitrail.config import Config, Listed
from vitrail.contracts import Backbone, Batch, ImageSet, Ranker
from vitrail.data.loader import ordered_batches
from vitrail.data.multi_label import is_multi_label
from vitrail.data.transforms import EvalTransformConfig
from vitrail.evaluation.features import NO_INFLUENCE, Precision, autocast, eval_transform, frozen, weights_digest
from vitrail.evaluation.progress import progress
from vitrail.evaluation.result import Report, changes, make_card
from vitrail.evaluation.selecting import Pool, SelectingClassifier, answers, shares, token_of
from vitrail.metrics.multi_label import MeanPrecision, f1, mean_average_precision
from vitrail.ops.patches import grid_of
from vitrail.ops.selection import number_kept

SOURCE = "mAP of Ridnik et al. 2021, arXiv 2009.14119, over the whole set; CF1 and OF1 of Wang et al. 2016"
SEVERAL = True
"""This protocol's images have any number of labels each: of COCO and VOC, the classes of their objects."""
FULL = ("", 1.0)  # a key of logits: the whole image, no `keep`


class MultiLabelConfig(Config):
    """Which shares are kept."""

    keeps: Annotated[tuple[float, ...], Listed] = (0.25, 0.5, 0.75, 1.0)
    """Shares of the patches that are kept, each in (0, 1]."""
    transform: EvalTransformConfig = EvalTransformConfig()
    seed: int = 0
    """Of the random selection."""
    batch_size: int = Field(default=64, ge=1)
    """Images per forward pass; no influence on the result."""
    workers: int = Field(default=0, ge=0)
    """Loading processes."""
    precision: Precision = "fp32"
    """Of classifier and rankers: fp32 or bf16 autocast."""

    @field_validator("keeps")
    @classmethod
    def _shares(cls, keeps: tuple[float, ...]) -> tuple[float, ...]:
        return shares(keeps)


def evaluate(
    backbone: Backbone,
    head: nn.Module,
    val: ImageSet,
    rankers: Mapping[str, Ranker] | None = None,
    config: MultiLabelConfig | None = None,
    *,
    classes: Sequence[str] | None = None,
    pool: Pool = "cls",
    device: str = "auto",
) -> Report:
    """Mean average precision of a classifier, on all patches and on those that rankers keep.

    Args:
        head: what `pool` says -> logits `[B, C]`, before the sigmoid.
        val: images with `labels`; `vitrail.data.ObjectLabels` makes them of objects.
        rankers: by name; `random` is added, drawn from the seed and the image's position.
        classes: names of the head's C outputs; None takes them to be in the data set's order.
        pool: what the head reads: the class token, the mean of the kept patches, or all tokens.

    Returns:
        A report with `full_map`, `full_cf1`, `full_of1`, and for each ranker and keep ratio `center_0.25_map` and so
        on, in percent. Details: `rows`, one for each ranker and keep ratio, `full`, and `per_class`, of the full image.

    Raises:
        ValueError: empty data, one label an image, classes that the head does not know, or a ranker with another grid.
    """
    config, rankers = config or MultiLabelConfig(), rankers or {}
    _check(val)
    columns = _columns(val.classes or (), classes)
    transform, skipped = eval_transform(config.transform, backbone), dict[int, tuple[str, str]]()
    tally = _Tally(SelectingClassifier(backbone, head, pool), rankers, config)
    with ExitStack() as stack:
        place = stack.enter_context(frozen(backbone, device))
        for part in (head, *rankers.values()):
            stack.enter_context(frozen(part, str(place)))
        batches = ordered_batches(val, transform, config.batch_size, config.workers, skipped=skipped)
        with progress("multi-label", len(val)) as advance:
            for batch in batches:
                with autocast(place, config.precision):
                    tally.add(batch, place)
                advance(len(batch.images))
    if not tally.labels:
        raise ValueError(f"none of the {len(val)} images could be read; run `vitrail doctor` on the folder")
    scored = tally.scored(columns, len(classes) if classes is not None else None)
    full, rows = scored.pop(FULL), [_row(key, score, tally.patches) for key, score in scored.items()]
    card = make_card(
        protocol="multi_label",
        source=SOURCE,
        data={"val": val},
        transform=transform.config,
        layer="last block, after the final norm, of the kept patches",
        token=token_of(pool),
        averaging="average precision over the whole set, then over the classes that it has; percent",
        weights=weights_digest(backbone),
        config=config.plain() | {"rankers": {name: weights_digest(ranker) for name, ranker in rankers.items()}},
        backbone=backbone,
        deviations=changes(MultiLabelConfig().plain(), config.plain(), (*NO_INFLUENCE, "keeps", "seed")),
        seed=config.seed,
        precision=config.precision,
    )
    details = {
        "full": full.numbers,
        "rows": rows,
        "images": sum(map(len, tally.labels)),
        "patches": tally.patches,
        "per_class": _per_class(val.classes or (), full.precision, torch.cat(tally.labels)),
        "notes": _notes(len(skipped), len(val), val.classes or (), classes, full.precision),
    }
    return Report("multi_label", _numbers(full.numbers, rows), card, details)


class _Score(NamedTuple):
    """How good the logits of a set are."""

    numbers: dict[str, float]
    precision: MeanPrecision


class _Tally:
    """Logits of all images by ranker and keep ratio, batch by batch."""

    def __init__(self, model: SelectingClassifier, rankers: Mapping[str, Ranker], config: MultiLabelConfig) -> None:
        self.model, self.rankers, self.config = model, rankers, config
        self.labels: list[Tensor] = []
        self.logits: dict[tuple[str, float], list[Tensor]] = {}
        self.patches = 0

    def add(self, batch: Batch, place: torch.device) -> None:
        assert batch.labels is not None  # `_check` has looked
        images = batch.images.to(place, non_blocking=True)
        rows, columns = grid_of(images.shape[-2], images.shape[-1], self.model.backbone.patch_size)
        self.patches = rows * columns
        self.labels.append(batch.labels)
        self._keep(FULL, self.model(images))
        for key, logits in answers(self.model, self.rankers, images, batch.indices, self.config):
            self._keep(key, logits)

    def scored(self, columns: Tensor, outputs: int | None) -> dict[tuple[str, float], _Score]:
        """mAP and F1 by ranker and keep ratio; `columns` are the head's outputs for the data's classes."""
        targets, expected = torch.cat(self.labels), len(columns) if outputs is None else outputs
        found = {}
        for key, parts in self.logits.items():
            logits = torch.cat(parts)
            if logits.shape[1] != expected:
                raise ValueError(
                    f"the head has {logits.shape[1]} outputs, and there are {expected} classes; give data with the "
                    "classes it was trained on"
                )
            chosen = logits[:, columns]
            precision, both = mean_average_precision(chosen, targets), f1(chosen > 0, targets)
            numbers = {"map": precision.mean, "cf1": both.of_classes, "of1": both.overall}
            found[key] = _Score(numbers, precision)
        return found

    def _keep(self, key: tuple[str, float], logits: Tensor) -> None:
        self.logits.setdefault(key, []).append(logits.float().cpu())


def _check(val: ImageSet) -> None:
    if not len(val):
        raise ValueError("multi-label: the data set is empty; an evaluation needs at least one image")
    if not is_multi_label(val) or not val.classes:
        raise ValueError(
            "the images have no table of labels and no objects, and multi_label is for any number of labels each; give "
            "a tree of COCO or VOC, or a folder with labels.csv, or take accuracy for one label an image"
        )


def _columns(names: Sequence[str], head_names: Sequence[str] | None) -> Tensor:
    """For each class of the data its output of the head, int64; `ValueError` where the head has none for it."""
    if head_names is None:
        return torch.arange(len(names))
    position = {name: index for index, name in enumerate(head_names)}
    if unknown := [name for name in names if name not in position]:
        raise ValueError(
            f"the head does not know {len(unknown)} of the data set's classes ({', '.join(unknown[:5])}); it knows "
            f"{', '.join(list(head_names)[:5])}, ...: give data with the classes it was trained on"
        )
    return torch.tensor([position[name] for name in names])


def _row(key: tuple[str, float], score: _Score, patches: int) -> dict[str, Any]:
    name, keep = key
    return {"ranker": name, "keep": keep, "kept": number_kept(keep, patches), **score.numbers}


def _per_class(names: Sequence[str], precision: MeanPrecision, targets: Tensor) -> list[dict[str, Any]]:
    """Of each class that has a positive: images, and average precision of the full image in percent."""
    counts, values = targets.sum(0).int().tolist(), precision.per_class.tolist()
    rows = zip(names, counts, values, strict=True)
    return [{"class": name, "images": count, "ap": value} for name, count, value in rows if count]


def _notes(
    unreadable: int, count: int, names: Sequence[str], head_names: Sequence[str] | None, precision: MeanPrecision
) -> list[str]:
    without = [names[index] for index in precision.without]
    strangers = [name for name in head_names or () if name not in set(names)]
    said = {
        f"{unreadable} of {count} images could not be read and were left out": unreadable,
        f"no image has {len(without)} of {len(names)} classes, which are in no mean: {_some(without)}": len(without),
        f"{len(strangers)} classes of the head are none of the data's and were left out: {_some(strangers)}": strangers,
    }
    return [words for words, number in said.items() if number]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + ", ..." * (len(names) > 5)


def _numbers(full: Mapping[str, float], rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    numbers = {f"full_{name}": value for name, value in full.items()}
    for row in rows:
        numbers |= {f"{row['ranker']}_{row['keep']:g}_{name}": row[name] for name in full}
    return numbers
