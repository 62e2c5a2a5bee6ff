"""The PASCAL VOC segmentation layout: images, masks of class ids, boxes.

    JPEGImages/<id>.jpg  SegmentationClass/<id>.png  Annotations/<id>.xml  ImageSets/Segmentation/<split>.txt

directly in the root, or below it in `VOCdevkit/VOC2012`, `VOC2012` or another year. Mask values are class ids
as stored in the palette PNG: 0 background, k is `classes[k - 1]`, 255 void. The boxes of the XML files count
pixels from 1 and hold their last ones; samples carry them half-open from 0.

A set of another domain in this layout brings a file `classes.txt` in that root: its lines name the values 0, 1, 2, ...
of the masks. Where the first one is "background", ids are as in VOC; otherwise the value 0 is a class like the others,
there is no background, and samples carry the value plus 1, so that k is `classes[k - 1]` there, too.

Source: Everingham et al. 2010, "The PASCAL Visual Object Classes (VOC) Challenge", and its development kit.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np

from vitrail.contracts import Sample
from vitrail.data.fingerprint import chosen, fingerprint
from vitrail.data.folders import position
from vitrail.data.images import UnreadableImage, open_image, open_mask

VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *(
        "diningtable",
        "dog",
        "horse",
        "motorbike",
        "person",
        "pottedplant",
        "sheep",
        "sofa",
        "train",
        "tvmonitor",
    ),
)
"""The 20 classes; mask value k is VOC_CLASSES[k - 1]."""

CLASSES = "classes.txt"
"""A file in the root that names the mask values 0, 1, 2, ...; VOC itself has none."""

VOID = 255
"""Mask value of pixels that belong to no class: outlines and what was left out."""


class VocObjects(NamedTuple):
    """The annotated objects of an image, in the order of its XML file."""

    boxes: np.ndarray  # [n, 4] float32, half-open x0 y0 x1 y1 in pixels from 0
    classes: np.ndarray  # [n] int64 class ids as in the masks: 1, 2, ...
    difficult: np.ndarray  # [n] bool


class VocSegmentation:
    """Images with a mask of class ids, and boxes where there are XML files. Fulfills
    `vitrail.contracts.ImageSet`.

    Args:
        root: the folder that holds JPEGImages, or one above it.
        split: name of a list in ImageSets/Segmentation, such as "train", "val" or "trainval".
        classes: names of the mask values 1, 2, ..., with a background; None for those of `classes.txt`, or VOC's own.

    A sample's `boxes` are those of all objects, difficult ones too; `box_hard` tells them apart, and `box_labels` says
    what they are, by the ids of the masks.

    Attributes: `background` (whether the value 0 is a background, or else a class of `classes.txt`).

    Raises:
        ValueError: no such layout or split, a `classes.txt` that cannot be used, or images, masks or XML files that the
            split names and that are not there.
    """

    def __init__(self, root: str | Path, split: str = "val", classes: Sequence[str] | None = None) -> None:
        self.root = find_voc(root)
        self.split = split
        names, self.background = (tuple(classes), True) if classes is not None else _classes(self.root / CLASSES)
        self.classes: tuple[str, ...] | None = names
        self._numbers = {name: number for number, name in enumerate(names, start=1)}
        self.ids = _read_split(self.root, split)
        self.has_boxes = (self.root / "Annotations").is_dir()
        self._digest: str | None = None
        missing = self._missing()
        if missing:
            shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
            raise ValueError(f"{len(missing)} files that the split {split!r} names are not in {self.root}: {shown}")

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Sample:
        """Decode image and mask. Raises `UnreadableImage`, also for a mask of another size or unknown ids."""
        index = position(index, len(self))
        image_path, mask_path = self.paths(index)
        image, mask = open_image(image_path), open_mask(mask_path)
        if mask.shape != (image.height, image.width):
            raise UnreadableImage(
                mask_path,
                f"mask of {mask.shape[1]} x {mask.shape[0]} for an image of {image.width} x {image.height}",
            )
        first = len(self._numbers) + self.background
        strange = np.flatnonzero(np.bincount(mask.ravel(), minlength=VOID + 1)[first:VOID]) + first
        if strange.size:
            raise UnreadableImage(
                mask_path, f"holds class ids {strange.tolist()[:5]} beyond {len(self._numbers)} classes"
            )
        if not self.background:
            mask = np.where(mask == VOID, VOID, mask + 1).astype(np.uint8)
        if not self.has_boxes:
            return Sample(image, None, mask, None, str(image_path))
        objects = self.objects(index)
        return Sample(image, None, mask, objects.boxes, str(image_path), objects.classes, objects.difficult)

    def paths(self, index: int) -> tuple[Path, Path]:
        """Where the image and the mask lie."""
        name = self.ids[position(index, len(self))]
        return self.root / "JPEGImages" / f"{name}.jpg", self.root / "SegmentationClass" / f"{name}.png"

    def objects(self, index: int) -> VocObjects:
        """The annotated objects. Raises `ValueError` without XML files, `UnreadableImage` for a bad one."""
        if not self.has_boxes:
            raise ValueError(f"{self.root} has no folder Annotations, so no boxes are known")
        path = self.root / "Annotations" / f"{self.ids[position(index, len(self))]}.xml"
        try:
            return self._objects(ElementTree.parse(path).getroot())
        except (ElementTree.ParseError, ValueError, OSError) as error:
            raise UnreadableImage(path, f"damaged annotation ({error})") from error

    def digest(self) -> str:
        """16 hex digits over the ids, the classes, and sizes and a sample of the content of all files.

        Reads from the files once, see `vitrail.data.fingerprint`.
        """
        if self._digest is None:
            words = (self.split, self.classes, *(() if self.background else ("no background",)))
            digest = hashlib.sha256(repr(words).encode())
            for index, name in enumerate(self.ids):
                notes = [self.root / "Annotations" / f"{name}.xml"] if self.has_boxes else []
                content = chosen(index, len(self))
                marks = [fingerprint(path, content) for path in (*self.paths(index), *notes)]
                digest.update(f"{name} {marks}\n".encode())
            self._digest = digest.hexdigest()[:16]
        return self._digest

    def _objects(self, tree: ElementTree.Element) -> VocObjects:
        boxes, classes, difficult = [], [], []
        for each in tree.findall("object"):
            name = (each.findtext("name") or "").strip()
            if name not in self._numbers:
                raise ValueError(f"unknown class {name!r}")
            corners = [float(each.findtext(f"bndbox/{key}") or "nan") for key in ("xmin", "ymin", "xmax", "ymax")]
            if not np.isfinite(corners).all():
                raise ValueError(f"an object {name!r} without a complete box")
            boxes.append([corners[0] - 1, corners[1] - 1, corners[2], corners[3]])
            classes.append(self._numbers[name])
            difficult.append((each.findtext("difficult") or "0").strip() == "1")
        return VocObjects(
            np.asarray(boxes, np.float32).reshape(-1, 4),
            np.asarray(classes, np.int64),
            np.asarray(difficult, bool),
        )

    def _missing(self) -> list[str]:
        wanted = [("JPEGImages", ".jpg"), ("SegmentationClass", ".png")]
        if self.has_boxes:
            wanted.append(("Annotations", ".xml"))
        missing = []
        for folder, extension in wanted:
            there = set(os.listdir(self.root / folder)) if (self.root / folder).is_dir() else set()
            missing += [f"{folder}/{name}{extension}" for name in self.ids if f"{name}{extension}" not in there]
        return missing


def find_voc(root: str | Path) -> Path:
    """The folder that holds JPEGImages and ImageSets/Segmentation: `root`, or a VOC year below it (the
    latest).

    Raises `ValueError` where there is none.
    """
    root = Path(root)
    places = [
        root,
        *sorted([*root.glob("VOC2*"), *root.glob("VOCdevkit/VOC2*")], key=lambda each: each.name)[::-1],
    ]
    for place in places:
        if (place / "ImageSets" / "Segmentation").is_dir():
            return place
    raise ValueError(
        f"{root} does not have the VOC layout: neither it nor VOCdevkit/VOC2012 below it has ImageSets/Segmentation"
    )


def is_voc(root: str | Path) -> bool:
    """Whether a folder has VOC's segmentation layout, or one of its years below it has."""
    try:
        find_voc(root)
    except ValueError:
        return False
    return True


