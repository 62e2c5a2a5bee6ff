"""Weakly supervised localization: does the box of a map hold the object, and is the class right?

Definition: the image is shown to a localizer in a view of its own size, its map is enlarged to the view and stretched
to [0, 1]; a box is drawn around the largest component of {map > t}. It is a hit where its intersection over union with
a ground-truth box, the best of all that the image has, is at least 0.5. In percent of the images with boxes:

    gt_known_loc             hits
    top1_loc, top5_loc       hits with the class right, or among the five best; top1_cls, top5_cls are the class alone
    max_box_acc              hits of the largest component, at the threshold that is best for them
    max_box_acc_v2           the best of all components counts; mean over IoUs of 0.3, 0.5, 0.7, each at the threshold
                             that is best for it; `max_box_acc_v2_50` is that of one of them
    pxap                     area under precision and recall of pixels, where images have masks; no threshold
    floor_whole_image        the view as a box
    floor_centered_box       a centered box, a share of both sides that is the same for all images

One threshold t serves all images. By default it is chosen on held-out images: for each number that where it is highest
there. The best one on the measured images themselves, as in papers that sweep it, is taken only where `threshold` asks
for it, and said beside the numbers. Maps that belong to a class are those of the true class: where a class counts, it
has to be the predicted one anyway.

Presets, the conventions of three programs (docs/localization.md has all of them):
    default        the view squashed to the localizer's size, half-open boxes, all ground truth, 100 thresholds
    wsolevaluation squashed to 224, boxes with "+1" and cut to whole pixels, outlines of holes among all boxes
    locloc         shorter side to 256, center crop 224, boxes cut along, only the first ground-truth box
    ppd            squashed to 256, boxes with "+1"

Source: Choe et al. 2020, "Evaluating Weakly Supervised Object Localization Methods Right" (arXiv 2001.07437); Top-1 and
Top-5 of Russakovsky et al. 2015 (arXiv 1409.0575).
Expected: LocLoc CUB 84.4 Top-1 Loc with 85.8 Top-1 Cls, ImageNet 57.6 with 78.6.

Deviations: a preset brings conventions of boxes and not a threshold swept on the measured images. Images are resized
bicubic. A constant map has no box; wsolevaluation gives it the corner pixel, LocLoc a box of one pixel. A hit is at
least the IoU everywhere; PPD wants more than it where the class counts. The centered box is chosen on the held-out
images too, and where there are none on the measured ones.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from vitrail.config import Config, Listed
from vitrail.contracts import ImageSet, Localizer
from vitrail.data.box_file import LINE
from vitrail.data.transforms import EvalTransform, EvalTransformConfig
from vitrail.evaluation.accuracy import match_classes
from vitrail.evaluation.attention import Pixels
from vitrail.evaluation.class_match import output_names
from vitrail.evaluation.features import NO_INFLUENCE, Precision, eval_transform, weights_digest
from vitrail.evaluation.heat_maps import HeatMaps
from vitrail.evaluation.located import (
    LEVELS,
    Contour,
    Enlarge,
    Found,
    Loading,
    Rules,
    Seen,
    View,
    level_of,
    locate,
    threshold_words,
)
from vitrail.evaluation.pointing import BOX_FILE
from vitrail.evaluation.result import Report, changes, make_card
from vitrail.metrics.classification import topk_correct
from vitrail.metrics.localization import (
    Convention,
    GtRule,
    best_iou,
    best_threshold,
    box_accuracy,
    localization_accuracy,
)

SOURCE = "Choe et al. 2020, arXiv 2001.07437"
HIT = 0.5
"""IoU from which on a box holds the object, but for MaxBoxAccV2."""
SHOWN: dict[View, str] = {
    "squash": "the whole image, squashed (view squash)",
    "crop": "the middle of the image (view crop)",
}
"""What the boxes lie in, for the card."""
SHARES = tuple(number / 20 for number in range(1, 21))
"""Of both sides: the centered boxes that the floor is the best of."""


class Settings(NamedTuple):
    """What a preset decides."""

    image_size: int | tuple[int, int] | None
    view: View
    enlarge: Enlarge
    contour: Contour
    gt: GtRule
    boxes: Convention
    whole_pixels: bool
    holes: bool
    thresholds: int


PRESETS = {
    "default": Settings(None, "squash", "bilinear", "largest", "any", "half_open", False, False, 100),
    "wsolevaluation": Settings(224, "squash", "bicubic", "largest", "any", "inclusive", True, True, 1000),
    "locloc": Settings(224, "crop", "bilinear", "largest", "first", "half_open", False, False, 100),
    "ppd": Settings(256, "squash", "bilinear", "largest", "any", "inclusive", False, False, 100),
}


class LocalizationConfig(Config):
    """A preset, what differs from it (null: as the preset says), and where the threshold comes from."""

    preset: Literal["default", "wsolevaluation", "locloc", "ppd"] = "default"
    threshold: Literal["held_out", "test_set"] | Annotated[float, Field(ge=0, lt=1)] = "held_out"
    """A number in [0, 1), a share of the map's greatest value; "held_out": the best on held-out images; "test_set": the
    best on the images that are measured, which makes numbers too good."""
    image_size: Pixels | tuple[Pixels, Pixels] | None = None
    """Pixels, a side or (height, width) of the view."""
    view: View | None = None
    """"squash" shows the whole image; "crop" its middle, the shorter side resized to 8/7 of the view from 128 px on."""
    enlarge: Enlarge | None = None
    """How maps are enlarged to the view."""
    contour: Contour | None = None
    """Which component's box counts, but for MaxBoxAcc and MaxBoxAccV2: the "largest" one's, or the best of "all"."""
    gt: GtRule | None = None
    """Which ground-truth box counts: the best of them ("any"), or the "first" one."""
    boxes: Convention | None = None
    """"half_open" or "inclusive", where each box and what two have in common is a pixel wider and higher, the "+1"."""
    whole_pixels: bool | None = None
    """Cut ground truth to whole pixels of the view, and boxes to its last pixel."""
    holes: bool | None = None
    """Take the outlines of holes for boxes, too, where all count, as OpenCV's list of outlines has them."""
    thresholds: Annotated[int, Field(ge=1, le=1000)] | None = None
    """How many, evenly spaced in [0, 1). Maps have 256 levels, so that more than 255 are no more."""
    ious: Annotated[tuple[Annotated[float, Field(gt=0, le=1)], ...], Listed, Field(min_length=1)] = (0.3, 0.5, 0.7)
    """IoUs of MaxBoxAccV2."""
    allow_missing: bool = False
    """Count images without a usable heat map as missed; else they are listed and nothing is measured."""
    batch_size: int = Field(default=16, ge=1)
    """Images per forward pass; no influence on the result."""
    workers: int = Field(default=0, ge=0)
    """Loading processes."""
    precision: Precision = "fp32"
    """Of the localizer: fp32 or bf16 autocast."""

    def settings(self) -> Settings:
        """The preset with the fields that were given."""
        given = {name: getattr(self, name) for name in Settings._fields}
        return PRESETS[self.preset]._replace(**{name: value for name, value in given.items() if value is not None})

    def rules(self) -> Rules:
        """How maps become boxes."""
        own = self.settings()
        levels = {LEVELS * number // own.thresholds for number in range(own.thresholds)}
        if not isinstance(self.threshold, str):
            levels.add(level_of(self.threshold))
        return Rules(tuple(sorted(levels)), own.view, own.enlarge, own.gt, own.boxes, own.whole_pixels, own.holes)


class Chosen(NamedTuple):
    """Thresholds, by their place among all, and where they come from."""

    loc: int  # of GT-known, Top-1 and Top-5
    largest: int  # of MaxBoxAcc
    every: tuple[int, ...]  # of MaxBoxAccV2, for each IoU
    words: str


def evaluate(
    source: Localizer | HeatMaps,
    data: ImageSet,
    config: LocalizationConfig | None = None,
    *,
    held_out: ImageSet | None = None,
    held_out_source: Localizer | HeatMaps | None = None,
    name: str | None = None,
    cache: Path | None = None,
    device: str = "auto",
) -> Report:
    """Localization of `data`, whose samples hold boxes or masks.

    Args:
        source: a localizer, or a folder of heat maps.
        held_out: images with boxes to choose the threshold with, none of them among those measured.
        held_out_source: what locates in them, by default `source`; for heat maps in a folder of their own.
        name: of the source, for the card; by default that of its type.
        cache: taken so that all protocols are called alike; maps are computed anew each time.

    Returns:
        A report in percent, numbers as in the module. Details: `thresholds` and accuracy at each of them (`curves`, and
        `held_out_curves`), `chosen`, `per_image` (boxes in pixels of the image), `per_class`, notes.

    Raises:
        ValueError: no images or no boxes, no held-out images where they are needed, classes that the localizer does not
            know, or maps that cannot be used.
    """
    config = config or LocalizationConfig()
    if not getattr(data, "has_boxes", True) and not getattr(data, "has_masks", True):
        raise ValueError(f"none of {len(data)} images has a box or a mask; {BOX_FILE}")
    if config.threshold == "held_out":
        _check_held_out(data, held_out)
        if isinstance(source, HeatMaps) and held_out is not None and held_out_source is None:
            source.check_apart(data, held_out)
    transform, found = _found(source, data, config, device, "localization")
    held = None
    if held_out is not None and config.threshold == "held_out" and found.seen:
        _, held = _found(held_out_source or source, held_out, config, device, "localization, held out")
        if not held.seen:
            where = f"for a folder write train_boxes.txt beside train/, a line {LINE}, for a few dozen of its images"
            raise ValueError(f"none of {len(held_out)} held-out images has a box; {where}")
    if not found.seen and not (found.pixels is not None and found.pixels.objects):
        raise ValueError(f"none of {len(data)} images has a box; {BOX_FILE}")
    numbers: dict[str, float] = {}
    details: dict[str, Any] = {"notes": [*found.notes, *(held.notes if held else ())]}
    if found.seen:
        chosen = choose(config, found, held)
        numbers = _numbers(config, found, chosen) | _floors(config, found, held, details)
        details |= _details(config, found, held, chosen, data.classes)
        details["notes"].append(chosen.words)
    if found.pixels is not None and found.pixels.objects:
        numbers["pxap"] = found.pixels.value()
    sets = {"val": data} | ({"held_out": held_out} if held_out is not None and held is not None else {})
    return Report("localization", numbers, _card(config, source, name, sets, transform), details)


def choose(config: LocalizationConfig, found: Found, held: Found | None) -> Chosen:
    """The thresholds that `config` asks for."""
    levels, own = config.rules().levels, config.settings()
    if not isinstance(config.threshold, str):
        place = levels.index(level_of(config.threshold))
        words = f"threshold {config.threshold:g} was given"
        return Chosen(place, place, (place,) * len(config.ious), words)
    on = found if held is None or config.threshold == "test_set" else held
    curves = {contour: box_accuracy(fit.iou, (HIT, *config.ious)) for contour, fit in on.fits.items()}
    loc, largest = best_threshold(curves[own.contour][0]), best_threshold(curves["largest"][0])
    every = tuple(best_threshold(curve) for curve in curves["all"][1:])
    words = f"threshold {threshold_words(levels[loc] / LEVELS)} was chosen on {len(on.seen)} "
    if on is held:
        return Chosen(loc, largest, every, words + "held-out images; each of max_box_acc's has its own")
    words += "of the images that are measured (threshold=test_set), so that numbers are too good"
    return Chosen(loc, largest, every, words)


def _check_held_out(data: ImageSet, held_out: ImageSet | None) -> None:
    if not getattr(data, "has_boxes", True):
        return
    if held_out is None:
        raise ValueError(
            "no held-out images with boxes were given to choose the threshold with; for a folder write train_boxes.txt "
            f"beside train/, a line {LINE}, for a few dozen of its images; or give a number as threshold=0.5, or "
            "threshold=test_set for the best one on the measured images, which makes numbers too good and is said "
            "beside them"
        )
    if held_out.digest() == data.digest():
        raise ValueError("the held-out images are those that are measured; give others, or threshold=test_set")
    both = sorted(_marks(data) & _marks(held_out), key=repr)
    if both:
        raise ValueError(
            f"{len(both)} of {len(held_out)} held-out images are among the {len(data)} measured ones, such as "
            f"{both[0][1]}; give others, or threshold=test_set"
        )


def _marks(data: ImageSet) -> set[tuple[str, str | int]]:
    """Of each image, what no other one has: its file, or, in a set without files, the set and the position there."""
    positions: list[int] = list(range(len(data)))
    while hasattr(data, "positions") and hasattr(data, "data"):
        positions = [data.positions[each] for each in positions]
        data = data.data
    folder = getattr(data, "folder", None) or getattr(data, "root", None)
    if folder is not None and hasattr(data, "relative_path"):
        home = Path(folder).resolve()
        return {("file", str(home / data.relative_path(each))) for each in positions}
    own = data.digest()
    return {(own, each) for each in positions}


def names_of_outputs(source: Localizer | HeatMaps, data: ImageSet) -> tuple[str, ...] | None:
    """Of what a localizer scores; those that have no names are matched as for `accuracy`. None where it scores none.

    Raises `ValueError` where nothing says which output is which of the data's classes.
    """
    known, outputs = getattr(source, "classes", None), getattr(source, "outputs", None)
    return known if known or not outputs or not data.classes else output_names(outputs, data.classes)


def _found(
    source: Localizer | HeatMaps, data: ImageSet, config: LocalizationConfig, device: str, title: str
) -> tuple[EvalTransform, Found]:
    own = config.settings()
    size = own.image_size or getattr(source, "image_size", None) or 224
    transform = eval_transform(EvalTransformConfig(image_size=size, mode=own.view), source)
    known = names_of_outputs(source, data)

    def match(labels: Tensor) -> Tensor:
        return match_classes(labels, data.classes, known)

    loading = Loading(config.batch_size, config.workers, config.precision, device)
    found = locate(
        source,
        data,
        transform,
        config.rules(),
        loading,
        match=match,
        allow_missing=config.allow_missing,
        title=title,
    )
    return transform, found


def _numbers(config: LocalizationConfig, found: Found, chosen: Chosen) -> dict[str, float]:
    fit = found.fits[config.settings().contour]
    with_classes = found.logits is not None and found.labels is not None
    numbers = localization_accuracy(
        fit.iou[:, chosen.loc] >= HIT,
        found.logits if with_classes else None,
        found.labels if with_classes else None,
    )
    numbers["max_box_acc"] = box_accuracy(found.fits["largest"].iou, (HIT,))[0, chosen.largest].item()
    every = box_accuracy(found.fits["all"].iou, config.ious)
    apart = [every[number, place].item() for number, place in enumerate(chosen.every)]
    numbers["max_box_acc_v2"] = sum(apart) / len(apart)
    return numbers | {f"max_box_acc_v2_{100 * iou:g}": each for iou, each in zip(config.ious, apart, strict=True)}


def _floors(config: LocalizationConfig, found: Found, held: Found | None, details: dict[str, Any]) -> dict[str, float]:
    """What one box for all images scores, without looking at any."""
    rules = config.rules()

    def accuracy(seen: list[Seen]) -> Tensor:
        truths = [(centered(one.geometry.size), one.truth) for one in seen if one.truth is not None]
        return box_accuracy(torch.stack([best_iou(*each, rules.convention) for each in truths]), (HIT,))[0]

    own = accuracy(found.seen)
    best = int((own if held is None else accuracy(held.seen)).argmax())
    details["centered_box"] = {
        "share": SHARES[best],
        "chosen_on": "held-out images" if held is not None else "the images that are measured",
        "curve": {f"{share:g}": value for share, value in zip(SHARES, own.tolist(), strict=True)},
    }
    return {"floor_whole_image": own[-1].item(), "floor_centered_box": own[best].item()}


def centered(size: tuple[int, int]) -> Tensor:
    """Centered boxes `[20, 4]` of the shares of a view of (height, width)."""
    share = torch.tensor(SHARES, dtype=torch.float64)[:, None]
    sides = torch.tensor([[size[1], size[0]]], dtype=torch.float64)
    return torch.cat([(1 - share) / 2 * sides, (1 + share) / 2 * sides], dim=1)


def _details(
    config: LocalizationConfig, found: Found, held: Found | None, chosen: Chosen, names: tuple[str, ...] | None
) -> dict[str, Any]:
    levels = config.rules().levels
    fit = found.fits[config.settings().contour]
    at = zip(fit.boxes[:, chosen.loc], fit.iou[:, chosen.loc], strict=True)
    images = [_image(found, place, box, iou) for place, (box, iou) in enumerate(at)]
    return {
        "thresholds": [level / LEVELS for level in levels],
        "curves": _curves(config, found),
        "held_out_curves": None if held is None else _curves(config, held),
        "chosen": {
            "loc": levels[chosen.loc] / LEVELS,
            "max_box_acc": levels[chosen.largest] / LEVELS,
            "max_box_acc_v2": [levels[place] / LEVELS for place in chosen.every],
            "words": chosen.words,
        },
        "per_image": images,
        "per_class": per_class(images, names),
        "without_boxes": found.without,
        "unusable": [{"index": index, "why": why} for index, why in found.unusable.items()],
    }


def _curves(config: LocalizationConfig, found: Found) -> dict[str, dict[str, list[float]]]:
    """Accuracy at each threshold, by contour and IoU."""
    ious = sorted({HIT, *config.ious})
    return {
        contour: {f"{iou:g}": curve.tolist() for iou, curve in zip(ious, box_accuracy(fit.iou, ious), strict=True)}
        for contour, fit in found.fits.items()
    }


def _image(found: Found, place: int, box: Tensor, iou: Tensor) -> dict[str, Any]:
    """One image's outcome; boxes half-open in pixels of the image, null where the map had none."""
    seen = found.seen[place]
    there = bool(box.any())
    entry: dict[str, Any] = {
        "index": seen.position,
        "path": seen.path,
        "label": seen.label,
        "box": [round(value, 2) for value in seen.geometry.back(box.numpy()).tolist()] if there else None,
        "truth": [[round(value, 2) for value in each] for each in seen.whole.tolist()],
        "iou": iou.item(),
        "hit": bool(iou >= HIT),
    }
    if found.logits is None or found.labels is None:
        return entry
    logits, label = found.logits[place : place + 1], found.labels[place : place + 1]
    few = min(5, logits.shape[1])
    right, near = (bool(topk_correct(logits, label, k)) for k in (1, few))
    return entry | {"predicted": int(logits.argmax()), "top1": right, "top5": near}


def per_class(images: list[dict[str, Any]], names: tuple[str, ...] | None) -> list[dict[str, Any]]:
    """Images, mean IoU and percent of hits by true class, the worst first; empty where labels are not known."""
    groups: dict[int, list[dict[str, Any]]] = {}
    for image in images:
        if image["label"] is not None:
            groups.setdefault(image["label"], []).append(image)
    rows = []
    for label, group in groups.items():
        row: dict[str, Any] = {
            "class": names[label] if names and label < len(names) else str(label),
            "images": len(group),
            "mean_iou": sum(each["iou"] for each in group) / len(group),
            "gt_known_loc": 100 * sum(each["hit"] for each in group) / len(group),
        }
        if all("top1" in each for each in group):
            row["top1_loc"] = 100 * sum(each["hit"] and each["top1"] for each in group) / len(group)
            row["top1_cls"] = 100 * sum(each["top1"] for each in group) / len(group)
        rows.append(row)
    return sorted(rows, key=lambda row: (row["gt_known_loc"], row["mean_iou"], row["class"]))


def _card(
    config: LocalizationConfig,
    source: Localizer | HeatMaps,
    name: str | None,
    data: dict[str, ImageSet],
    transform: EvalTransform,
) -> dict[str, Any]:
    own, name = config.settings(), name or str(getattr(source, "name", type(source).__name__))
    boxes = "boxes half-open" if own.boxes == "half_open" else 'boxes with "+1"'
    truth = "best of all ground-truth boxes" if own.gt == "any" else "the first ground-truth box"
    box = "box of the largest contour" if own.contour == "largest" else "best box of all contours"
    standard = LocalizationConfig(preset=config.preset)
    return make_card(
        protocol="localization",
        source=SOURCE,
        preset=config.preset,
        data=data,
        transform=transform.config,
        layer=name,
        token=f"map of {SHOWN[own.view]}, enlarged {own.enlarge}, stretched to [0, 1], 256 levels; {box}",
        averaging=f"percent of images with boxes; IoU {HIT} with {truth}, {boxes}; threshold {config.threshold}",
        weights=weights_digest(source),
        config=config.plain() | own._asdict() | {"localizer": name},
        backbone=source,
        deviations=changes(standard.plain(), config.plain(), (*NO_INFLUENCE, "preset")),
        precision=config.precision,
    )
