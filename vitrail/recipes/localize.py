"""Where the object of image files is, by any localizer: boxes, masks and pictures of them, for `vitrail localize`."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vitrail import __version__
from vitrail.contracts import Localizer
from vitrail.data import EvalTransform, EvalTransformConfig, UnreadableImage, open_image
from vitrail.data.fingerprint import fingerprint
from vitrail.data.transforms import Geometry
from vitrail.evaluation.features import device_of, eval_transform, weights_digest
from vitrail.evaluation.heat_maps import HeatMaps
from vitrail.evaluation.located import Contour, enlarged, stretch
from vitrail.evaluation.progress import progress
from vitrail.recipes.box_tables import BOXES, COCO, BoxTable
from vitrail.recipes.chosen_cut import Cut, cut_of
from vitrail.recipes.files import image_files
from vitrail.recipes.localizers import LocalizerWords, check_kept, check_threshold, open_words
from vitrail.recipes.object_boxes import ObjectBox, laid, large_enough, object_boxes
from vitrail.viz.canvas import fit
from vitrail.viz.located import boxed_picture
from vitrail.viz.percent import percent

log = logging.getLogger("vitrail")
LONGER = (224, 640)
"""Pixels of the longer side of a picture, at least and at most."""
CLASSES = 5
"""How many of the best classes are told."""


class Wanted(NamedTuple):
    """How images are shown, and boxes made."""

    threshold: float | None = None  # share of a map's greatest value, in [0, 1); None for the chosen one
    boxes: Contour = "largest"
    model: str | None = None
    key: str = "auto"
    size: int | None = None  # of the view, pixels a side; None for that of the evaluation, or the localizer's
    batch_size: int = 8
    device: str = "auto"
    min_area: float = 0.0  # share of the image, in [0, 1), that the object in a box covers at least
    top: int | None = None  # of all boxes the largest so many; None for every one
    overwrite: bool = False  # forget what is in the folder, in place of going on


class Done(NamedTuple):
    """What was written."""

    files: tuple[Path, Path]  # boxes.json, coco.json
    images: int  # of this call, with those that were finished before
    without: int  # of these, those without a box
    unreadable: int
    before: int  # of the images, those that an earlier call finished


class _File(NamedTuple):
    """One image that is to be shown."""

    path: Path
    name: str
    mark: str  # what tells it from an edited one


class _Shown(NamedTuple):
    """One image, as far as it is needed further on."""

    file: _File
    pixels: Tensor  # [3, h, w], in the view
    geometry: Geometry
    small: Image.Image  # for the picture


def localize_files(
    paths: Sequence[str | Path] | str | Path, words: LocalizerWords, wanted: Wanted, out: str | Path
) -> Done:
    """Find the object in images and write below `out`:

    boxes.jsonl     a line for each image, once it is done
    boxes.json      of each image the boxes in its pixels (half-open, upright as a viewer shows it), their scores and
                    areas, the best classes where the localizer classifies; how they were found; images left out
    coco.json       the same boxes in COCO's format
    masks/*.png     255 on the object, 0 elsewhere, as large as the image
    overlays/*.png  box and mask over the image, and the map

    Folders stand for the images in them; an image that is named twice is shown once. Files that cannot be read are left
    out, with a warning. Called again, it goes on: images that are finished, and were not edited since, are not done
    again, and what other calls wrote for other images stays.

    Raises:
        ValueError: no image that can be read, a folder of heat maps in place of a localizer, a threshold or an area
            outside [0, 1), `top` without boxes="all", or a folder that holds what was found otherwise or files that
            would be written over and are not ours; `FolderInUse` while another call writes into it.
    """
    check_threshold(wanted.threshold)
    check_kept(wanted.boxes, wanted.min_area, wanted.top)
    files, out = image_files(paths), Path(out)
    localizer = open_words(words, model=wanted.model, key=wanted.key, device=wanted.device)
    if isinstance(localizer, HeatMaps):
        raise ValueError(f"{words.title} is a folder of maps, which sees no images; name a localizer")
    cut = cut_of(words, localizer, wanted.threshold, wanted.size)
    transform = eval_transform(EvalTransformConfig(image_size=cut.image_size, mode=cut.view), localizer)
    done = 0
    with BoxTable(out, _how(words, localizer, cut, wanted), files, localizer.classes, wanted.overwrite) as table:
        todo = _unfinished(files, table)
        before = len(files) - len(todo)
        with progress("localize", len(files)) as advance:
            advance(before, ready=True)
            for start in range(0, len(todo), wanted.batch_size):
                batch = todo[start : start + wanted.batch_size]
                shown = list(_read(batch, transform, table))
                for each, entry in zip(shown, _located(localizer, shown, cut, wanted, table)):
                    table.add(each.file.path, each.file.mark, entry)
                    done += 1
                advance(len(batch))
    if not before + done:
        raise ValueError(f"none of {len(files)} images can be read; give image files that are there and whole")
    without = sum(not told["boxes"] for each in files if (told := table.of(each)) is not None)
    return Done((out / BOXES, out / COCO), before + done, without, len(todo) - done, before)


def _unfinished(files: Sequence[Path], table: BoxTable) -> list[_File]:
    """Those that are to be done; a line of the log tells how many are not."""
    marked = [_File(path, table.name_of(path), fingerprint(path, content=True)) for path in files]
    todo = [each for each in marked if not table.finished(each.path, each.mark)]
    if len(todo) < len(files):
        log.info(
            "%d of %d images in %s are finished, with these weights and settings: they stay, and --overwrite would "
            "make them anew",
            *(len(files) - len(todo), len(files), table.folder),
        )
    return todo


def _how(words: LocalizerWords, localizer: Localizer, cut: Cut, wanted: Wanted) -> dict[str, Any]:
    """What stands above the boxes."""
    height, width = (cut.image_size, cut.image_size) if isinstance(cut.image_size, int) else cut.image_size
    return {
        "localizer": words.title,
        "weights_digest": weights_digest(localizer),
        "threshold": cut.threshold,
        "view": f"{cut.view} {height} x {width}",
        "enlarge": cut.enlarge,
        "boxes": wanted.boxes,
        "min_area": wanted.min_area,
        "top": wanted.top,
        "note": f"{cut.note}; weights {words.weights}; vitrail {__version__}",
    }


def _read(files: Sequence[_File], transform: EvalTransform, table: BoxTable) -> Iterator[_Shown]:
    for file in files:
        try:
            image = open_image(file.path)
        except UnreadableImage as error:
            warnings.warn(f"{file.path} is left out: {error.reason}", stacklevel=2)
            table.leave_out(file.path, error.reason)
            continue
        geometry = transform.geometry(image.height, image.width)
        yield _Shown(file, transform(image), geometry, fit(image, min(max(*image.size, LONGER[0]), LONGER[1])))


def _located(
    localizer: Localizer, shown: Sequence[_Shown], cut: Cut, wanted: Wanted, table: BoxTable
) -> Iterator[dict[str, Any]]:
    """What is told of each image; its mask and its picture are written before, what is to be overwritten goes first."""
    if not shown:
        return
    device = device_of(localizer) if isinstance(localizer, torch.nn.Module) else torch.device("cpu")
    found = localizer(torch.stack([each.pixels for each in shown]).to(device))
    maps = found.maps.detach().float().cpu()
    chances = None if found.logits is None else found.logits.detach().float().softmax(1).cpu()
    table.begin()
    for place, each in enumerate(shown):
        values = stretch(enlarged(maps[place], each.geometry.size, cut.enlarge))
        found_boxes = object_boxes(values, cut.level, each.geometry, wanted.boxes)
        boxes = large_enough(found_boxes, each.geometry.source, wanted.min_area, wanted.top)
        classes = [] if chances is None else best_classes(chances[place], localizer.classes)
        mask = _whole_mask(boxes, each.geometry.source)
        none = "" if boxes else _why_none(found_boxes, wanted.min_area)
        picture = _picture(each, values, boxes, mask, classes, none)
        name = f"{each.file.name}.png"
        _put(mask, table.folder / "masks" / name)
        _put(picture, table.folder / "overlays" / name)
        height, width = each.geometry.source
        told = [{"box": list(one.box), "score": round(one.score, 4), "area": one.area} for one in boxes]
        yield {
            "name": each.file.name,
            "height": height,
            "width": width,
            "boxes": told,
            "mask": f"masks/{name}",
            "overlay": f"overlays/{name}",
        } | ({"classes": classes} if classes else {})


def best_classes(chances: Tensor, names: Sequence[str] | None) -> list[dict[str, Any]]:
    """The most probable of K classes: name, index and probability, the best first; names are indices where unknown."""
    best = chances.topk(min(CLASSES, len(chances)))
    return [
        {"class": names[index] if names else str(index), "index": index, "probability": round(value, 4)}
        for value, index in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]


def _whole_mask(boxes: Sequence[ObjectBox], size: tuple[int, int]) -> Image.Image:
    mask = np.zeros(size, np.uint8)
    for each in boxes:
        left, top, right, bottom = each.window
        mask[top:bottom, left:right][each.mask] = 255
    return Image.fromarray(mask)


def _why_none(found: Sequence[ObjectBox], min_area: float) -> str:
    """Why an image has no box, of those that were found."""
    if not found:
        return "no box: the map is constant"
    return f"no box: none of {len(found)} objects is {100 * min_area:g}\u00a0% of the image"


def _put(picture: Image.Image, path: Path) -> None:
    """Write a PNG, whole or not at all."""
    waiting = path.with_name(f".{path.name}")
    picture.save(waiting, "PNG")
    waiting.replace(path)


def _picture(
    each: _Shown,
    values: Tensor,
    boxes: Sequence[ObjectBox],
    mask: Image.Image,
    classes: Sequence[dict[str, Any]],
    none: str,
) -> Image.Image:
    best = f"{classes[0]['class']} {percent(classes[0]['probability'])}" if classes else ""
    words = ", ".join(part for part in (best, none) if part)
    small = each.small
    map_ = laid(values, each.geometry._replace(source=(small.height, small.width)))
    scale = small.width / each.geometry.source[1]
    corners = [torch.tensor(one.box) for one in boxes]
    return boxed_picture(small, map_, mask.resize(small.size, Image.Resampling.BOX), corners, scale, words)
