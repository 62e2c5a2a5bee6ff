"""Images that a localizer hits and misses, as pictures: what `localization` measured, looked at again.

Its report says of each image which box was found and how well it fits; maps are not kept, so those of the few images
that are shown are computed once more, in the view that the report's card names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vitrail.contracts import ImageSet, Localizer, Sample
from vitrail.data import EvalTransform, EvalTransformConfig
from vitrail.evaluation.accuracy import match_classes
from vitrail.evaluation.features import eval_transform, frozen
from vitrail.evaluation.heat_maps import HeatMaps, UnusableMap, image_name
from vitrail.evaluation.localization import names_of_outputs
from vitrail.evaluation.result import Report
from vitrail.viz.located_gallery import Example, located_gallery
from vitrail.viz.threshold_curve import lines_of, threshold_curve

Row = Mapping[str, Any]
BATCH = 16


BY = {"largest": "Box of the largest component", "all": "Best box of all components"}
"""Titles of curves."""


class Gallery(NamedTuple):
    """A picture of a report."""

    name: str
    picture: Image.Image
    caption: str


def report_pictures(
    source: Localizer | HeatMaps, data: ImageSet, report: Report, *, device: str = "auto"
) -> list[Gallery]:
    """For a run's page: hits against the threshold ("", and "all" for the best component), "hits" and "misses"."""
    details, config = report.details, report.card["config"]
    if "chosen" not in details:
        return []
    who, count = config["localizer"], f"{len(details['per_image']):,} images"
    held = "" if details["held_out_curves"] is None else "; dashed: the held-out images that it was chosen with"
    curves = []
    for contour in dict.fromkeys((config["contour"], "all")):
        drawn = threshold_curve(details["thresholds"], lines_of(details, config, contour), title=BY[contour])
        words = f"{BY[contour][:1].lower()}{BY[contour][1:]}"
        what = f"{who} on {count}: share that is hit by the {words}, against the threshold{held}"
        curves.append(Gallery("" if contour == config["contour"] else contour, drawn, what))
    shown = galleries(source, data, report, device=device)
    return [*curves, *(each._replace(caption=f"{who}: {each.caption[:1].lower()}{each.caption[1:]}") for each in shown)]


def galleries(
    source: Localizer | HeatMaps, data: ImageSet, report: Report, count: int = 8, *, device: str = "auto"
) -> list[Gallery]:
    """Hits and misses, each from the highest to the lowest IoU, evenly spaced among all of their kind.

    Args:
        source: what was measured.
        data: the images that it was measured on.
        report: of `vitrail.evaluation.localization` on both.
        count: images of each kind, at most.
        device: to compute maps on.

    Returns:
        What there is of "hits" and "misses"; empty where no image has boxes.

    Raises:
        ValueError: a report of other images, or maps that are not what `Localizer` says.
    """
    of = report.card["data"]["val"]["digest"]
    if of != data.digest():
        raise ValueError(f"the report is of images {of}, these are {data.digest()}; measure again")
    found = []
    for name, hit in (("hits", True), ("misses", False)):
        group = [row for row in report.details.get("per_image", ()) if row["hit"] is hit]
        rows = spaced(sorted(group, key=lambda row: (-row["iou"], row["index"])), count)
        examples = _examples(source, data, rows, report.card, device)
        if examples:
            found.append(Gallery(name, located_gallery(examples), _caption(name, len(examples), len(group), report)))
    return found


def spaced(rows: Sequence[Row], count: int) -> list[Row]:
    """At most `count` of the rows, evenly spaced, with the first and the last one."""
    if count < 1 or not rows:
        return []
    if len(rows) <= count:
        return list(rows)
    return [rows[round(place * (len(rows) - 1) / max(count - 1, 1))] for place in range(count)]


def _caption(name: str, shown: int, of: int, report: Report) -> str:
    threshold = report.details["chosen"]["loc"]
    whose = f"{shown} of {of:,} {name}, by falling IoU" if shown < of else f"All {of} {name}, by falling IoU"
    return f"{whose}; found boxes at threshold {threshold:.2f} are yellow, annotated ones white"


def _examples(
    source: Localizer | HeatMaps, data: ImageSet, rows: Sequence[Row], card: Mapping[str, Any], device: str
) -> list[Example]:
    height, width = card["resolution"]
    transform = eval_transform(EvalTransformConfig(image_size=(height, width), mode=card["config"]["view"]), source)
    found = []
    for start in range(0, len(rows), BATCH):
        part = rows[start : start + BATCH]
        samples = [data[row["index"]] for row in part]
        maps = _maps(source, data, part, samples, transform, device)
        for row, sample, values in zip(part, samples, maps, strict=True):
            geometry = transform.geometry(sample.image.height, sample.image.width)
            frame = geometry.back(np.array([0, 0, geometry.size[1], geometry.size[0]])).tolist()
            words = _words(row, data.classes, names_of_outputs(source, data))
            found.append(Example(sample.image, values, frame, row["box"], row["truth"], words))
    return found


@torch.no_grad()
def _maps(
    source: Localizer | HeatMaps,
    data: ImageSet,
    rows: Sequence[Row],
    samples: Sequence[Sample],
    transform: EvalTransform,
    device: str,
) -> list[Tensor]:
    """A map `[h, w]` for each sample, on the CPU; zeros where a folder of heat maps has none that can be used."""
    if isinstance(source, HeatMaps):
        names = [image_name(data, row["index"], sample.path) for row, sample in zip(rows, samples, strict=True)]
        return [_read(source, name) for name in names]
    labels = [sample.label for sample in samples]
    with frozen(source, device) as place:
        known = None
        if all(label is not None for label in labels):
            known = match_classes(torch.tensor(labels), data.classes, names_of_outputs(source, data)).to(place)
        images = torch.stack([transform(sample.image) for sample in samples]).to(place)
        return list(source(images, labels=known).maps.float().cpu())


def _read(source: HeatMaps, name: str) -> Tensor:
    try:
        return source.read(name)
    except UnusableMap:
        return torch.zeros(1, 1)


def _words(row: Row, names: Sequence[str] | None, known: Sequence[str] | None) -> str:
    """`wren`, `IoU 0.83`, and whether the class is right, or what the image was taken for."""
    words = [_name(row["label"], names)] if row["label"] is not None else []
    cut = math.floor(100 * row["iou"] + 1e-9) / 100  # a miss of 0.497 is none of 0.50
    words.append(f"IoU {cut:.2f}" if row["box"] is not None else "no box found")
    if "top1" in row:
        words.append("class right" if row["top1"] else f"taken for {_name(row['predicted'], known or names)}")
    return "\n".join(words)


def _name(label: int, names: Sequence[str] | None) -> str:
    return names[label] if names and label < len(names) else f"class {label}"
