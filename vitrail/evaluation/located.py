"""The boxes of every image of a set at every threshold, and how well they fit: what localization is counted from.

Each map is enlarged to the view that the image was shown in, stretched to 0 to 255 by its own least and greatest value,
and cut down to whole numbers; components of {map > t} are found for all thresholds t at once
(`vitrail.ops.component_boxes`). A constant map has no component and so no box.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.data import DataLoader, Dataset

from vitrail.contracts import ImageSet, Localizer
from vitrail.data.images import UnreadableImage
from vitrail.data.transforms import EvalTransform, Geometry
from vitrail.evaluation.features import Precision, autocast, frozen
from vitrail.evaluation.heat_maps import HeatMaps, UnusableMap, check_shape, image_name, in_proportion
from vitrail.evaluation.progress import progress
from vitrail.metrics.localization import Convention, GtRule, PixelPrecision, clip_boxes
from vitrail.ops.component_boxes import ComponentBoxes, best_overlaps, component_boxes

T = TypeVar("T")
LEVELS = 255
"""Of a map in whole numbers, the greatest."""
Contour = Literal["largest", "all"]
View = Literal["squash", "crop"]
Enlarge = Literal["bilinear", "bicubic"]
OF_VIEW: dict[View, str] = {
    "squash": "heat maps have the shape of the view and not of their image, and are taken as of the whole image, "
    "squashed; if they show its middle alone, say view=crop",
    "crop": "heat maps are taken as of the middle of their image, which view=crop shows; if they show the whole image, "
    "say view=squash",
}
"""What a folder's maps are taken for, where their shape does not tell."""


class Rules(NamedTuple):
    """How maps become boxes, and what fits."""

    levels: tuple[int, ...]  # thresholds t in 0 to 254, rising
    view: View
    enlarge: Enlarge
    gt: GtRule
    convention: Convention
    whole_pixels: bool  # cut truth to whole pixels, and boxes to the last pixel
    holes: bool  # the outlines of holes are boxes, too, where all count


class Loading(NamedTuple):
    """What changes the speed alone, and precision."""

    batch_size: int = 16
    workers: int = 0
    precision: Precision = "fp32"
    device: str = "auto"


class Seen(NamedTuple):
    """One image as it was shown."""

    position: int  # in the data set
    path: str
    label: int | None
    image: Tensor  # [3, h, w] float32, normalized
    mask: Tensor | None  # [h, w] in the view
    truth: Tensor | None  # [n, 4] float32 boxes in the view; n is 0 where all lie outside of it; None: there are none
    whole: Tensor  # [n, 4] float32, the boxes in pixels of the image
    dropped: int  # boxes that are empty or outside of the image
    geometry: Geometry
    map: Tensor | None  # [h, w] of a folder of heat maps
    trouble: str  # why there is no such map


class Fit(NamedTuple):
    """The chosen box of each of N images at each of T thresholds."""

    iou: Tensor  # [N, T] float64, with the truth; 0 where there is no box
    boxes: Tensor  # [N, T, 4] int16, half-open, pixels of the view; zeros where there is none


class Found(NamedTuple):
    """What was found in a set; N images with boxes, in order."""

    seen: list[Seen]  # N, without pixels
    fits: dict[Contour, Fit]
    logits: Tensor | None  # [N, K]
    labels: Tensor | None  # [N] int64 in the order of the logits, or of the data set where there are none
    pixels: PixelPrecision | None  # None where no image has a mask
    without: list[int]  # positions of images without boxes
    unusable: dict[int, str]  # positions of images without a usable map, and why
    notes: list[str]