def splits_of(root: Path) -> list[str]:
    """Names of the split lists in a folder found by `find_voc`."""
    return sorted(path.stem for path in (root / "ImageSets" / "Segmentation").glob("*.txt"))


def _classes(path: Path) -> tuple[tuple[str, ...], bool]:
    """Names of the classes and whether there is a background, of `classes.txt` or of VOC."""
    if not path.is_file():
        return VOC_CLASSES, True
    names = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    background = bool(names) and names[0].lower() == "background"
    classes = names[background:]
    if not classes or len(set(classes)) < len(classes) or len(names) > VOID:
        raise ValueError(
            f"{path} names {len(classes)} classes, {len(set(classes))} different ones; its lines name the values 0, 1, "
            f"2, ... of the masks, each once, at most {VOID}, the first one 'background' where there is one"
        )
    return classes, background


def _read_split(root: Path, split: str) -> tuple[str, ...]:
    path = root / "ImageSets" / "Segmentation" / f"{split}.txt"
    if not path.is_file():
        raise ValueError(f"there is no split list {path}; there are {', '.join(splits_of(root)) or 'none'}")
    ids = tuple(line.split()[0] for line in path.read_text().splitlines() if line.strip())
    if not ids:
        raise ValueError(f"the split list {path} is empty")
    return ids
