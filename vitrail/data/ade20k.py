"""ADE20K in both layouts: 150 classes as in the scene parsing benchmark, and the full set.

    images/{training,validation}/*.jpg  annotations/{training,validation}/*.png            scene parsing
    images/[ADE/]{training,validation}/.../ADE_*.jpg, ADE_*_seg.png, index_ade20k.pkl      full, as of 2021

directly in the root, or one folder below it. Scene parsing: mask values are class ids, 0 is what has no class; names
are read from objectInfo150.txt or .csv, whose column Stuff, where it is there, fills `stuff`. Full: the class id of a
pixel is R / 10 * 256 + G (integer division) of `_seg.png`, 0 is unlabeled, and names are in the index (or, one a line,
in classes.txt). Part masks are not read.

The index is a pickle, and a pickle can run anything. Only lists, dictionaries, text, numbers and NumPy arrays are let
through here; anything else is refused.

Source: Zhou et al. 2017, "Scene parsing through ADE20K dataset", and groups.csail.mit.edu/vision/datasets/ADE20K.
"""

from __future__ import annotations

import csv
import hashlib
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from vitrail.contracts import Sample
from vitrail.data.fingerprint import chosen, fingerprint
from vitrail.data.folders import position
from vitrail.data.images import UnreadableImage, open_image, open_mask
from vitrail.data.plain_pickle import PlainUnpickler

SCENE_CLASSES = 150
FOLDERS = {"train": "training", "val": "validation"}
Layout = Literal["scenes", "full"]


class Ade20k:
    """Images with a mask of class ids. Fulfills `vitrail.contracts.ImageSet`.

    Args:
        root: the folder that holds `images`, or one above it.
        split: "train" or "val".
        classes: names of the ids 1, 2, ...; None for those that the tree holds.

    Attributes: `layout` ("scenes" for the 150 classes, or "full"), `classes`, `stuff` (names of classes that are stuff,
    None where the tree does not say).

    Raises:
        ValueError: no such layout or split, images without their mask, or a full set without names.
    """

    has_boxes, background = False, False

    def __init__(self, root: str | Path, split: str = "val", classes: Sequence[str] | None = None) -> None:
        self.root, self.layout = find_ade20k(root)
        self.split = split
        self.name = "ADE20K, 150 classes" if self.layout == "scenes" else "ADE20K, full"
        self._pairs = _pairs(self.root, self.layout, split)
        self.stuff: frozenset[str] | None = None
        if classes is not None:
            names = tuple(classes)
        elif self.layout == "full":
            names = _full_names(self.root)
        else:
            names, self.stuff = _scene_names(self.root)
        self.classes: tuple[str, ...] | None = names
        self._digest: str | None = None

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> Sample:
        """Decode image and mask: uint8 of 150 classes, uint16 of the full set. Raises `UnreadableImage`."""
        image_path, mask_path = self.paths(index)
        image = open_image(image_path)
        mask = open_mask(mask_path) if self.layout == "scenes" else _full_mask(mask_path)
        if mask.shape != (image.height, image.width):
            raise UnreadableImage(
                mask_path,
                f"mask of {mask.shape[1]} x {mask.shape[0]} for an image of {image.width} x {image.height}",
            )
        most, known = int(mask.max()), len(self.classes or ())
        if most > known:
            raise UnreadableImage(mask_path, f"holds the class id {most} beyond {known} classes")
        return Sample(image, None, mask, None, str(image_path))

    def paths(self, index: int) -> tuple[Path, Path]:
        """Where the image and the mask lie."""
        return self._pairs[position(index, len(self))]

    def digest(self) -> str:
        """16 hex digits over the classes, the paths, and sizes and a sample of the content of all files."""
        if self._digest is None:
            digest = hashlib.sha256(repr((self.layout, self.split, self.classes)).encode())
            for index, pair in enumerate(self._pairs):
                marks = [fingerprint(path, chosen(index, len(self))) for path in pair]
                digest.update(f"{pair[0].relative_to(self.root).as_posix()} {marks}\n".encode())
            self._digest = digest.hexdigest()[:16]
        return self._digest


def find_ade20k(root: str | Path) -> tuple[Path, Layout]:
    """The folder that holds `images`, and its layout: `root`, or a folder right below it.

    Raises `ValueError` where there is none.
    """
    root = Path(root)
    below = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    for place in (root, *below):
        if any(
            (place / "annotations" / name).is_dir() and (place / "images" / name).is_dir() for name in FOLDERS.values()
        ):
            return place, "scenes"
        if any(next(folder.rglob("*_seg.png"), None) for name in FOLDERS for folder in _full_folders(place, name)):
            return place, "full"
    raise ValueError(
        f"{root} does not have a layout of ADE20K: neither annotations/validation beside images/validation, nor "
        "*_seg.png below images/ADE/validation"
    )


