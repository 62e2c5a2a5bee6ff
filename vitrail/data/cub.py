"""CUB-200-2011 as it was published: birds, one class and one box an image.

    images/<class>/<name>.jpg  images.txt  image_class_labels.txt  classes.txt  train_test_split.txt
    bounding_boxes.txt (<id> <x> <y> <width> <height>, pixels)  segmentations/<class>/<name>.png, a download of its own

directly in the root, or below it in `CUB_200_2011`. A box covers x up to x + width, half-open. Segmentations are shares
of annotators in 0 to 255; a pixel is the bird's where at least half of them say so.

Source: Wah et al. 2011, "The Caltech-UCSD Birds-200-2011 Dataset".
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from vitrail.contracts import Sample
from vitrail.data.box_file import Box, four_numbers
from vitrail.data.fingerprint import chosen, fingerprint
from vitrail.data.folders import position
from vitrail.data.images import UnreadableImage, open_image, open_mask
from vitrail.data.named_lines import of_images, read_named_lines

TABLES = ("images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt")
SPLITS = {"train": "1", "test": "0", "val": "0"}
"""What train_test_split.txt says; the set has no third split, and "val" is its test split."""


class Cub:
    """Images of birds. Fulfills `vitrail.contracts.ImageSet`.

    Args:
        root: the folder that holds images.txt, or one above it.
        split: "train" or "test"; "val" is the test split, too.

    Attributes: `classes` (names as in classes.txt, such as "001.Black_footed_Albatross"), `labels` int64 `[N]`,
    `has_boxes` (bounding_boxes.txt is there), `has_masks` (segmentations are there).

    Raises:
        ValueError: no such layout or split, a table that cannot be read, or images that a table lacks.
    """

    name = "CUB-200-2011"

    def __init__(self, root: str | Path, split: str = "train") -> None:
        if split not in SPLITS:
            raise ValueError(f'CUB has the splits "train" and "test" (also called "val"), not {split!r}')
        self.root, self.split = find_cub(root), "test" if split == "val" else split
        paths, labels = read_table(self.root, "images.txt", 1), read_table(self.root, "image_class_labels.txt", 1)
        sides, names = read_table(self.root, "train_test_split.txt", 1), read_table(self.root, "classes.txt", 1)
        ids = [each for each in paths if _of(sides, each, "train_test_split.txt")[0] == SPLITS[split]]
        if not ids:
            raise ValueError(f"{self.root / 'train_test_split.txt'} puts no image into the split {self.split!r}")
        numbers = {number: place for place, number in enumerate(names)}
        self.classes: tuple[str, ...] | None = tuple(" ".join(names[number]) for number in names)
        given = [_of(labels, each, "image_class_labels.txt")[0] for each in ids]
        strangers = sorted(set(given) - set(numbers))
        if strangers:
            raise ValueError(f"{self.root / 'classes.txt'} lacks the classes {', '.join(strangers[:5])}")
        self.labels = np.array([numbers[number] for number in given], np.int64)
        self._paths = [" ".join(paths[each]) for each in ids]
        self.folder = self.root / "images"
        self.has_boxes = (self.root / "bounding_boxes.txt").is_file()
        self.has_masks = (self.root / "segmentations").is_dir()
        self._boxes = _boxes(self.root, ids, paths) if self.has_boxes else None
        self._digest: str | None = None

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Sample:
        """Decode an image, and where it has one its mask, uint8 0 and 1. Raises `UnreadableImage`."""
        index = position(index, len(self))
        path, label = self.path(index), int(self.labels[index])
        image, mask = open_image(path), None
        if self.has_masks:
            place = (self.root / "segmentations" / self._paths[index]).with_suffix(".png")
            mask = (open_mask(place) >= 128).astype(np.uint8)
            if mask.shape != (image.height, image.width):
                raise UnreadableImage(place, f"a mask of {mask.shape} for an image of {image.size[::-1]}")
        if self._boxes is None:
            return Sample(image, label, mask, None, path)
        return Sample(image, label, mask, self._boxes[index : index + 1].copy(), path, np.array([1 + label]))

    def path(self, index: int) -> str:
        """Where an image lies."""
        return str(self.folder / self._paths[position(index, len(self))])

    def relative_path(self, index: int) -> str:
        """The path below `images`, with forward slashes."""
        return self._paths[position(index, len(self))]

    def digest(self) -> str:
        """16 hex digits over classes, split, paths, labels, boxes, and sizes and a sample of the content of files."""
        if self._digest is None:
            digest = hashlib.sha256(repr((self.classes, self.split, self.has_masks)).encode())
            for index, path in enumerate(self._paths):
                digest.update(f"{path}\0{fingerprint(self.path(index), chosen(index, len(self)))}\n".encode())
            digest.update(self.labels.tobytes() + (b"" if self._boxes is None else self._boxes.tobytes()))
            self._digest = digest.hexdigest()[:16]
        return self._digest


def find_cub(root: str | Path) -> Path:
    """The folder that holds the tables: `root`, or a folder right below it. Raises `ValueError` where there is none."""
    root = Path(root)
    below = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    for place in (root, *below):
        if all((place / name).is_file() for name in TABLES) and (place / "images").is_dir():
            return place
    raise ValueError(f"{root} does not have CUB's layout: a folder images beside {', '.join(TABLES)}")


def is_cub(root: Path) -> bool:
    """Whether a folder has CUB's layout."""
    try:
        find_cub(root)
    except ValueError:
        return False
    return True


def read_table(root: Path, name: str, least: int) -> dict[str, list[str]]:
    """Lines `<id> <word> ...`, by id, in the file's order."""
    found: dict[str, list[str]] = {}
    for number, line in enumerate((root / name).read_text(encoding="utf-8-sig").splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        if len(words) <= least:
            raise ValueError(f"{root / name}:{number}: expected an id and {least} more, got {line.strip()!r}")
        found[words[0]] = words[1:]
    return found


def _of(table: dict[str, list[str]], number: str, name: str) -> list[str]:
    if number not in table:
        raise ValueError(f"{name} has no line for image {number} of images.txt; copy the tables anew")
    return table[number]


def parse_cub_line(line: str) -> tuple[str, Box]:
    """`<id> <x> <y> <width> <height>` -> id and half-open box. Raises `ValueError`."""
    words = line.split()
    if len(words) < 5:
        raise ValueError("expected an id and 4 more, `<id> <x> <y> <width> <height>`")
    x, y, width, height = four_numbers(words[1:5], "`<id> <x> <y> <width> <height>`")
    return words[0], (x, y, x + width, y + height)


def _boxes(root: Path, ids: list[str], known: dict[str, list[str]]) -> np.ndarray:
    """Half-open boxes `[N, 4]` float32; of an id that stands there twice, the last."""
    found = read_named_lines(root / "bounding_boxes.txt", parse_cub_line)
    boxes = {line.name: line.value for line in of_images(found, known, "images.txt")}
    lacking = [each for each in ids if each not in boxes]
    if lacking:
        raise ValueError(f"bounding_boxes.txt has no line for image {lacking[0]} of images.txt; copy the tables anew")
    return np.array([boxes[each] for each in ids], np.float32)
