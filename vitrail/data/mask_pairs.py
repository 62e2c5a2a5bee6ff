"""Images, each with a PNG of class ids beside it: what COCO-Stuff, COCO's semantic maps and Cityscapes share."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vitrail.contracts import Sample
from vitrail.data.fingerprint import chosen, fingerprint
from vitrail.data.folders import position
from vitrail.data.images import UnreadableImage, open_image, open_mask

IGNORED = 255
"""Mask value of pixels that count for nothing."""
STRANGE = 254
"""In a table: values of a file that mean nothing there."""


class Pair(NamedTuple):
    """An image and its mask."""

    image: Path
    mask: Path


class MaskPairs:
    """Images with a mask of class ids. Fulfills `vitrail.contracts.ImageSet`.

    Args:
        root: what paths in errors and digests are relative to.
        split: as it was asked for.
        name: of the data set, for protocol cards.
        pairs: images and their masks.
        classes: names; the id of classes[k - 1] is k.
        table: uint8 `[256]`, the id of each value in a file: 1 to C, 0 or `IGNORED` for none, or `STRANGE`.
        stuff: names of classes that are stuff, where that is known.

    Raises:
        ValueError: no image, images without their mask, or more than 253 classes.
    """

    has_boxes, background = False, False

    def __init__(
        self,
        root: Path,
        split: str,
        name: str,
        pairs: Sequence[Pair],
        classes: Sequence[str],
        table: np.ndarray,
        stuff: frozenset[str] | None = None,
    ) -> None:
        if len(classes) >= STRANGE:
            raise ValueError(f"{len(classes)} classes do not fit into masks of 8 bits; there are at most {STRANGE - 1}")
        self.root, self.split, self.name, self.stuff = root, split, name, stuff
        self.classes: tuple[str, ...] | None = tuple(classes)
        self._pairs, self._table = list(pairs), table.astype(np.uint8)
        self._digest: str | None = None
        missing = _missing(root, self._pairs)
        if missing:
            shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
            raise ValueError(f"{len(missing)} of {len(self._pairs)} images in {root} have no mask: {shown}")

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> Sample:
        """Decode image and mask. Raises `UnreadableImage`, also for a mask of another size or unknown ids."""
        image_path, mask_path = self.paths(index)
        image, values = open_image(image_path), open_mask(mask_path)
        if values.shape != (image.height, image.width):
            raise UnreadableImage(
                mask_path,
                f"mask of {values.shape[1]} x {values.shape[0]} for an image of {image.width} x {image.height}",
            )
        mask = self._table[values]
        strange = np.unique(values[mask == STRANGE])
        if strange.size:
            known = np.flatnonzero(self._table != STRANGE)
            raise UnreadableImage(
                mask_path, f"holds the values {strange.tolist()[:5]}, and known are {_ranges(known.tolist())}"
            )
        return Sample(image, None, mask, None, str(image_path))

    def paths(self, index: int) -> Pair:
        """Where the image and the mask lie."""
        return self._pairs[position(index, len(self))]

    def digest(self) -> str:
        """16 hex digits over the classes, the paths, and sizes and a sample of the content of all files."""
        if self._digest is None:
            digest = hashlib.sha256(repr((self.split, self.classes)).encode() + self._table.tobytes())
            for index, pair in enumerate(self._pairs):
                marks = [fingerprint(path, chosen(index, len(self))) for path in pair]
                digest.update(f"{pair.image.relative_to(self.root).as_posix()} {marks}\n".encode())
            self._digest = digest.hexdigest()[:16]
        return self._digest


def table_of(ids: dict[int, int]) -> np.ndarray:
    """A table as `MaskPairs` takes it, of value -> id; 255 is ignored, what is not in the dictionary is strange."""
    table = np.full(256, STRANGE, np.uint8)
    table[IGNORED] = IGNORED
    for value, number in ids.items():
        table[value] = number
    return table


def _missing(root: Path, pairs: Sequence[Pair]) -> list[str]:
    """Masks that are not there. Lists each folder once, which is faster than asking for a hundred thousand files."""
    there: dict[Path, set[str]] = {}
    for folder in {pair.mask.parent for pair in pairs}:
        there[folder] = set(os.listdir(folder)) if folder.is_dir() else set()
    return [str(mask.relative_to(root)) for _, mask in pairs if mask.name not in there[mask.parent]]


def _ranges(values: Sequence[int]) -> str:
    """`0..10, 255` of sorted numbers."""
    spans: list[list[int]] = []
    for value in values:
        if spans and value == spans[-1][1] + 1:
            spans[-1][1] = value
        else:
            spans.append([value, value])
    return ", ".join(f"{a}..{b}" if b > a else str(a) for a, b in spans)