def locate(
    source: Localizer | HeatMaps,
    data: ImageSet,
    transform: EvalTransform,
    rules: Rules,
    loading: Loading,
    *,
    match: Callable[[Tensor], Tensor],
    allow_missing: bool = False,
    title: str = "localization",
) -> Found:
    """Show every image to a localizer, or read its heat map, and find boxes.

    Args:
        match: labels of the data set -> those of the localizer.
        allow_missing: images without a usable heat map count as missed; else they stop the evaluation.

    Raises:
        ValueError: empty data, no readable image, maps or logits that are not what `Localizer` says, or heat maps that
            are missing.
    """
    if not len(data):
        raise ValueError(f"{title}: the data set is empty; an evaluation needs at least one image")
    if isinstance(source, HeatMaps) and not allow_missing:
        _stop_without(source, source.missing(data), len(data))
    tally, skipped = _Tally(rules, len(data), title), dict[int, str]()
    reader = DataLoader(
        _Reader(data, transform, rules, source if isinstance(source, HeatMaps) else None),
        batch_size=None,
        sampler=list(torch.arange(len(data)).split(loading.batch_size)),
        num_workers=loading.workers,
        collate_fn=_as_it_is,
        generator=torch.Generator(),  # else starting an iterator would draw from the global generator
    )
    with frozen(source, loading.device) as place, progress(title, len(data)) as advance:
        for seen, unreadable in reader:
            skipped.update(unreadable)
            if isinstance(source, HeatMaps):
                tally.add(seen, _read_maps(seen), None, _labels_of(seen, None))
            elif seen:
                labels = _labels_of(seen, match)
                with autocast(place, loading.precision):
                    located = _asked(source, seen, labels, place)
                tally.add(seen, *located, labels)
            advance(len(seen) + len(unreadable))
    if len(skipped) == len(data):
        raise ValueError(f"none of {len(data)} images could be read, the first one: {next(iter(skipped.values()))}")
    found = tally.found(skipped)
    if isinstance(source, HeatMaps) and not allow_missing:
        _stop_without(source, found.unusable, len(data))
    return found


class _Reader(Dataset[tuple[list[Seen], dict[int, str]]]):
    """Reads whole batches; lives in the workers."""

    def __init__(self, data: ImageSet, transform: EvalTransform, rules: Rules, maps: HeatMaps | None) -> None:
        self.data, self.transform, self.rules, self.maps = data, transform, rules, maps

    def __getitem__(self, indices: Tensor) -> tuple[list[Seen], dict[int, str]]:
        read, skipped = [], {}
        for index in indices.tolist():
            try:
                read.append(self._look(index))
            except UnreadableImage as error:
                skipped[index] = str(error)
        return read, skipped

    def _look(self, index: int) -> Seen:
        sample = self.data[index]
        height, width = sample.image.height, sample.image.width
        geometry = self.transform.geometry(height, width)
        given = torch.zeros(0, 4) if sample.boxes is None else torch.from_numpy(np.float32(sample.boxes)).reshape(-1, 4)
        whole = clip_boxes(given, height, width)
        dropped = len(given) - len(whole)
        if self.rules.gt == "first":
            whole = whole[:1]
        truth = _in_view(whole, geometry, self.rules) if len(whole) else None
        image, mask, _ = self.transform.with_targets(sample._replace(boxes=None))
        map_, trouble = None, ""
        if self.maps is not None:
            name = image_name(self.data, index, sample.path)
            try:
                map_ = self.maps.read(name)
                whole_image = (height, width) if self.rules.view == "squash" else None
                check_shape(map_.shape, geometry.size, whole_image, self.maps.path(name) or name)
            except UnusableMap as error:
                map_, trouble = None, str(error)
        return Seen(index, sample.path, sample.label, image, mask, truth, whole, dropped, geometry, map_, trouble)


