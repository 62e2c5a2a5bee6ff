"""The course of a segmentation probe, for any head: settings, training, choice of the rate, report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from vitrail.config import Config, Listed
from vitrail.contracts import Backbone, ImageSet
from vitrail.data.dense_batches import as_evaluated, dense_batches, in_chance_order, in_order, left_out
from vitrail.data.mask_crop import MaskCrop, MaskCropConfig
from vitrail.data.semantic import SemanticLabels, semantic_labels
from vitrail.data.transforms import EvalTransform, EvalTransformConfig
from vitrail.evaluation.attention import Pixels
from vitrail.evaluation.dense_scoring import LabelMaps, evenly, per_class
from vitrail.evaluation.dense_training import (
    Examples,
    Fitted,
    fit,
    from_crops,
    from_memory,
    maps_of,
    remember,
    room_for,
)
from vitrail.evaluation.features import (
    NO_INFLUENCE,
    Precision,
    eval_transform,
    frozen,
    pixel_statistics,
    weights_digest,
)
from vitrail.evaluation.progress import progress
from vitrail.evaluation.result import Report, changes, make_card
from vitrail.ops.patches import grid_of, sides_of

SOURCE = "CoTAP, Section 5 and Appendix B.2"
SWEEP = (1e-4, 1e-3, 3e-3, 1e-2)
CURVE = 100  # points of the loss curve that a report holds
MakeHead = Callable[[int, int], nn.Module]
"""Width of the features and number of classes -> a head."""


class Settings(NamedTuple):
    """What a preset decides."""

    image_size: int | tuple[int, int]  # pixels, a side or (height, width), of all images that are not cropped
    crop_size: int  # pixels a side of training crops; 0: none, features are computed once
    samples: int | None  # images to train on, repetitions counted
    epochs: int | None  # how often each image is seen, where `samples` is None
    batch_size: int
    learning_rates: tuple[float, ...]
    final_rate: float | None  # where a cosine goes to; None for a constant rate

    def steps(self, images: int) -> int:
        """Optimizer steps."""
        wanted = self.samples if self.samples is not None else (self.epochs or 1) * images
        return max(1, wanted // min(self.batch_size, images))


class DenseProbeConfig(Config):
    """What a segmentation probe can be asked for; a preset's value where a field is null."""

    PRESETS: ClassVar[Mapping[str, Settings]]

    image_size: Pixels | tuple[Pixels, Pixels] | None = None
    """Pixels, a side or (height, width), that images are squashed to, all that are not cropped."""
    crop_size: int | None = Field(default=None, ge=0)
    """Pixels a side of training crops; 0 for none: then the backbone sees each training image once."""
    crop_scale: tuple[float, float] = (0.5, 1.0)
    """Share of a training image's area that a crop covers, least and most."""
    flip: float = Field(default=0.5, ge=0, le=1)
    """Probability that a crop is flipped."""
    samples: int | None = Field(default=None, ge=1)
    """Images to train on, repetitions counted."""
    epochs: int | None = Field(default=None, ge=1)
    """How often each image is seen; instead of `samples`."""
    batch_size: int | None = Field(default=None, ge=1)
    """Images per step; never more than there are."""
    learning_rates: Annotated[tuple[float, ...] | None, Listed] = None
    """Of Adam; the best on the validation set is reported."""
    final_rate: float | None = Field(default=None, gt=0)
    """Where a cosine takes the learning rates."""
    truth: Literal["image", "input"] = "image"
    """Where pixels are counted: at the size of each mask as it is in its file, or of what the backbone sees."""
    images: int | None = Field(default=None, ge=1)
    """Train on so many evenly spaced images."""
    memory: float = Field(default=8.0, gt=0)
    """GB that features of training images may take, where they are computed once; for a moment they take it twice."""
    pictures: int = Field(default=6, ge=0)
    """Validation images whose label maps are kept to look at."""
    forward_batch_size: int = Field(default=32, ge=1)
    """Images per forward pass of the backbone; no influence."""
    workers: int = Field(default=0, ge=0)
    """Loading processes."""
    precision: Precision = "fp32"
    """Of the backbone: fp32 or bf16 autocast."""
    seed: int = 0
    """Of the heads' start, the order and the crops."""

    @field_validator("learning_rates")
    @classmethod
    def _positive(cls, rates: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if rates is not None and (not rates or min(rates) <= 0):
            raise ValueError("give one or more learning rates, each above 0")
        return rates

    @property
    def name(self) -> str:
        """Of the preset."""
        return str(getattr(self, "preset"))  # noqa: B009  each protocol has presets of its own

    def settings(self) -> Settings:
        """The preset with the fields that were given; `epochs` takes the place of a preset's `samples`."""
        given = {name: getattr(self, name) for name in Settings._fields if getattr(self, name) is not None}
        if "epochs" in given and "samples" not in given:
            given["samples"] = None
        return self.PRESETS[self.name]._replace(**given)


def probe(
    protocol: str,
    make_head: MakeHead,
    enlargement: int,
    backbone: Backbone,
    train: ImageSet,
    val: ImageSet,
    config: DenseProbeConfig,
    device: str,
) -> Report:
    """Train heads on `train`, one for each learning rate, and measure them on `val`.

    Args:
        protocol: its name, with which the numbers begin.
        make_head: see `MakeHead`; all heads start equal.
        enlargement: how many times as large as the patch grid a head's map is.

    Returns:
        A report with `{protocol}_miou`, `_accuracy` and `_mean_accuracy` of the best rate, `floor_majority_miou` and
        `_accuracy`, percent. Details: `per_learning_rate`, `best_learning_rate`, `per_class`, `loss` (step, mean
        loss up to there), `examples` (label maps to look at), `classes`, `notes`.

    Raises:
        ValueError: data without masks, different class lists, features that do not fit `memory`, or training that
            diverged at every rate.
    """
    settings, labels = config.settings(), semantic_labels(train, val)
    grid_of(*sides_of(settings.image_size), backbone.patch_size)
    transform = eval_transform(EvalTransformConfig(image_size=settings.image_size, mode="squash"), backbone)
    chosen = evenly(len(train), config.images or len(train))
    total = settings.steps(len(chosen))
    skipped: dict[str, dict[int, str]] = {"train": {}, "val": {}}
    with frozen(backbone, device) as place:
        heads = nn.ModuleList(make_head(backbone.embed_dim, labels.classes) for _ in settings.learning_rates).to(place)
        reading = _Reading(backbone, train, labels, config, settings, transform, chosen, place, skipped["train"])
        with progress(f"{protocol}, training", total, "steps") as advance:
            batches = reading.crops(total) if settings.crop_size else reading.whole(enlargement, total)
            counted = _counted(batches, advance)
            fitted = fit(heads, counted, settings.learning_rates, total, labels.classes, settings.final_rate)
        seen = _measure(protocol, backbone, heads, val, labels, config, transform, place, skipped["val"])
    notes = [left_out(role, found, len(data)) for (role, found), data in zip(skipped.items(), (train, val)) if found]
    best = _best(fitted, seen, settings.learning_rates, notes)
    card = _card(protocol, backbone, {"train": train, "val": val}, config, settings, transform)
    return _report(protocol, card, seen, fitted, best, settings.learning_rates, labels, notes)


class _Reading(NamedTuple):
    """How training images are read."""

    backbone: Backbone
    data: ImageSet
    labels: SemanticLabels
    config: DenseProbeConfig
    settings: Settings
    transform: EvalTransform
    chosen: Sequence[int]  # positions of the images to train on
    place: torch.device
    skipped: dict[int, str]

    def whole(self, enlargement: int, total: int) -> Any:
        """Images as they are measured, each seen once by the backbone."""
        config, size = self.config, sides_of(self.settings.image_size)
        grid = grid_of(*size, self.backbone.patch_size)
        room_for(len(self.chosen), grid, self.backbone.embed_dim, self.labels.classes, config.memory)
        requests = [
            [(0, self.chosen[place]) for _, place in part]
            for part in in_order(len(self.chosen), config.forward_batch_size)
        ]
        batches = self._batches(as_evaluated(self.transform), requests)
        memory = remember(self.backbone, batches, self.labels, enlargement, self.place, config.precision)
        return from_memory(memory, self.settings.batch_size, total, config.seed, self.place)

    def crops(self, total: int) -> Any:
        """Random crops, which the backbone sees anew in every step."""
        config, settings = self.config, self.settings
        grid_of(settings.crop_size, settings.crop_size, self.backbone.patch_size)
        cut = MaskCropConfig(image_size=settings.crop_size, scale=config.crop_scale, flip=config.flip)
        size = min(settings.batch_size, len(self.chosen))
        requests = [
            [(epoch, self.chosen[place]) for epoch, place in part]
            for part in in_chance_order(len(self.chosen), size, total, config.seed)
        ]
        batches = self._batches(MaskCrop(cut.model_copy(update=pixel_statistics(self.backbone))), requests)
        return from_crops(self.backbone, batches, config.forward_batch_size, self.place, config.precision)

    def _batches(self, cut: Any, requests: Any) -> Any:
        config = self.config
        return dense_batches(
            self.data,
            self.labels,
            cut,
            requests,
            seed=config.seed,
            workers=config.workers,
            skipped=self.skipped,
        )


def _counted(batches: Any, advance: Callable[..., None]) -> Any:
    batch: list[Examples]
    for batch in batches:
        yield batch
        advance(1)


def _measure(
    protocol: str,
    backbone: Backbone,
    heads: nn.ModuleList,
    val: ImageSet,
    labels: SemanticLabels,
    config: DenseProbeConfig,
    transform: EvalTransform,
    place: torch.device,
    skipped: dict[int, str],
) -> LabelMaps:
    maps = LabelMaps(labels, len(heads), config.truth == "image", evenly(len(val), config.pictures))
    requests = in_order(len(val), config.forward_batch_size)
    cut = as_evaluated(transform)
    batches = dense_batches(val, labels, cut, requests, workers=config.workers, skipped=skipped)
    with progress(f"{protocol}, validation", len(val)) as advance:
        for batch in batches:
            features = maps_of(backbone, batch.images.to(place), config.precision)
            maps.add(batch, [head(features) for head in heads])
            advance(len(batch.indices))
    return maps


def _best(fitted: Fitted, seen: LabelMaps, rates: Sequence[float], notes: list[str]) -> int:
    """The place of the best learning rate. Raises `ValueError` where all have diverged."""
    learned = fitted.losses[-1].isfinite().tolist()
    diverged = [rate for rate, fine in zip(rates, learned) if not fine]
    if not any(learned):
        raise ValueError(f"training diverged at every learning rate ({diverged}); give smaller learning_rates")
    if diverged:
        notes.append(f"training diverged at the learning rates {diverged}, which are no candidates")
    if len(rates) > 1:
        notes.append(f"the best of {len(rates)} learning rates was chosen on the validation set itself")
    places = [place for place, fine in enumerate(learned) if fine]
    return max(places, key=lambda place: seen.confusions[place].scores().miou)


def _report(
    protocol: str,
    card: dict[str, Any],
    seen: LabelMaps,
    fitted: Fitted,
    best: int,
    rates: Sequence[float],
    labels: SemanticLabels,
    notes: list[str],
) -> Report:
    confusion = seen.confusions[best]
    scores, majority = confusion.scores(), int(fitted.pixels.argmax())
    floor = confusion.constant(majority).scores()
    numbers = {
        f"{protocol}_miou": scores.miou,
        f"{protocol}_accuracy": scores.accuracy,
        f"{protocol}_mean_accuracy": scores.mean_accuracy,
        "floor_majority_miou": floor.miou,
        "floor_majority_accuracy": floor.accuracy,
    }
    each = zip(rates, (found.scores() for found in seen.confusions))
    details = {
        "images": seen.images,
        "best_learning_rate": rates[best],
        "per_learning_rate": [
            {"learning_rate": rate, "miou": own.miou, "accuracy": own.accuracy} for rate, own in each
        ],
        "majority": labels.names[majority],
        "per_class": per_class(labels, confusion, scores),
        "loss": _curve(fitted.losses[:, best]),
        "classes": list(labels.names),
        "examples": seen.examples[best],
        "examples_of": f"{protocol}_miou",
        "notes": notes,
    }
    return Report(protocol, numbers, card, details)


def _curve(losses: Tensor) -> list[list[float]]:
    """Pairs of a step and the mean loss since the one before."""
    parts = losses.split(-(-len(losses) // CURVE))
    ends = torch.tensor([len(part) for part in parts]).cumsum(0).tolist()
    return [[end, part.mean().item()] for end, part in zip(ends, parts)]


def _card(
    protocol: str,
    backbone: Backbone,
    data: Mapping[str, ImageSet],
    config: DenseProbeConfig,
    settings: Settings,
    transform: EvalTransform,
) -> dict[str, Any]:
    words = changes(config.PRESETS[config.name]._asdict(), settings._asdict())
    usual = type(config)().plain()
    words += changes(usual, config.plain(), (*NO_INFLUENCE, "preset", "seed", "pictures", "memory", *Settings._fields))
    size = "each mask's own size" if config.truth == "image" else "the size of what the backbone sees"
    trained = f"random crops of {settings.crop_size} px" if settings.crop_size else "whole images, each seen once"
    return make_card(
        protocol=protocol,
        source=SOURCE,
        data=data,
        transform=transform.config,
        layer="last block, after the final norm",
        token=f"patches; trained on {trained}",
        averaging=f"IoU of pixels counted over the whole validation set at {size}, mean over classes; percent",
        weights=weights_digest(backbone),
        config={**config.plain(), **settings._asdict()},
        backbone=backbone,
        preset=config.name,
        deviations=words,
        seed=config.seed,
        precision=config.precision,
    )
