"""Images with any number of labels each: a folder with a table, or any set whose boxes say what they hold.

    root/labels.csv  root/...                                              `MultiLabelFolder(root)`
    root/train/labels.csv  root/train/...  root/val/labels.csv  ...        `MultiLabelFolder(root, "train")`

The table is CSV in UTF-8. Its first line is `image,labels`; each further one names an image below the table's folder
and its labels, separated by semicolons, in any order. An image that shows none of the classes has the label `-`.

    image,labels
    park/0001.jpg,dog;person
    park/0002.jpg,-

Classes are the labels that occur, sorted.
"""

from __future__ import annotations

import csv
import hashlib
import os
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from vitrail.contracts import ImageSet, Sample
from vitrail.data.fingerprint import chosen, fingerprint
from vitrail.data.folders import position, scan, split_folder
from vitrail.data.images import open_image

TABLE = "labels.csv"
"""Name of the table, in the folder of the images that it is about."""

NOTHING = "-"
"""What stands for the labels of an image that has none."""


class MultiLabelFolder:
    """The images that a table names. Fulfills `vitrail.contracts.ImageSet`; samples carry `labels`.

    Args:
        root: the folder.
        split: name of a folder in `root`, such as "train" or "val", that holds the table; None for `root` itself.
        classes: impose a list of classes (that of the training split), so that labels mean the same.

    Attributes:
        classes: class names in the order of the labels.
        folder: what holds the table, `root` or the split's folder.

    Images in the folder that the table does not name are left out, with a warning.

    Raises:
        ValueError: no folder or table, a line that cannot be read, labels that are empty or not in `classes`, an image
            that is named twice or is not there.
    """

    multi_label = True
    has_boxes = has_masks = False

    def __init__(self, root: str | Path, split: str | None = None, classes: Sequence[str] | None = None) -> None:
        self.root, self.split = Path(root), split
        self.folder = _folder(Path(root), split)
        rows = _rows(self.folder / TABLE)
        self.classes: tuple[str, ...] | None = _classes(rows, self.folder / TABLE, classes)
        numbers = {name: number for number, name in enumerate(self.classes)}
        self._paths = tuple(rows)
        self._labels = tuple(tuple(sorted(numbers[name] for name in names)) for names in rows.values())
        self._check_files()
        self._digest: str | None = None

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Sample:
        """Decode an image. Raises `UnreadableImage`."""
        index = position(index, len(self))
        path = self.path(index)
        return Sample(open_image(path), path=path, labels=self._labels[index])

    def path(self, index: int) -> str:
        """Where an image lies."""
        return os.path.join(self.folder, self._paths[position(index, len(self))])

    def counts(self) -> dict[str, int]:
        """Images of each class; an image counts in each of its classes."""
        found = Counter(label for labels in self._labels for label in labels)
        return {name: found[number] for number, name in enumerate(self.classes or ())}

    def digest(self) -> str:
        """16 hex digits over classes, labels, relative paths, sizes and a sample of the content; times do not count."""
        if self._digest is None:
            digest = hashlib.sha256(repr(self.classes).encode())
            for index, (name, labels) in enumerate(zip(self._paths, self._labels, strict=True)):
                mark = fingerprint(self.path(index), content=chosen(index, len(self)))
                digest.update(f"{name}\0{mark}\0{labels}\n".encode(errors="surrogateescape"))
            self._digest = digest.hexdigest()[:16]
        return self._digest

    def _check_files(self) -> None:
        there = {path for paths in scan(self.folder).values() for path in paths}
        # A name may lead where the search does not: out of the folder, or over a hidden one.
        missing = [path for path in self._paths if path not in there and not (self.folder / path).is_file()]
        if missing:
            raise ValueError(
                f"{len(missing)} of {len(self)} images that {self.folder / TABLE} names are not below {self.folder}: "
                f"{_some(missing)}; names are paths from that folder, such as cats/1.jpg"
            )
        if others := sorted(there - set(self._paths)):
            warnings.warn(f"{len(others)} images below {self.folder} are not in {TABLE}: left out", stacklevel=3)