class _Tally:
    """What is kept of each batch."""

    def __init__(self, rules: Rules, count: int, title: str) -> None:
        self.rules, self.count, self.title = rules, count, title
        self.seen: list[Seen] = []
        self.fits: dict[Contour, list[Fit]] = {"largest": [], "all": []}
        self.logits: list[Tensor] = []
        self.labels: list[Tensor] = []
        self.pixels: PixelPrecision | None = None
        self.without: list[int] = []
        self.unusable: dict[int, str] = {}
        self.dropped = self.constant = self.outside = self.unlabeled = self.of_view = 0

    def add(self, seen: list[Seen], maps: Tensor | list[Tensor], logits: Tensor | None, labels: Tensor | None) -> None:
        stretched = [stretch(enlarged(each, one.geometry.size, self.rules.enlarge)) for each, one in zip(maps, seen)]
        self.unusable |= {one.position: one.trouble for one in seen if one.trouble}
        for one, values in zip(seen, stretched):
            self.constant += not one.trouble and not bool(values.any())
            self.dropped += one.dropped
            self.of_view += one.map is not None and self._is_of_the_view(one.map, one.geometry)
            self._count_pixels(one, values)
        kept = [place for place, one in enumerate(seen) if one.truth is not None]
        self.without += [one.position for one in seen if one.truth is None]
        self.unlabeled += sum(seen[place].label is None for place in kept)
        self.outside += sum(not len(one.truth) for one in seen if one.truth is not None)
        if not kept:
            return
        self.seen += [seen[place]._replace(image=torch.empty(0), mask=None, map=None) for place in kept]
        values = torch.stack([stretched[place] for place in kept])
        components = components_above(values, self.rules.levels, holes=self.rules.holes)
        truths = [one.truth for place in kept if (one := seen[place]).truth is not None]
        self.fits["all"].append(self._fit(components, truths))
        self.fits["largest"].append(self._fit(only_largest(components), truths))
        if logits is not None:
            self.logits.append(logits[kept])
        if labels is not None:
            self.labels.append(labels[kept])

    def _is_of_the_view(self, map_: Tensor, geometry: Geometry) -> bool:
        """Whether a heat map is taken to show the view where its shape does not tell."""
        return self.rules.view == "crop" or not in_proportion(map_.shape, geometry.source)

    def _fit(self, components: ComponentBoxes, truths: list[Tensor]) -> Fit:
        height, width = self.seen[-1].geometry.size
        rim = (height - 1, width - 1) if self.rules.whole_pixels else None
        iou, which = best_overlaps(components, truths, inclusive=self.rules.convention == "inclusive", rim=rim)
        padded = torch.cat([components.boxes, torch.zeros(1, 4, dtype=torch.int32)])  # -1 is the last one
        return Fit(iou, padded[which].to(torch.int16))

    def _count_pixels(self, one: Seen, values: Tensor) -> None:
        if one.mask is not None:
            self.pixels = self.pixels or PixelPrecision()
            mask = one.mask if one.mask.dtype == torch.uint8 else torch.where(one.mask == 65535, 255, one.mask != 0)
            self.pixels.add(values, mask)

    def found(self, skipped: dict[int, str]) -> Found:
        share, masks_alone = f"of {self.count} images", not self.seen and self.pixels is not None
        told = (
            (len(skipped), f"{share} could not be read and were left out"),
            (0 if masks_alone else len(self.without), f"{share} have no box and were left out"),
            (self.dropped, "boxes are empty or lie outside of their image and were left out"),
            (self.outside, f"{share} have their object outside of the crop and count as missed"),
            (self.constant, "maps are constant, which gives no box, and count as missed"),
            (
                self.unlabeled if self.unlabeled < len(self.seen) else 0,
                f"{share} have a box and no label, so that nothing is said of classes; give all of them labels",
            ),
            (len(self.unusable), f"{share} have no usable heat map and count as missed"),
            (self.of_view, OF_VIEW[self.rules.view]),
        )
        notes = [f"{self.title}: {number} {words}" for number, words in told if number]
        fits: dict[Contour, Fit] = {
            name: Fit(*(torch.cat(each) for each in zip(*parts, strict=True)))
            for name, parts in self.fits.items()
            if parts
        }
        logits, labels = (torch.cat(each) if each else None for each in (self.logits, self.labels))
        known = labels is not None and len(labels) == len(self.seen)
        return Found(
            self.seen,
            fits,
            logits,
            labels if known else None,
            self.pixels,
            self.without,
            self.unusable,
            notes,
        )


def enlarged(map_: Tensor, size: tuple[int, int], how: Enlarge) -> Tensor:
    """A map `[h, w]` at the size of its view, (height, width); a larger one is made smaller without aliasing."""
    if map_.shape == size:
        return map_
    smaller = map_.shape[0] > size[0] or map_.shape[1] > size[1]
    return interpolate(map_[None, None], size, mode=how, antialias=smaller)[0, 0]


def stretch(map_: Tensor) -> Tensor:
    """A map `[H, W]` by its least and greatest value to [0, 1]; zeros for a constant one."""
    low, high = map_.aminmax()
    return (map_ - low) / (high - low) if high > low else torch.zeros_like(map_)


def level_of(threshold: float) -> int:
    """A threshold in [0, 1), a share of a stretched map's greatest value, as a whole number, 0 to 254."""
    return int(LEVELS * threshold)


