"""Folders of images, with or without class folders, with or without splits.

Layouts, all with any depth below the last folder named:

    root/train/<class>/...  root/val/<class>/...    `ImageFolder(root, "train")`; for other names see `SPLITS`
    root/<class>/...                                `ImageFolder(root)`
    root/...                                        `ImageFolder(root)`, no labels

Names that begin with a dot are ignored, extensions are read in any case, and the order is that of the sorted
class names, then of the sorted paths within a class, on every machine.

A boxes file has lines `<path below the split's folder> x0 y0 x1 y1`, see `vitrail.data.box_file`: the last pixels are
inside the box. Samples carry them half-open; their class is the image's. Lines that name no image are told, once.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from vitrail.contracts import Sample
from vitrail.data.box_file import parse_folder_line
from vitrail.data.fetched import fetch_hint
from vitrail.data.fingerprint import chosen, fingerprint
from vitrail.data.images import EXTENSIONS, open_image
from vitrail.data.named_lines import of_images, read_named_lines

Labels = Literal["auto", "folders", "none"]

SPLITS = {"train": ("train", "training"), "val": ("val", "validation", "valid", "test")}
"""Names that a split's folder may have; the first that is there is taken, for training and inspection alike."""


class ImageFolder:
    """The images below a folder. Fulfills `vitrail.contracts.ImageSet`.

    Args:
        root: the folder.
        split: name of a folder in `root`, such as "train" or "val"; None for `root` itself.
        labels: "folders" takes the names of the sub-folders as classes, "none" ignores them, "auto" takes
            them where at least two of them hold images.
        classes: impose a list of classes (that of the training split), so that labels mean the same.
        boxes: a file of boxes, see the module.

    Attributes:
        classes: class names in the order of the labels, or None.
        labels: int64 `[N]`, or None.
        folder: what was searched, `root` or the split's folder.

    Raises:
        ValueError: no such folder, no images, no class folders where labels are asked for, or class folders
            that are not in `classes`; a boxes file that has a wrong line, or names none of the images.
    """

    has_masks = False

    def __init__(
        self,
        root: str | Path,
        split: str | None = None,
        labels: Labels = "auto",
        classes: Sequence[str] | None = None,
        boxes: str | Path | None = None,
    ) -> None:
        self.root, self.split = Path(root), split
        self.folder = _find(Path(root), split, labels)
        groups = scan(self.folder)
        loose = groups.pop("", [])
        labeled = _is_labeled(self.folder, groups, loose, labels, classes)
        self.classes: tuple[str, ...] | None = None
        self.labels: np.ndarray | None = None
        if labeled:
            if loose:
                warnings.warn(
                    f"{len(loose)} image{'s' * (len(loose) > 1)} beside the class folders of {self.folder}: left out",
                    stacklevel=2,
                )
            self.classes = _agree(self.folder, groups, classes)
            numbers = {name: number for number, name in enumerate(self.classes)}
            self.labels = np.repeat([numbers[name] for name in groups], [len(paths) for paths in groups.values()])
            self.labels = self.labels.astype(np.int64)
            paths = [path for group in groups.values() for path in group]
        else:
            paths = sorted([*loose, *(path for group in groups.values() for path in group)])
        if not paths:
            raise ValueError(_nothing(self.folder))
        self._paths = _Paths(paths)
        self._boxes = _Boxes(Path(boxes), self._paths, str(self.folder)) if boxes is not None else None
        self.has_boxes = self._boxes is not None
        self._digest: str | None = None

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Sample:
        """Decode an image. Raises `UnreadableImage`."""
        index = position(index, len(self))
        path = self.path(index)
        image = open_image(path)
        label = None if self.labels is None else int(self.labels[index])
        boxes = None if self._boxes is None else self._boxes.of(index)
        named = None if boxes is None or label is None else np.full(len(boxes), 1 + label, np.int64)
        return Sample(image, label, None, boxes, path, named)

    def path(self, index: int) -> str:
        """Where an image lies."""
        return os.path.join(self.folder, self._paths[position(index, len(self))])

    def relative_path(self, index: int) -> str:
        """The path below `folder`, with forward slashes."""
        return self._paths[position(index, len(self))]

    def counts(self) -> dict[str, int]:
        """Images of each class; empty without classes."""
        if self.classes is None or self.labels is None:
            return {}
        found = np.bincount(self.labels, minlength=len(self.classes))
        return {name: int(count) for name, count in zip(self.classes, found)}

    def digest(self) -> str:
        """16 hex digits over relative paths, sizes, a sample of the content, classes and boxes; times do not count.

        Reads from the files once, see `vitrail.data.fingerprint`: 12,500 small ones take about 0.3 s.
        """
        if self._digest is None:
            digest = hashlib.sha256(repr(self.classes).encode())
            for index in range(len(self)):
                mark = fingerprint(self.path(index), content=chosen(index, len(self)))
                digest.update(f"{self._paths[index]}\0{mark}\n".encode(errors="surrogateescape"))
            if self._boxes is not None:
                digest.update(self._boxes.values.tobytes() + self._boxes.owners.tobytes())
            self._digest = digest.hexdigest()[:16]
        return self._digest


