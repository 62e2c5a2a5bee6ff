"""The COCO instances layout: one JSON of boxes for each split, images in a folder beside.

    annotations/instances_<split>.json   <split>/<file name>   or images/<split>/, images/, or the root itself

Boxes in the file are x, y, width, height in pixels from 0; samples carry them half-open. The classes are those of the
file in the order of its category ids, which have gaps: id k of a sample's `box_labels` is `classes[k - 1]`.

What is in the file but cannot be used is never passed over in silence: `notes` says it in words, `counts` in numbers.

Source: Lin et al. 2014, "Microsoft COCO: common objects in context" (arXiv 1405.0312), and cocodataset.org.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections import defaultdict
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from vitrail.contracts import Sample
from vitrail.data.fingerprint import chosen, fingerprint
from vitrail.data.folders import position
from vitrail.data.images import UnreadableImage, open_image

SLACK = 0.01  # pixels; the file rounds to hundredths, so a box may end that far outside

Missing = Literal["refuse", "leave_out"]


class CocoCounts(NamedTuple):
    """What was done with the annotations of a file."""

    boxes: int  # that samples carry
    clipped: int  # of them, reached out of their image and were cut
    empty: int  # without a positive width and height, left out
    outside: int  # wholly outside of their image, left out
    crowds: int  # crowd regions, left out or carried as asked
    strangers: int  # of images that the file does not list, left out
    missing_images: int  # listed, not in the folder, left out
    without_objects: int  # images that stay and have no box


class CocoInstances:
    """Images with boxes and their classes. Fulfills `vitrail.contracts.ImageSet`.

    Args:
        root: the folder that holds `annotations`.
        split: of `instances_<split>.json`; "train" and "val" take the latest year.
        missing: what is done about images that are listed and not there: "refuse", or "leave_out".
        crowds: carry crowd regions, too, flagged in `box_hard`; a crowd's box holds much that is no object.

    Attributes: `counts` (`CocoCounts`), `notes` (the same in words, where something was left out or changed), `folder`
    (where the images are).

    Raises:
        ValueError: no such layout or split, a file that is no COCO instances file, or missing images.
    """

    has_boxes, has_masks = True, False

    def __init__(
        self, root: str | Path, split: str = "val", *, missing: Missing = "refuse", crowds: bool = False
    ) -> None:
        self.root, self.split = Path(root), split
        self.annotations = _annotation_file(self.root, split)
        content = _read(self.annotations)
        self.classes: tuple[str, ...] | None
        self.classes, numbers = _categories(content, self.annotations)
        images = _images(content, self.annotations)
        self.folder = _image_folder(self.root, self.annotations, [each.name for each in images.values()])
        absent = _absent(self.folder, images, self.annotations, missing)
        self._images = [image for number, image in images.items() if number not in absent]
        objects = _Objects(images, absent, numbers, crowds, self.annotations)
        for annotation in content["annotations"]:
            objects.add(annotation)
        self._objects = [objects.of(number) for number in images if number not in absent]
        without = sum(not len(boxes) for boxes, _, _ in self._objects)
        self.counts = objects.counts(len(absent), without)
        self.notes = _words(self.counts, crowds)
        self._digest: str | None = None

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Sample:
        """Decode an image. Raises `UnreadableImage`, also for one of another size than the file says."""
        index = position(index, len(self))
        listed, path = self._images[index], self.path(index)
        image = open_image(path)
        if image.size != (listed.width, listed.height):
            raise UnreadableImage(
                path,
                f"is {image.width} x {image.height} pixels, {self.annotations.name} says {listed.width} x "
                f"{listed.height}, so its boxes do not fit",
            )
        boxes, labels, hard = self._objects[index]
        return Sample(image, None, None, boxes.copy(), path, labels.copy(), hard.copy())

    def path(self, index: int) -> str:
        """Where an image lies."""
        return str(self.folder / self._images[position(index, len(self))].name)

    def digest(self) -> str:
        """16 hex digits over classes, names, boxes, and sizes and a sample of the content of the images."""
        if self._digest is None:
            digest = hashlib.sha256(repr(self.classes).encode())
            for index, (image, objects) in enumerate(zip(self._images, self._objects, strict=True)):
                mark = fingerprint(self.path(index), chosen(index, len(self)))
                digest.update(f"{image.name} {mark}\n".encode() + b"".join(part.tobytes() for part in objects))
            self._digest = digest.hexdigest()[:16]
        return self._digest


def is_coco(root: Path) -> bool:
    """Whether a folder has COCO's layout: `annotations/instances_*.json`."""
    return any((root / "annotations").glob("instances_*.json"))


