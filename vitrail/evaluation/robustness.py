"""How a classifier's error grows on corrupted and unusual images: ImageNet-C, -A, and corruptions of any images.

Three modes; `auto` takes the one that fits the data:

    generated    any labeled images: resized and cropped as for plain accuracy, spoiled at that size in 15 ways at
                 five severities (`vitrail.data.corruptions`), and not resized again. Also as they are.
    imagenet_c   a tree of ImageNet-C, CORRUPTION/SEVERITY/CLASS: center crop only, images of the model's size are left
                 as they are.
    imagenet_a   unusual images of some of ImageNet's classes, one folder for each WordNet id, as ImageNet-A and -R
                 are: logits are restricted to these classes; resize 256, crop 224.

With E(s, c) the top-1 error at severity s of corruption c, all in percent:

    mce_unnormalized       mean of E(s, c) over severities and corruptions; corrupted_top1 is 100 minus it
    mce                    mean over c of 100 sum_s E(s, c) / sum_s B(s, c), B a baseline's errors: AlexNet's for
                           imagenet_c, `baseline=` for generated
    relative_mce           the same of how much errors rise over those on clean images; `_unnormalized` in points
    noise_error, ...       mean of E over the corruptions of a group
    top1, top5             of imagenet_a

Source: Hendrycks and Dietterich 2019 (arXiv 1903.12261) and Hendrycks et al. 2021 (arXiv 1907.07174).
Expected: SAR reports for ViT-S/16 ImageNet-A 19.2 and mCE 52.8, with SAR 22.39 and 51.6; AlexNet has an mCE of 100.

Deviations: mCE is that of the paper; the authors' test program prints mce_unnormalized over 19 corruptions under that
name. Generated corruptions are not the images of ImageNet-C, so `generated` compares models on one set of images, and
not with published numbers. On fewer classes than 1,000 an mCE relative to AlexNet compares two tasks; a note says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from vitrail.config import Config, Listed
from vitrail.contracts import Backbone, ImageSet
from vitrail.data.corrupted import CLEAN, Corrupted, one_thread_of_opencv
from vitrail.data.corruptions import CORRUPTIONS, GROUPS, SEVERITIES, check_names
from vitrail.data.imagenet_c import ImageNetC, misspelt_in_words, variants_in_words
from vitrail.data.imagenet_names import are_wnids, of_imagenet_a
from vitrail.data.loader import ordered_batches
from vitrail.data.transforms import EvalTransform, EvalTransformConfig
from vitrail.evaluation.class_match import Match
from vitrail.evaluation.features import NO_INFLUENCE, Precision, autocast, eval_transform, frozen, weights_digest
from vitrail.evaluation.progress import progress
from vitrail.evaluation.result import Report, changes, make_card
from vitrail.evaluation.robustness_baseline import complete_of, find_baseline, relative_numbers
from vitrail.evaluation.selecting import Pool, SelectingClassifier, outputs_of, token_of
from vitrail.evaluation.some import Some
from vitrail.metrics.classification import topk_correct
from vitrail.metrics.robustness import Baseline, mean

SOURCES = {
    "generated": "corruptions of Hendrycks and Dietterich 2019, arXiv 1903.12261, generated here",
    "imagenet_c": "ImageNet-C, Hendrycks and Dietterich 2019, arXiv 1903.12261",
    "imagenet_a": "ImageNet-A, Hendrycks et al. 2021, arXiv 1907.07174",
}
WHOLE = True
"""A folder of ImageNet's classes without splits is measured as a whole, unless the weights were trained on it."""
_NOT_A = "not the 200 of ImageNet-A: not comparable with its published numbers"
_SILENT = (*NO_INFLUENCE, "mode", "baseline", "clean_error", "allow_missing", "imagenet_order", "seed")

Mode = Literal["generated", "imagenet_c", "imagenet_a"]


