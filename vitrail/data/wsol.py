"""Images by the metadata of wsolevaluation: lists of images, their classes, sizes and boxes, as text.

    metadata/[<NAME>/]<split>/image_ids.txt     a path a line, below the folder of the images
    .../class_labels.txt                        path,label; labels count from 0
    .../image_sizes.txt                         path,width,height: pixels that the boxes are in
    .../localization.txt                        path,x0,y0,x1,y1; several lines for several boxes, or none; of
                                                OpenImages path,mask,ignore, see `vitrail.data.wsol_masks`

with `metadata` or `wsol_metadata` in the root. Splits are called train, val and test there, and in the paper
train-weaksup (labels alone), train-fullsup (boxes to choose thresholds with) and test. An image that is smaller or
larger than image_sizes.txt says has its boxes scaled along. Boxes are taken as half-open, as the evaluation that came
with them widens them by a pixel in its own convention. Lines that name no image are told, once.

Source: Choe et al. 2020, "Evaluating Weakly Supervised Object Localization Methods Right" (arXiv 2001.07437).
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from vitrail.contracts import Sample
from vitrail.data.box_file import FAR, Box, four_numbers
from vitrail.data.fingerprint import chosen, fingerprint
from vitrail.data.folders import position
from vitrail.data.images import UnreadableImage, open_image
from vitrail.data.named_lines import of_images, read_named_lines
from vitrail.data.wsol_masks import Masks, by_image, is_mask_line, parse_mask_line, united

NAMES = {"train-weaksup": "train", "train-fullsup": "val"}
"""Splits as the paper calls them, and their folders."""
FOLDERS = ("wsol_metadata", "metadata")


class Wsol:
    """Images and boxes of one split. Fulfills `vitrail.contracts.ImageSet`.

    Args:
        root: the folder that holds the metadata.
        split: "train", "val", "test", or as the paper calls them; in whatever folder of that name the metadata has.
        images: what paths are relative to; None looks for the first image in `root`, `root/images`, `root/dataset` and
            `root/dataset/NAME` of metadata/NAME/test.
        classes: impose names, as those of a training set; None takes the folders that images of a class lie in.

    Attributes: `classes` ("class 7" where no folder names one), `labels` int64 `[N]`, `has_boxes`, `has_masks`.

    Raises:
        ValueError: no such metadata or split, an image without a label or whose file is not there, lines that cannot
            be read, boxes or masks of none of the images, or other names for classes than `classes` has.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "test",
        images: str | Path | None = None,
        classes: Sequence[str] | None = None,
    ) -> None:
        self.root, self.split = Path(root), NAMES.get(split, split)
        self.metadata = _find(self.root, self.split)
        self._paths = [line for _, line in _lines(self.metadata / "image_ids.txt")]
        if not self._paths:
            raise ValueError(f"{self.metadata / 'image_ids.txt'} lists no image")
        labels = {path: int(values[0]) for path, values in _rows(self.metadata / "class_labels.txt", 1)}
        missing = [path for path in self._paths if path not in labels]
        if missing:
            where = self.metadata / "class_labels.txt"
            raise ValueError(f"{where} has no label for {len(missing)} images: {missing[0]}")
        self.labels = np.array([labels[path] for path in self._paths], np.int64)
        self.folder = _images(self.root, self._paths, _set_name(self.metadata)) if images is None else Path(images)
        self.classes: tuple[str, ...] | None = _named(self._paths, self.labels, classes)
        self._boxes: dict[str, list[Box]] = {}
        self._masks: dict[str, Masks] = {}
        self._sizes: dict[str, tuple[float, ...]] = {}
        localization = self.metadata / "localization.txt"
        self.has_masks = localization.is_file() and has_mask_lines(localization)
        self.has_boxes = localization.is_file() and not self.has_masks
        known = dict.fromkeys(self._paths)
        if self.has_masks:
            masks = of_images(read_named_lines(localization, parse_mask_line), known, "image_ids.txt")
            self._masks = by_image(masks)
            self.mask_folder = _mask_folder(self.folder, self.root, masks[0].value.objects[0])
        if self.has_boxes:
            for line in of_images(read_named_lines(localization, parse_wsol_line), known, "image_ids.txt"):
                self._boxes.setdefault(line.name, []).append(line.value)
            self._sizes = read_sizes(self.metadata)
        self._digest: str | None = None

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Sample:
        """Decode an image. Raises `UnreadableImage`."""
        index = position(index, len(self))
        name, path, label = self._paths[index], self.path(index), int(self.labels[index])
        image = open_image(path)
        if name in self._masks:
            return Sample(image, label, united(self.mask_folder, self._masks[name], image.size), None, path)
        if not self.has_boxes:
            return Sample(image, label, path=path)
        boxes = np.array(self._boxes.get(name, []), np.float64).reshape(-1, 4)
        width, height = self._sizes.get(name, image.size)
        if min(width, height) < 1:
            raise UnreadableImage(path, f"image_sizes.txt says that it is {width:g} x {height:g} pixels")
        boxes *= np.array([image.width / width, image.height / height] * 2)
        return Sample(image, label, None, boxes.astype(np.float32), path, np.full(len(boxes), 1 + label, np.int64))

    def path(self, index: int) -> str:
        """Where an image lies."""
        return str(self.folder / self._paths[position(index, len(self))])

    def relative_path(self, index: int) -> str:
        """The path as image_ids.txt has it."""
        return self._paths[position(index, len(self))]

    def digest(self) -> str:
        """16 hex digits over classes, paths, labels, boxes and their sizes, and a sample of the files' content."""
        if self._digest is None:
            digest = hashlib.sha256(repr((self.classes, self.split)).encode())
            for index, name in enumerate(self._paths):
                mark = fingerprint(self.path(index), chosen(index, len(self)))
                known: tuple[object, ...] = (self._boxes.get(name), self._sizes.get(name))
                if name in self._masks:
                    files = [str(self.mask_folder / each) for part in self._masks[name] for each in part]
                    known = (self._masks[name], [fingerprint(each, chosen(index, len(self))) for each in files])
                digest.update(f"{name}\0{self.labels[index]}\0{mark}\0{known}\n".encode())
            self._digest = digest.hexdigest()[:16]
        return self._digest


