"""Images that a published list names, with one label each: what the fine-grained sets and DomainNet have in common."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vitrail.contracts import Sample
from vitrail.data.fingerprint import chosen, fingerprint
from vitrail.data.folders import position
from vitrail.data.images import open_image


class ListedImages:
    """Images with one class each, in the order of their list. Fulfills `vitrail.contracts.ImageSet`.

    Args:
        name: of the data set, for people and for protocol cards.
        root: the data set's folder.
        split: which images these are.
        folder: what the paths are below of.
        paths: with forward slashes, one an image.
        labels: one an image, in [0, len(classes)).
        classes: names of the labels 0, 1, ...

    Attributes: the arguments, `labels` as int64 `[N]`.

    Raises:
        ValueError: no images, no folder, as many labels as there are not, or a label without a class.
    """

    has_boxes = False
    has_masks = False

    def __init__(
        self,
        name: str,
        root: Path,
        split: str,
        folder: Path,
        paths: Sequence[str],
        labels: Sequence[int],
        classes: Sequence[str],
    ) -> None:
        self.name, self.root, self.split, self.folder = name, root, split, folder
        self.classes: tuple[str, ...] | None = tuple(classes)
        self.labels = np.asarray(labels, np.int64)
        self._paths = list(paths)
        self._digest: str | None = None
        if not folder.is_dir():
            raise ValueError(f"{name}: there is no folder {folder} of its images; unpack them there")
        if not self._paths or len(self._paths) != len(self.labels):
            raise ValueError(f"{name}, {split}: {len(self._paths)} images and {len(self.labels)} labels are listed")
        if self.labels.min() < 0 or self.labels.max() >= len(classes):
            raise ValueError(
                f"{name}, {split}: labels run from {self.labels.min()} to {self.labels.max()}, and there are "
                f"{len(classes)} classes, counted from 0"
            )

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Sample:
        """Decode an image. Raises `UnreadableImage`."""
        index = position(index, len(self))
        path = self.path(index)
        return Sample(open_image(path), int(self.labels[index]), path=path)

    def path(self, index: int) -> str:
        """Where an image lies."""
        return str(self.folder / self._paths[position(index, len(self))])

    def relative_path(self, index: int) -> str:
        """The path below `folder`, with forward slashes."""
        return self._paths[position(index, len(self))]

    def digest(self) -> str:
        """16 hex digits over classes, split, paths, labels, and sizes and a sample of the content of files."""
        if self._digest is None:
            digest = hashlib.sha256(repr((self.classes, self.split)).encode())
            for index, path in enumerate(self._paths):
                digest.update(f"{path}\0{fingerprint(self.path(index), chosen(index, len(self)))}\n".encode())
            digest.update(self.labels.astype("<i8").tobytes())
            self._digest = digest.hexdigest()[:16]
        return self._digest


def side_of(split: str, name: str) -> str:
    """`train` or `val` of a set that has but two sides; `test` is another word for `val`. `ValueError` for the rest."""
    known = {"train": "train", "val": "val", "test": "val"}
    if split not in known:
        raise ValueError(f'there is no split {split!r}; {name} has "train", and "val", its published test images')
    return known[split]


def find_below(root: str | Path, folder: str, wanted: Sequence[str]) -> Path | None:
    """`root`, or `folder` in it: the one that holds all that is wanted; None where neither does."""
    places = (Path(root), Path(root) / folder)
    return next((place for place in places if all((place / name).exists() for name in wanted)), None)