class RobustnessConfig(Config):
    """What is measured, and what it is compared with."""

    mode: Literal["auto", "generated", "imagenet_c", "imagenet_a"] = "auto"
    """As the file says; "auto": by the data. A folder of WordNet ids without splits, fewer than the classifier has
    outputs, is taken for imagenet_a."""
    corruptions: Annotated[tuple[str, ...], Listed] = CORRUPTIONS
    """Of generated: which of the 15."""
    severities: Annotated[tuple[int, ...], Listed] = SEVERITIES
    """Of generated: which of 1 to 5."""
    seed: int = 0
    """Of generated: of what corruptions draw."""
    images: Annotated[int, Field(ge=1)] | None = None
    """Of generated: at most so many images, evenly spaced; null takes all. Each is shown 76 times."""
    baseline: str | dict[str, float] | None = None
    """What mCE is relative to: a saved report (robustness.json), or a run folder, of whose evaluation/robustness*.json
    the one that was measured in the same way is taken; or top-1 errors in percent by corruption, and `clean` for the
    relative mCE. null: AlexNet for imagenet_c, none for generated."""
    clean_error: float | None = Field(default=None, ge=0, le=100)
    """Of imagenet_c: the classifier's top-1 error on the clean images in percent, for the relative mCE."""
    allow_missing: bool = False
    """Of imagenet_c: measure a tree that lacks corruptions or severities; means are over what is complete."""
    imagenet_order: bool = False
    """Take the classifier's 1,000 outputs for ImageNet's in their standard order, whatever its class names are."""
    transform: EvalTransformConfig = EvalTransformConfig()
    batch_size: int = Field(default=64, ge=1)
    """Images per forward pass; no influence on the result."""
    workers: int = Field(default=0, ge=0)
    """Processes that load and corrupt; no influence on the result."""
    precision: Precision = "fp32"
    """Of the backbone: fp32 or bf16 autocast."""

    @field_validator("corruptions", "severities")
    @classmethod
    def _known(cls, given: tuple[Any, ...], info: Any) -> tuple[Any, ...]:
        names = given if info.field_name == "corruptions" else CORRUPTIONS
        severities = given if info.field_name == "severities" else SEVERITIES
        check_names(names, severities)
        return given


class Plan(NamedTuple):
    """What is shown to the classifier, and how that is counted."""

    data: Any  # an ImageSet
    transform: EvalTransform
    shown: EvalTransformConfig  # for the card: what is done to an image in all
    variants: tuple[tuple[str, int], ...]  # (corruption, severity) that errors are counted for
    outputs: Tensor  # int64 [classes of the data], the classifier's output of each; -1 where it has none
    restrict: bool = False  # whether all other outputs are left out
    each: int = 1  # how often an image comes
    notes: tuple[str, ...] = ()

    @property
    def measured(self) -> tuple[str, ...]:
        """Names of the data's classes that the classifier knows, sorted."""
        return tuple(sorted(name for name, place in zip(self.data.classes, self.outputs.tolist()) if place >= 0))

    def variant_of(self, indices: Tensor) -> Tensor:
        """Places in `variants` of numbers of the data."""
        if len(self.variants) == 1:
            return torch.zeros_like(indices)
        return torch.from_numpy(np.asarray(self.data.variant_of(indices.numpy()), np.int64))


class Tally(NamedTuple):
    """What was counted for each variant."""

    seen: Tensor  # int64 [V]
    right: dict[int, Tensor]  # int64 [V] by k: the label is among the k best
    notes: tuple[str, ...]

    def errors(self) -> list[float]:
        """Top-1 errors in percent."""
        return (100 - 100 * self.right[1] / self.seen.double()).tolist()