def has_mask_lines(localization: Path) -> bool:
    """Whether a file localization.txt names masks instead of boxes, by its first line."""
    return any(is_mask_line(line) for _, line in itertools.islice(_lines(localization), 1))


def parse_wsol_line(line: str) -> tuple[str, Box]:
    """`<path>,x0,y0,x1,y1` -> path and box; paths may hold commas. Raises `ValueError`."""
    path, *values = line.rsplit(",", 4)
    if len(values) < 4:
        raise ValueError("expected a path and 4 numbers with commas")
    return path, four_numbers(values, "a path and 4 numbers with commas")


def read_sizes(metadata: Path) -> dict[str, tuple[float, ...]]:
    """Width and height that boxes are in, by path; empty where there is no image_sizes.txt. Raises `ValueError`."""
    path = metadata / "image_sizes.txt"
    return dict(_rows(path, 2)) if path.is_file() else {}


def wsol_splits(root: str | Path) -> dict[str, Path]:
    """The splits that the metadata has, by their folders' names; empty where there is none.

    Raises:
        ValueError: metadata of several data sets in one root.
    """
    found: dict[str, Path] = {}
    for folder in (Path(root) / name for name in FOLDERS):
        for place in sorted(folder.glob("**/class_labels.txt")):
            if not (place.parent / "image_ids.txt").is_file():
                continue
            if place.parent.name in found:
                raise ValueError(
                    f"{folder} has metadata of several data sets ({found[place.parent.name]}, {place.parent}); give "
                    "each data set a root of its own with metadata/<split>"
                )
            found[place.parent.name] = place.parent
    return found