def scan(folder: str | Path) -> dict[str, list[str]]:
    """Relative paths of the images below a folder by its sub-folders, sorted; those right in it under "".

    Reads directories alone, never a file's size or content.
    """
    groups: dict[str, list[str]] = {}
    folders: list[str] = []
    for entry in _entries(str(folder)):
        if entry.is_dir():
            folders.append(entry.name)
        elif _is_image(entry.name):
            groups.setdefault("", []).append(entry.name)
    groups = {name: sorted(paths) for name, paths in groups.items()}
    for name in sorted(folders):
        paths = sorted(_below(os.path.join(folder, name), name, ()))
        if paths:
            groups[name] = paths
    return groups


def split_folder(root: str | Path, split: str) -> Path | None:
    """The folder of a split below `root`, under its own or a usual other name; None where there is none."""
    names = (split, *SPLITS.get(split, ()))
    return next((Path(root) / name for name in names if (Path(root) / name).is_dir()), None)


def position(index: int, count: int) -> int:
    """The place that an index means, counted from the end where negative. Raises `IndexError`."""
    if not -count <= index < count:
        raise IndexError(f"index {index} in a data set of {count} images")
    return index + count if index < 0 else index


def _find(root: Path, split: str | None, labels: Labels) -> Path:
    if not root.is_dir():
        raise ValueError(f"there is no folder {str(root)!r}")
    if labels not in ("auto", "folders", "none"):
        raise ValueError(f'labels is "auto", "folders" or "none", not {labels!r}')
    if split is not None:
        found = split_folder(root, split)
        if found is None:
            there = sorted(entry.name for entry in _entries(str(root)) if entry.is_dir())
            raise ValueError(f"{root} has no folder for the split {split!r}; it has {_some(there) or 'no folders'}")
        return found
    found_splits = {name: split_folder(root, name) for name in SPLITS}
    if labels != "none" and all(found_splits.values()):
        raise ValueError(
            f"{root} has the splits train and val, which are no classes; "
            'give split="train", or labels="none" for all images'
        )
    return root


def _is_labeled(
    folder: Path,
    groups: dict[str, list[str]],
    loose: list[str],
    labels: Labels,
    classes: Sequence[str] | None,
) -> bool:
    if labels == "none":
        return False
    if not groups and not loose:
        raise ValueError(_nothing(folder))
    if (labels == "folders" or classes is not None) and not groups:
        raise ValueError(
            f"{folder} holds {len(loose)} images but no class folders; put the images into one folder "
            'per class, or pass labels="none" to use them without labels'
        )
    return labels == "folders" or classes is not None or len(groups) > 1


def _agree(folder: Path, groups: dict[str, list[str]], classes: Sequence[str] | None) -> tuple[str, ...]:
    if classes is None:
        return tuple(groups)
    strangers = [name for name in groups if name not in set(classes)]
    if strangers:
        raise ValueError(
            f"{folder} has {len(strangers)} classes that the training set ({len(classes)} classes) lacks: "
            f"{_some(strangers)}; add training images of them, or remove these folders"
        )
    return tuple(classes)


def _nothing(folder: Path) -> str:
    others: Counter[str] = Counter()
    for _, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        others.update(os.path.splitext(name)[1].lower() or "no extension" for name in names)
        if sum(others.values()) > 10_000:
            break
    there = ", ".join(f"{count} of {kind}" for kind, count in others.most_common(5))
    what = f"; the files there are {there}" if there else ""
    return f"{folder} has no images (.jpg, .png, .webp, .tif, ...) at any depth{what}{fetch_hint(folder.name)}"


def _entries(folder: str) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.name.startswith("."):
                yield entry


def _below(folder: str, prefix: str, above: tuple[tuple[int, int], ...]) -> list[str]:
    # `entry.is_dir` asks the disk for links alone. Links can make loops: folders are told by their numbers.
    status = os.stat(folder)
    own = (status.st_dev, status.st_ino)
    if own in above and own != (0, 0):
        return []
    found: list[str] = []
    for entry in _entries(folder):
        if entry.is_dir():
            found += _below(entry.path, f"{prefix}/{entry.name}", (*above, own))
        elif _is_image(entry.name):
            found.append(f"{prefix}/{entry.name}")
    return found


def _is_image(name: str) -> bool:
    return name[name.rfind(".") :].lower() in EXTENSIONS


def _some(names: Sequence[str], most: int = 10) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


class _Paths:
    """Many strings as two arrays: a list of a million would be copied into every worker, page by page."""

    def __init__(self, paths: Sequence[str]) -> None:
        encoded = [os.fsencode(path) for path in paths]
        self._bytes = np.frombuffer(b"".join(encoded), np.uint8)
        self._ends = np.cumsum([len(path) for path in encoded], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> str:
        start = self._ends[index - 1] if index else 0
        return os.fsdecode(self._bytes[start : self._ends[index]].tobytes())


class _Boxes:
    """Boxes by the image that they belong to."""

    def __init__(self, path: Path, paths: _Paths, where: str) -> None:
        places = {paths[index]: index for index in range(len(paths))}
        lines = of_images(read_named_lines(path, parse_folder_line), places, where)
        owners, values = [places[line.name] for line in lines], [line.value for line in lines]
        order = np.argsort(owners, kind="stable")
        self.owners = np.asarray(owners, np.int64)[order]
        self.values = np.asarray(values, np.float32)[order]

    def of(self, index: int) -> np.ndarray | None:
        first, last = np.searchsorted(self.owners, [index, index + 1])
        return self.values[first:last].copy() if first < last else None