def evaluate(
    backbone: Backbone,
    head: nn.Module,
    val: ImageSet,
    config: RobustnessConfig | None = None,
    *,
    classes: Sequence[str] | None = None,
    pool: Pool = "cls",
    device: str = "auto",
) -> Report:
    """Errors of a classifier on corrupted or unusual images.

    Args:
        head: what `pool` says -> logits `[B, C]`.
        val: labeled images; `ImageNetC` for a tree of ImageNet-C.
        classes: names of the head's C outputs; None takes 1,000 of them for ImageNet's in their standard order where
            the data's classes are WordNet ids, and any other number to be in the data set's order.
        pool: what the head reads: the class token, the mean of the patches, or all tokens.

    Returns:
        A report with the numbers above. Details: `rows`, one for each corruption, with errors by severity, CE and
        relative CE; `clean` error; `baseline`; `missing`; `class_names`, those measured.

    Raises:
        ValueError: empty or unlabeled data, classes that cannot be matched, a tree that lacks something where
            `allow_missing` is not set, or a baseline of other data, corruptions or severities.
    """
    config = config or RobustnessConfig()
    if not len(val):
        raise ValueError("robustness: the data set is empty; an evaluation needs at least one image")
    model, transform = SelectingClassifier(backbone, head, pool), eval_transform(config.transform, backbone)
    with ExitStack() as stack:
        stack.enter_context(one_thread_of_opencv())
        place = stack.enter_context(frozen(backbone, device))
        stack.enter_context(frozen(head, str(place)))
        names = None if config.imagenet_order else classes
        match = Match(names, outputs_of(model, transform.config.image_size, place), config.imagenet_order)
        mode = _mode(config, val, match)
        config = config.model_copy(update={"mode": mode})
        plan = _plan(config, val, match, transform)
        baseline = find_baseline(config, val, plan.measured)
        tally = _count(model, plan, config, place)
    numbers, details = _results(config, plan, tally, baseline)
    return Report("robustness", numbers, _card(backbone, val, config, plan, pool), details)


_AVERAGING = {
    "generated": "percent of images at each severity; means over severities, then over corruptions",
    "imagenet_c": "percent of images at each severity; means over severities, then over corruptions",
    "imagenet_a": "share of images, in percent",
}


def _card(backbone: Backbone, val: ImageSet, config: RobustnessConfig, plan: Plan, pool: Pool) -> dict[str, Any]:
    assert config.mode != "auto"  # has been decided
    card = make_card(
        protocol="robustness",
        source=SOURCES[config.mode],
        data={"val": val},
        transform=plan.shown,
        layer="last block, after the final norm",
        token=token_of(pool).replace("kept patches", "patches"),
        averaging=_AVERAGING[config.mode],
        weights=weights_digest(backbone),
        config=config.plain(),
        backbone=backbone,
        preset=config.mode,
        deviations=changes(RobustnessConfig().plain(), config.plain(), _SILENT),
        seed=config.seed if config.mode == "generated" else None,
        precision=config.precision,
    )
    if config.mode == "imagenet_a" and not of_imagenet_a(plan.measured):
        card["source"] += f"; {len(plan.measured)} classes, {_NOT_A}"
    if isinstance(val, ImageNetC) and val.missing:
        card["deviations"].append(
            f"mce and other means are over {len(complete_of(val))} of {len(CORRUPTIONS)} corruptions: no published mCE"
        )
    if config.mode == "imagenet_c":
        card["resize"] = "none where images have the model's size, else shorter side to it"
    return card


def _mode(config: RobustnessConfig, val: ImageSet, match: Match) -> Mode:
    tree = isinstance(val, ImageNetC)
    if config.mode == "auto":
        if tree:
            return "imagenet_c"
        whole, fewer = getattr(val, "split", None) is None, len(val.classes or ()) < match.outputs
        return "imagenet_a" if whole and fewer and are_wnids(val.classes) else "generated"
    if tree != (config.mode == "imagenet_c"):
        what = "a tree of ImageNet-C" if tree else "no tree of ImageNet-C (CORRUPTION/SEVERITY/CLASS)"
        raise ValueError(f"mode is {config.mode}, and the data are {what}; leave mode=auto, or give other data")
    return config.mode