def is_wsol(root: Path) -> bool:
    """Whether a folder has metadata of wsolevaluation."""
    return any(next((root / name).glob("**/class_labels.txt"), None) is not None for name in FOLDERS)


def _find(root: Path, split: str) -> Path:
    splits = wsol_splits(root)
    if split not in splits:
        there = ", ".join(splits) or "none"
        raise ValueError(
            f"{root} has no metadata of wsolevaluation for the split {split!r} (there are: {there}); put image_ids.txt "
            f"and class_labels.txt into metadata/{split}"
        )
    return splits[split]


def _images(root: Path, paths: list[str], name: str) -> Path:
    """What paths are relative to; `name` is the data set's, where the metadata has a folder for it."""
    places = [root, root / "images", root / "dataset", *([root / name, root / "dataset" / name] if name else [])]
    found = next((place for place in places if (place / paths[0]).is_file()), None)
    if found is None:
        looked = ", ".join(map(str, places))
        raise ValueError(
            f"{paths[0]} of image_ids.txt is in none of {looked}; move it there, or in Python pass images="
        )
    return found


def _set_name(metadata: Path) -> str:
    """`OpenImages` of metadata/OpenImages/test; empty for metadata/test."""
    above = metadata.parent.name
    return "" if above in FOLDERS else above


def _mask_folder(folder: Path, root: Path, first: str) -> Path:
    """What masks' paths are relative to."""
    places = (folder, root, root / "masks")
    found = next((place for place in places if (place / first).is_file()), None)
    if found is None:
        looked = ", ".join(map(str, dict.fromkeys(places)))
        raise ValueError(f"the mask {first} of localization.txt is in none of {looked}; unpack the masks there")
    return found


def _named(paths: list[str], labels: np.ndarray, given: Sequence[str] | None) -> tuple[str, ...]:
    """Class names by the folders of their images, where each class has one folder and each folder one class."""
    homes: dict[int, set[str]] = {}
    for path, label in zip(paths, labels.tolist(), strict=True):
        homes.setdefault(label, set()).add(path.rsplit("/", 2)[-2] if "/" in path else "")
    every = [home for each in homes.values() for home in each]
    clear = len(every) == len(homes) == len(set(every)) and "" not in every
    names = {label: next(iter(each)) for label, each in homes.items()} if clear else {}
    if given is None:
        return tuple(names.get(label, f"class {label}") for label in range(max(homes) + 1))
    if max(homes) >= len(given):
        raise ValueError(f"the metadata has the label {max(homes)}, and only {len(given)} classes are known")
    # Folders that are the labels' numbers, and names that were given out for lack of any, name no class.
    by_number = all(name.isdecimal() and int(name) == label for label, name in names.items())
    nameless = all(name == f"class {label}" for label, name in enumerate(given))
    wrong = [] if by_number or nameless else [label for label, name in sorted(names.items()) if given[label] != name]
    if wrong:
        raise ValueError(
            f"label {wrong[0]} of the metadata is {names[wrong[0]]!r}, and class {wrong[0]} of the training images is "
            f"{given[wrong[0]]!r}; {len(wrong)} classes differ, so labels would mean something else"
        )
    return tuple(given)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1):
        if line.strip():
            yield number, line.strip()


def _rows(path: Path, count: int) -> Iterator[tuple[str, tuple[float, ...]]]:
    """Lines `<path>,<number>,...` with so many numbers; paths may hold commas."""
    if not path.is_file():
        raise ValueError(f"there is no {path}")
    for number, line in _lines(path):
        parts = line.rsplit(",", count)
        try:
            values = tuple(float(part) for part in parts[1:])
        except ValueError:
            values = ()
        if len(values) != count or not all(abs(value) < FAR for value in values):
            raise ValueError(f"{path}:{number}: expected a path and {count} numbers with commas, got {line!r}")
        yield parts[0], values