def is_ade20k(root: Path) -> bool:
    """Whether a folder has one of ADE20K's layouts."""
    try:
        find_ade20k(root)
    except ValueError:
        return False
    return True


def ade20k_splits(root: str | Path) -> list[str]:
    """Which of "train" and "val" are there. Raises `ValueError` as `find_ade20k`."""
    place, _ = find_ade20k(root)
    return [split for split in FOLDERS if _full_folders(place, split)]


def _full_folders(root: Path, split: str) -> list[Path]:
    name = FOLDERS.get(split, split)
    return [place for place in (root / "images" / "ADE" / name, root / "images" / name) if place.is_dir()]


def _pairs(root: Path, layout: Layout, split: str) -> list[tuple[Path, Path]]:
    name = FOLDERS.get(split, split)
    if layout == "scenes":
        images = sorted((root / "images" / name).glob("*.jpg"))
        pairs = [(path, root / "annotations" / name / f"{path.stem}.png") for path in images]
    else:
        images = sorted(path for folder in _full_folders(root, split) for path in folder.rglob("ADE_*.jpg"))
        pairs = [(path, path.with_name(f"{path.stem}_seg.png")) for path in images]
    if not pairs:
        raise ValueError(f"{root} has no images of the split {split!r} in images/{name}")
    missing = [str(mask.relative_to(root)) for _, mask in pairs if not mask.is_file()]
    if missing:
        shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise ValueError(f"{len(missing)} of {len(pairs)} images in {root} have no mask: {shown}")
    return pairs


def _full_mask(path: Path) -> np.ndarray:
    """Class ids `[H, W]` uint16 of red and green."""
    try:
        with Image.open(path) as picture:
            if picture.mode not in ("RGB", "RGBA"):
                raise UnreadableImage(path, f"a mask of the full set is RGB, this is {picture.mode}")
            pixels = np.asarray(picture)
    except (OSError, SyntaxError) as error:
        raise UnreadableImage(path, f"damaged mask ({error})") from error
    return (pixels[:, :, 0] // 10).astype(np.uint16) * 256 + pixels[:, :, 1]


def _scene_names(root: Path) -> tuple[tuple[str, ...], frozenset[str] | None]:
    """Names of the 150 classes, and those that are stuff; numbers for names where no file says them."""
    for folder in (root, root.parent):
        for name in ("objectInfo150.txt", "objectInfo150.csv"):
            if (folder / name).is_file():
                return _table(folder / name)
    return tuple(f"class {number}" for number in range(1, SCENE_CLASSES + 1)), None


def _table(path: Path) -> tuple[tuple[str, ...], frozenset[str] | None]:
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    mark = "\t" if lines and "\t" in lines[0] else ","
    rows = list(csv.DictReader(lines, delimiter=mark, skipinitialspace=True))
    try:
        names = {int(row["Idx"]): row["Name"].strip().replace(";", ", ") for row in rows}
        stuff = (
            {int(row["Idx"]) for row in rows if row["Stuff"].strip() == "1"} if rows and "Stuff" in rows[0] else None
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} is not the table of classes, with columns Idx and Name ({error!r})") from None
    if sorted(names) != list(range(1, len(names) + 1)) or len(names) < SCENE_CLASSES:
        raise ValueError(f"{path} names {len(names)} classes; it has to name 1 to {SCENE_CLASSES} without a gap")
    ordered = tuple(names[number] for number in sorted(names))
    return ordered, None if stuff is None else frozenset(names[number] for number in stuff)


def _full_names(root: Path) -> tuple[str, ...]:
    """Names of the full set's classes, of classes.txt or of the index."""
    if (root / "classes.txt").is_file():
        return tuple(line.strip() for line in (root / "classes.txt").read_text("utf-8").splitlines() if line.strip())
    path = root / "index_ade20k.pkl"
    if not path.is_file():
        raise ValueError(
            f"{root} names no classes: put index_ade20k.pkl there, or classes.txt with a name a line in the order of "
            "the ids 1, 2, ...; in Python, pass classes=[...]"
        )
    try:
        with path.open("rb") as file:
            index = PlainUnpickler(file).load()
        return tuple(str(name) for name in index["objectnames"])
    except (
        pickle.UnpicklingError,
        EOFError,
        KeyError,
        TypeError,
        AttributeError,
        IndexError,
        UnicodeDecodeError,
    ) as error:
        raise ValueError(f"{path} is no index of ADE20K that can be read here: {error}") from None