def _plan(config: RobustnessConfig, val: ImageSet, match: Match, transform: EvalTransform) -> Plan:
    if not val.classes:
        raise ValueError("the images have no labels; give class folders")
    outputs = match.to(val.classes)
    unknown = [name for name, place in zip(val.classes, outputs.tolist()) if place < 0]
    whole = EvalTransform(transform.config.model_copy(update={"mode": "crop", "keep": 1.0}))
    if isinstance(val, ImageNetC):
        return _plan_tree(config, val, match, whole)
    if config.mode == "imagenet_a":
        measured = set(val.classes) - set(unknown)
        notes = () if of_imagenet_a(measured) else (f"{len(measured)} classes, {_NOT_A}",)
        without = (f"{len(unknown)} classes that the classifier does not know: their images are left out",)
        shown = transform.config
        return Plan(
            val, transform, shown, (CLEAN,), outputs, restrict=True, notes=(*notes, *(without if unknown else ()))
        )
    if unknown:
        raise ValueError(
            f"the classifier does not know {len(unknown)} of the data's classes ({', '.join(unknown[:5])}); give data "
            "with the classes it was trained on"
        )
    some = Some(val, config.images)
    data = Corrupted(some, transform, config.corruptions, config.severities, config.seed, some.positions)
    few = (f"{len(some)} of {len(val)} images, evenly spaced",) if len(some) < len(val) else ()
    return Plan(data, whole, transform.config, data.variants, outputs, each=len(data.variants), notes=few)


def _plan_tree(config: RobustnessConfig, val: ImageNetC, match: Match, whole: EvalTransform) -> Plan:
    if val.missing and not config.allow_missing:
        empty = f"; of these are there and empty: {variants_in_words(val.empty)}" if val.empty else ""
        empty += f"; {misspelt_in_words(val.misspelt)}" if val.misspelt else ""
        raise ValueError(
            f"{val.root} lacks {len(val.missing)} of the 75 folders CORRUPTION/SEVERITY: "
            f"{variants_in_words(val.missing)}{empty}. mCE is a mean over all; complete them, or set "
            "allow_missing=true for means over what is there"
        )
    classes, outputs = val.classes, match.to(val.classes)
    data = val.of_classes([name for name, place in zip(classes, outputs.tolist()) if place >= 0])
    notes = [*data.notes, *([f"left out: {misspelt_in_words(val.misspelt)}"] if val.misspelt else [])]
    if len(data.classes) < len(classes):
        notes.append(f"images of {len(data.classes)} of {len(classes)} classes, those that the classifier knows")
    if len(counts := set(data.counts().values())) > 1:
        notes.append(f"corruptions and severities have {min(counts):,} to {max(counts):,} images: some may be missing")
    return Plan(data, whole, whole.config, data.variants, match.to(data.classes), notes=tuple(notes))