def threshold_words(threshold: float) -> str:
    """A threshold in as few decimals, two or more, as mean the same level when they are given back."""
    tries = (f"{number / 10**digits:.{digits}f}" for digits in range(2, 8) for number in _near(threshold * 10**digits))
    return next((words for words in tries if level_of(float(words)) == level_of(threshold)), repr(threshold))


def _near(number: float) -> tuple[int, int]:
    return round(number), math.ceil(number)


def whole_levels(values: Tensor) -> Tensor:
    """Stretched maps in whole numbers, cut down: uint8. A pixel is above a level from (level + 1) / 255 on."""
    return (values * LEVELS).to(torch.uint8)


def components_above(values: Tensor, levels: Sequence[int], *, holes: bool = False) -> ComponentBoxes:
    """The boxes of stretched maps `[N, H, W]` at each level, whose `largest` is that whose box counts.

    Whatever makes a box of a map, at one threshold or at many, makes it here.

    Args:
        levels: rising, 0 to 254, see `level_of`.
        holes: as in `vitrail.ops.component_boxes`.
    """
    return component_boxes(whole_levels(values), torch.tensor(levels, dtype=torch.uint8), holes=holes)


def only_largest(components: ComponentBoxes) -> ComponentBoxes:
    """The largest component of each threshold alone, listed once for each threshold."""
    maps, numbers = (components.largest >= 0).nonzero().unbind(1)
    which = components.largest[maps, numbers]
    starts = torch.zeros(len(components.starts), dtype=torch.int64)
    starts[1:] = (components.largest >= 0).sum(1).cumsum(0)
    largest = torch.full_like(components.largest, -1)
    largest[maps, numbers] = torch.arange(len(which))
    number = numbers.to(torch.int32)
    return ComponentBoxes(components.boxes[which], components.pixels[which], number, number, starts, largest)


def _in_view(whole: Tensor, geometry: Geometry, rules: Rules) -> Tensor:
    boxes = torch.from_numpy(geometry.boxes(whole.numpy()))
    boxes = boxes[(boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])]
    return boxes.floor() if rules.whole_pixels else boxes


def _labels_of(seen: Sequence[Seen], match: Callable[[Tensor], Tensor] | None) -> Tensor | None:
    if any(one.label is None for one in seen):
        return None
    labels = torch.tensor([one.label for one in seen])
    return labels if match is None else match(labels)


def _read_maps(seen: Sequence[Seen]) -> list[Tensor]:
    return [torch.zeros(one.geometry.size) if one.map is None else one.map for one in seen]


def _asked(
    source: Localizer, seen: Sequence[Seen], labels: Tensor | None, place: torch.device
) -> tuple[Tensor, Tensor | None]:
    """Maps `[B, h, w]` and logits of a batch, float32 on the CPU. Raises `ValueError`, with the image's name."""
    images = torch.stack([one.image for one in seen]).to(place)
    located = source(images, labels=None if labels is None else labels.to(place))
    maps, name = located.maps.float().cpu(), type(source).__name__
    if maps.ndim != 3 or len(maps) != len(seen) or not maps.numel():
        raise ValueError(f"{name} gave maps {list(maps.shape)} for {len(seen)} images; a localizer gives [B, h, w]")
    for one, map_ in zip(seen, maps, strict=True):
        if not map_.isfinite().all():
            where = f"image {one.position} {one.path}"
            raise ValueError(f"{name}'s map of {where} is not finite; check the weights, or use precision fp32")
    if located.logits is None:
        return maps, None
    logits = located.logits.float().cpu()
    if logits.ndim != 2 or len(logits) != len(seen):
        raise ValueError(f"{name} gave logits {list(logits.shape)} for {len(seen)} images; a localizer gives [B, K]")
    if labels is not None and int(labels.max()) >= logits.shape[1]:
        raise ValueError(f"the data have class {int(labels.max())}, but {name} has {logits.shape[1]} outputs")
    return maps, logits


def _stop_without(source: HeatMaps, unusable: dict[int, str], count: int) -> None:
    if unusable:
        listed = "; ".join(list(unusable.values())[:10]) + (f"; and {len(unusable) - 10} more" * (len(unusable) > 10))
        raise ValueError(
            f"{len(unusable)} of {count} images have no usable map in {source.root}: {listed}. Write them, or count "
            "these images as missed by allow_missing=true"
        )


def _as_it_is(loaded: T) -> T:
    return loaded