def coco_splits(root: Path) -> list[str]:
    """Names of the splits: `train2017` of `annotations/instances_train2017.json`."""
    return sorted(path.stem.removeprefix("instances_") for path in (root / "annotations").glob("instances_*.json"))


class _Listed(NamedTuple):
    """An image as the file lists it."""

    name: str
    width: int
    height: int


class _Objects:
    """Boxes by the image that they belong to, and what was left out."""

    def __init__(
        self, images: dict[int, _Listed], absent: set[int], numbers: dict[int, int], crowds: bool, path: Path
    ) -> None:
        self.images, self.absent, self.numbers, self.crowds, self.path = images, absent, numbers, crowds, path
        self.found: dict[int, list[tuple[list[float], int, bool]]] = defaultdict(list)
        self.tally: dict[str, int] = defaultdict(int)

    def add(self, annotation: dict[str, Any]) -> None:
        """Sort one annotation in. Raises `ValueError` for one without image, category or box."""
        try:
            owner, category = annotation["image_id"], annotation["category_id"]
            x, y, width, height = (float(value) for value in annotation["bbox"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{self.path}: the annotation {_short(annotation)} is damaged ({error!r})") from None
        if category not in self.numbers:
            raise ValueError(f"{self.path}: the annotation {_short(annotation)} has a category that is not listed")
        if owner not in self.images:
            self.tally["strangers"] += 1
            return
        if owner in self.absent:
            return
        crowd = bool(annotation.get("iscrowd", 0))
        self.tally["crowds"] += crowd
        if crowd and not self.crowds:
            return
        if not (math.isfinite(x + y + width + height) and width > 0 and height > 0):
            self.tally["empty"] += 1
            return
        self._cut(owner, [x, y, x + width, y + height], self.numbers[category], crowd)

    def _cut(self, owner: int, box: list[float], label: int, crowd: bool) -> None:
        listed = self.images[owner]
        most = (listed.width, listed.height, listed.width, listed.height)
        inside = [min(max(value, 0.0), float(limit)) for value, limit in zip(box, most, strict=True)]
        if inside[2] <= inside[0] or inside[3] <= inside[1]:
            self.tally["outside"] += 1
            return
        self.tally["clipped"] += any(abs(new - old) > SLACK + 1e-6 for new, old in zip(inside, box, strict=True))
        self.found[owner].append((inside, label, crowd))

    def of(self, image: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        found = self.found.get(image, [])
        return (
            np.asarray([box for box, _, _ in found], np.float32).reshape(-1, 4),
            np.asarray([label for _, label, _ in found], np.int64),
            np.asarray([crowd for _, _, crowd in found], bool),
        )

    def counts(self, missing: int, without: int) -> CocoCounts:
        tally = {name: self.tally[name] for name in ("clipped", "empty", "outside", "crowds", "strangers")}
        boxes = sum(map(len, self.found.values()))
        return CocoCounts(boxes=boxes, missing_images=missing, without_objects=without, **tally)


def _annotation_file(root: Path, split: str) -> Path:
    there = coco_splits(root)
    if not there:
        raise ValueError(f"{root} does not have the COCO layout: it has no annotations/instances_*.json")
    years = [name for name in there if name.startswith(split) and name[len(split) :].isdigit()]
    if split not in there and not years:
        raise ValueError(
            f"{root} has no split {split!r}, which is annotations/instances_{split}*.json; there are {there}"
        )
    return root / "annotations" / f"instances_{split if split in there else years[-1]}.json"


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}; it may be cut short, copy it again") from None
    lists = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(isinstance(content.get(name), list) for name in lists):
        raise ValueError(f"{path} is no COCO instances file: it needs the lists {', '.join(lists)}")
    return content


def _categories(content: dict[str, Any], path: Path) -> tuple[tuple[str, ...], dict[int, int]]:
    """Class names, and the class id 1, 2, ... of each category id."""
    try:
        known = sorted((int(each["id"]), str(each["name"])) for each in content["categories"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: a category has no id or no name ({error!r})") from None
    if len({number for number, _ in known}) < len(known):
        raise ValueError(f"{path} lists two categories of the same id")
    return tuple(name for _, name in known), {number: place for place, (number, _) in enumerate(known, start=1)}


def _images(content: dict[str, Any], path: Path) -> dict[int, _Listed]:
    images: dict[int, _Listed] = {}
    for each in content["images"]:
        try:
            number, listed = each["id"], _Listed(str(each["file_name"]), int(each["width"]), int(each["height"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path}: the image {_short(each)} lacks id, file_name, width or height ({error!r})"
            ) from None
        if number in images:
            raise ValueError(f"{path} lists two images of the id {number}: {images[number].name} and {listed.name}")
        images[number] = listed
    if not images:
        raise ValueError(f"{path} lists no images")
    return images


def _image_folder(root: Path, annotations: Path, names: list[str]) -> Path:
    """The first usual place that holds one of the first images, else the first that exists."""
    split = annotations.stem.removeprefix("instances_")
    places = [root / split, root / "images" / split, root / "images", root]
    for place in places:
        if any((place / name).is_file() for name in names[:100]):
            return place
    return next(place for place in places if place.is_dir())


def _absent(folder: Path, images: dict[int, _Listed], annotations: Path, missing: Missing) -> set[int]:
    """Ids of images that are not there. Raises `ValueError` where they are to be refused, or all are missing."""
    there: dict[Path, set[str]] = {}
    absent = []
    for number, listed in images.items():
        parent = (folder / listed.name).parent
        if parent not in there:
            there[parent] = set(os.listdir(parent)) if parent.is_dir() else set()
        if Path(listed.name).name not in there[parent]:
            absent.append(number)
    names = [images[number].name for number in absent]
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    if len(absent) == len(images):
        raise ValueError(f"none of the {len(images)} images of {annotations} is in {folder}: {shown}")
    if absent and missing == "refuse":
        raise ValueError(
            f"{len(absent)} of {len(images)} images of {annotations} are not in {folder}: {shown}; copy them there, or "
            'measure and train without them by data.missing=leave_out (in Python missing="leave_out")'
        )
    return set(absent)


def _words(counts: CocoCounts, crowds: bool) -> tuple[str, ...]:
    said = {
        f"{counts.missing_images} listed images are not there and were left out": counts.missing_images,
        f"{counts.clipped} boxes reach out of their image and were cut": counts.clipped,
        f"{counts.empty} boxes without a positive width and height were left out": counts.empty,
        f"{counts.outside} boxes lie wholly outside of their image and were left out": counts.outside,
        f"{counts.crowds} crowd regions {'are flagged as hard' if crowds else 'were left out'}": counts.crowds,
        f"{counts.strangers} boxes of images that the file does not list were left out": counts.strangers,
    }
    return tuple(words for words, count in said.items() if count)


def _short(value: object) -> str:
    text = (
        json.dumps({key: value[key] for key in value if key != "segmentation"})
        if isinstance(value, dict)
        else repr(value)
    )
    return text if len(text) < 200 else f"{text[:200]} ..."