def _count(model: SelectingClassifier, plan: Plan, config: RobustnessConfig, place: torch.device) -> Tally:
    known = plan.outputs[plan.outputs >= 0]
    ks = (1, 5) if plan.restrict and len(known) > 5 else (1,)
    seen, skipped = torch.zeros(len(plan.variants), dtype=torch.int64), dict[int, tuple[str, str]]()
    right = {k: torch.zeros_like(seen) for k in ks}
    # Where outputs are left out, labels are places among those that stay.
    labels_of = torch.searchsorted(known.sort().values, plan.outputs) if plan.restrict else plan.outputs
    kept = known.sort().values if plan.restrict else None
    batches = ordered_batches(plan.data, plan.transform, config.batch_size, config.workers, skipped=skipped)
    with progress(f"robustness, {config.mode}", len(plan.data)) as advance:
        for batch in batches:
            advance(len(batch.images))
            if batch.labels is None or batch.labels.ndim > 1:
                raise ValueError("the images have no label or several each; give class folders")
            own = (plan.outputs[batch.labels] >= 0).nonzero()[:, 0]
            if not len(own):
                continue
            with autocast(place, config.precision):
                logits = model(batch.images[own].to(place, non_blocking=True)).float().cpu()
            logits = logits if kept is None else logits[:, kept]
            labels, where = labels_of[batch.labels[own]], plan.variant_of(batch.indices[own])
            seen += torch.bincount(where, minlength=len(seen))
            for k, counted in right.items():
                counted += torch.bincount(where[topk_correct(logits, labels, k)], minlength=len(seen))
    if not bool((seen > 0).all()):
        what = ", ".join(f"{name} {severity}" for (name, severity), count in zip(plan.variants, seen) if not count)
        raise ValueError(f"no image of {what} could be read; run `vitrail doctor` on the folder")
    count, total = len({index // plan.each for index in skipped}), len(plan.data) // plan.each
    notes = (f"{count} of {total} images could not be read and were left out",) if count else ()
    return Tally(seen, right, notes)


def _results(
    config: RobustnessConfig, plan: Plan, tally: Tally, baseline: Baseline | None
) -> tuple[dict[str, float], dict[str, Any]]:
    """Numbers and details."""
    notes = [*plan.notes, *tally.notes]
    images = int(tally.seen.max())
    details: dict[str, Any] = {"mode": config.mode, "images": images, "classes": len(plan.measured)}
    details["class_names"] = list(plan.measured)
    if config.mode == "imagenet_a":
        numbers = {f"top{k}": 100 * int(right) / images for k, right in tally.right.items()}
        return numbers, details | {"notes": notes}
    found = dict(zip(plan.variants, tally.errors(), strict=True))
    clean = found.pop(CLEAN, config.clean_error)
    errors: dict[str, dict[int, float]] = {}
    for (name, severity), error in found.items():
        errors.setdefault(name, {})[severity] = error
    wanted = len(config.severities) if config.mode == "generated" else len(SEVERITIES)
    complete = {name: list(each.values()) for name, each in errors.items() if len(each) == wanted}
    numbers = _means(complete, clean)
    details["rows"] = [_row(name, each, name in complete) for name, each in errors.items()]
    details["clean"] = clean
    if config.mode == "imagenet_c":
        details["missing"] = [list(variant) for variant in plan.data.missing]
        if plan.data.missing:
            lacking = f"{len(plan.data.missing)} of 75 folders are not there or empty"
            notes.append(f"{lacking}: means are over {len(complete)} of {len(CORRUPTIONS)} corruptions")
        if baseline is not None and baseline.name == "AlexNet" and details["classes"] != 1000:
            notes.append(
                f"AlexNet's errors are of 1,000 classes, these of {details['classes']}: this mCE compares two tasks, "
                "and is not comparable with published ones"
            )
    if baseline is not None and complete:
        numbers |= relative_numbers(complete, clean, baseline, details, notes)
    return numbers, details | {"notes": notes}


def _means(complete: Mapping[str, Sequence[float]], clean: float | None) -> dict[str, float]:
    """What no baseline is needed for."""
    if not complete:
        return {}
    error = mean([mean(values) for values in complete.values()])
    numbers = {"corrupted_top1": 100 - error, "mce_unnormalized": error}
    if clean is not None:
        numbers = {"clean_top1": 100 - clean} | numbers | {"relative_mce_unnormalized": error - clean}
    for group, names in GROUPS.items():
        if all(name in complete for name in names):
            numbers[f"{group}_error"] = mean([mean(complete[name]) for name in names])
    return numbers


def _row(name: str, errors: Mapping[int, float], complete: bool) -> dict[str, Any]:
    """One corruption; JSON's keys are words."""
    group = next(group for group, names in GROUPS.items() if name in names)
    by_severity = {str(severity): error for severity, error in errors.items()}
    return {"corruption": name, "group": group, "errors": by_severity} | (
        {"error": mean(list(errors.values()))} if complete else {"error": None}
    )
