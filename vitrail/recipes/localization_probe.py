"""Where a localizer finds objects, between epochs of its training: a number to watch, and pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from vitrail.config import Config
from vitrail.contracts import ImageSet
from vitrail.data import EvalTransformConfig, UnreadableImage, build_eval_transform
from vitrail.evaluation.localization import HIT
from vitrail.evaluation.located import components_above, enlarged, level_of, stretch
from vitrail.metrics.localization import clip_boxes
from vitrail.recipes.look import different, keep_sheet
from vitrail.viz.located import Found, located_sheet, overlap_of

FRAMES = {"squash": "whole and squashed", "crop": "their middle", "pad": "whole"}
CHUNK = 64  # images that are looked at together


class LocalizationProbeConfig(Config):
    """What is measured between epochs; `vitrail evaluate localization` says more, and chooses its threshold."""

    images: int = Field(500, ge=1)
    """Held-out images, at most."""
    threshold: float = Field(0.5, gt=0, lt=1)
    """Share of a map's range, from its least value, above which a pixel belongs to the object. It is not chosen."""


def localization_probe(
    localizer: Any, data: ImageSet, seen: EvalTransformConfig, threshold: float
) -> Callable[[], Mapping[str, float]]:
    """A function that gives percent of the images: `top1` where it classifies, and `gt_known_50` of those with boxes.

    An image counts as located where the box of the largest component, see `box_of`, overlaps one of its boxes by an IoU
    of 0.5 or more; `floor_whole_50` is what the view as a box would reach. Boxes lie in the view that `seen` names:
    with mode="crop" the middle of each image, to which the annotated ones are cut. Images that cannot be read are left
    out.
    """

    def evaluate() -> Mapping[str, float]:
        hits: dict[str, list[float]] = {"top1": [], "gt_known_50": [], "floor_whole_50": []}
        for start in range(0, len(data), CHUNK):
            chunk = range(start, min(start + CHUNK, len(data)))
            for found in _looked_at(localizer, data, chunk, seen, threshold):
                if found.right is not None:
                    hits["top1"].append(float(found.right))
                if found.truth is None or not len(found.truth):
                    continue
                whole = torch.tensor([0.0, 0.0, found.image.shape[2], found.image.shape[1]])
                hits["floor_whole_50"].append(float(overlap_of(whole, found.truth) >= HIT))
                if found.map is not None:
                    hit = found.box is not None and overlap_of(found.box, found.truth) >= HIT
                    hits["gt_known_50"].append(float(hit))
        return {name: 100 * sum(values) / len(values) for name, values in hits.items() if values}

    return evaluate


def box_of(map_: Tensor, threshold: float) -> Tensor | None:
    """The box that the protocol `localization` makes of a map `[H, W]` at a share of its range: half-open x0 y0 x1 y1,
    pixels; None for a map that is the same everywhere."""
    found = components_above(stretch(map_)[None], (level_of(threshold),))
    which = int(found.largest[0, 0])
    return None if which < 0 else found.boxes[which].float()


@torch.no_grad()
def _looked_at(
    localizer: Any, data: ImageSet, chosen: Iterable[int], seen: EvalTransformConfig, threshold: float
) -> list[Found]:
    """What is found in images and known of them; those that can be read."""
    transform, known = build_eval_transform(seen), []
    for index in chosen:
        try:
            sample = data[index]
        except UnreadableImage:
            continue
        image, _, boxes = transform.with_targets(sample)
        inside = None if boxes is None else clip_boxes(boxes, image.shape[1], image.shape[2])
        known.append((image, inside, sample.label))
    if not known:
        return []
    was_training = localizer.training
    localizer.eval()
    maps, logits = _located(localizer, torch.stack([image for image, _, _ in known]))
    localizer.train(was_training)
    found = []
    for row, (image, boxes, label) in enumerate(known):
        right = None if logits is None or label is None else int(logits[row].argmax()) == label
        values = None if maps is None else maps[row]
        box = None if values is None else box_of(values, threshold)
        found.append(Found(image, values, box, boxes, right))
    return found


def _located(localizer: Any, images: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Maps at the images' size, None where there is no generator, and logits or None; on the CPU."""
    images = images.to(next(localizer.backbone.parameters()).device)
    if localizer.generator is None:
        return None, localizer.class_logits(images).cpu()
    maps, logits = localizer(images)
    grown = [enlarged(each, (images.shape[-2], images.shape[-1]), "bilinear") for each in maps.float().cpu()]
    return torch.stack(grown), None if logits is None else logits.cpu()


def drawing_located(
    localizer: Any, data: ImageSet, seen: EvalTransformConfig, threshold: float
) -> Callable[[Path, str, Any], None] | None:
    """A function that draws maps and boxes of held-out images into a run's folder; None without a generator."""
    if localizer.generator is None:
        return None

    def draw(folder: Path, when: str, drawn: Any) -> None:
        shown = localizer if when == "before" else drawn
        found = _looked_at(shown, data, different(data, 6), seen, threshold)
        words = (
            f"Held-out images {when} training, {FRAMES[seen.mode]}, their maps, the box found at {threshold:g} of the "
            "map's range (yellow) and the annotated ones (white)."
        )
        keep_sheet(folder, f"located_{when}.png", located_sheet(found, shown.mean, shown.std), words)

    return draw