class ObjectLabels:
    """Any set with boxes of known classes, seen as one whose images have labels: what their boxes hold.

    Fulfills `vitrail.contracts.ImageSet`. An image without a box has no label. Reading a sample whose boxes have no
    classes raises `ValueError`.
    """

    multi_label = True

    def __init__(self, data: ImageSet) -> None:
        """`ValueError` for a set without class names."""
        if not data.classes:
            raise ValueError(f"{type(data).__name__} has no class names, so its boxes say nothing about classes")
        self.data, self.classes = data, data.classes
        self.root, self.split = getattr(data, "root", None), getattr(data, "split", None)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Sample:
        sample = self.data[index]
        if sample.box_labels is None:
            raise ValueError(
                f"nothing says what the boxes of {sample.path or f'image {index}'} hold; give a set whose boxes have "
                f"classes, such as COCO's, or a table {TABLE} beside the images"
            )
        return sample._replace(labels=tuple(sorted({int(number) - 1 for number in sample.box_labels})))

    def digest(self) -> str:
        """Of the set itself, marked as seen by its boxes' classes."""
        return hashlib.sha256(f"object labels {self.data.digest()}".encode()).hexdigest()[:16]


def is_multi_label(data: ImageSet) -> bool:
    """Whether the samples of a set have `labels`, any number of them, instead of one `label`."""
    return bool(getattr(data, "multi_label", False))


def has_table(root: str | Path) -> bool:
    """Whether a folder, or its folder of training images, has a table of labels."""
    train = split_folder(root, "train")
    return any((Path(place) / TABLE).is_file() for place in (root, train) if place is not None)


def _folder(root: Path, split: str | None) -> Path:
    if not root.is_dir():
        raise ValueError(f"there is no folder {str(root)!r}")
    folder = root if split is None else split_folder(root, split)
    if folder is None:
        raise ValueError(f"{root} has no folder for the split {split!r}")
    if not (folder / TABLE).is_file():
        raise ValueError(
            f"{folder} has no {TABLE}; write one with the first line `image,labels`, then `1.jpg,dog;person`"
        )
    return folder


def _rows(table: Path) -> dict[str, frozenset[str]]:
    """The labels of each image, in the table's order."""
    found: dict[str, frozenset[str]] = {}
    for number, name, words in _lines(table):
        labels = [word.strip() for word in words.split(";")]
        if not all(labels):
            raise ValueError(
                f"{table}:{number}: {name} has an empty label in {words!r}; separate labels by single semicolons, and "
                f"write {NOTHING} where the image shows none of the classes"
            )
        if NOTHING in labels and len(labels) > 1:
            raise ValueError(f"{table}:{number}: {name} has {NOTHING}, no label, beside others: {words!r}")
        if name in found:
            raise ValueError(f"{table}:{number}: {name} is named a second time; give all its labels in one line")
        found[name] = frozenset(labels) - {NOTHING}
    if not found:
        raise ValueError(f"{table} names no images")
    return found


def _lines(table: Path) -> Iterator[tuple[int, str, str]]:
    """Number, image and labels of each line."""
    with open(table, encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        header = [name.strip() for name in next(reader, [])]
        if header != ["image", "labels"]:
            raise ValueError(f"{table} begins with {','.join(header)!r}; its first line is `image,labels`")
        for row in reader:
            if not row:
                continue
            if len(row) != 2 or not row[0].strip():
                raise ValueError(
                    f"{table}:{reader.line_num}: expected `image,labels`, got {','.join(row)!r}; labels are separated "
                    "by semicolons, and a name with a comma stands in quotes"
                )
            yield reader.line_num, row[0].strip().replace("\\", "/"), row[1]


def _classes(rows: dict[str, frozenset[str]], table: Path, classes: Sequence[str] | None) -> tuple[str, ...]:
    found = sorted(frozenset().union(*rows.values()))
    if classes is None:
        if not found:
            raise ValueError(f"{table} gives none of its {len(rows)} images a label, so there are no classes")
        return tuple(found)
    strangers = [name for name in found if name not in set(classes)]
    if strangers:
        raise ValueError(
            f"{table} has {len(strangers)} classes that the training set ({len(classes)} classes) lacks: "
            f"{_some(strangers)}; add training images of them, or remove these labels"
        )
    return tuple(classes)


def _some(names: Sequence[str], most: int = 5) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
