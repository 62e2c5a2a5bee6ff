"""ImageNet-C and sets in its layout, Tiny-ImageNet-C among them: images that are corrupted already.

    root/CORRUPTION/SEVERITY/CLASS/*.JPEG            root/fog/3/n01440764/ILSVRC2012_val_00000293.JPEG
    root/GROUP/CORRUPTION/SEVERITY/CLASS/*.JPEG      as unpacked from noise.tar, blur.tar, weather.tar, digital.tar

The four further corruptions of extra.tar count in no mean; they are left out, which `notes` says. Not all corruptions,
severities and classes need be there: `missing` names the folders that are not, or hold no image.

Source: Hendrycks and Dietterich 2019 (arXiv 1903.12261).
"""

from __future__ import annotations

import copy
import hashlib
import os
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from itertools import accumulate
from pathlib import Path
from typing import Self

import numpy as np

from vitrail.contracts import Sample
from vitrail.data.corruptions import CORRUPTIONS, EXTRA, GROUPS, SEVERITIES
from vitrail.data.fingerprint import chosen, fingerprint
from vitrail.data.folders import ImageFolder, position
from vitrail.data.images import EXTENSIONS


class ImageNetC:
    """All images of all corruptions and severities, in the order of the paper's tables.

    Fulfills `vitrail.contracts.ImageSet`.

    Args:
        root: as the module says.

    Attributes:
        classes: all class names in the tree, sorted; fewer after `of_classes`.
        variants: (corruption, severity) of those that are there.
        missing: those of the 15 x 5 that are not, and those whose folder holds no image.
        empty: the latter.
        misspelt: folders with severities that are called by no corruption, see `misspelt_folders`.
        notes: what was left out, in words.

    Raises:
        ValueError: no such layout, no image in any folder, or severities without class folders; all of these are named.
    """

    has_boxes = False
    has_masks = False
    split = None
    _digest: str | None

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        found, self.misspelt = corruption_folders(self.root), misspelt_folders(self.root)
        if not found:
            named = f"; {misspelt_in_words(self.misspelt)}" if self.misspelt else ""
            raise ValueError(
                f"{root} has no folder CORRUPTION/SEVERITY, such as fog/3; give the root of ImageNet-C{named}"
            )
        wanted = [(name, severity) for name in CORRUPTIONS for severity in SEVERITIES]
        if not set(found) & set(CORRUPTIONS):
            raise ValueError(
                f"{root} has none of the 15 corruptions that are measured, only {', '.join(found)}; they are "
                f"{', '.join(CORRUPTIONS)}"
            )
        there = {key: found[key[0]] / str(key[1]) for key in wanted if key[0] in found}
        there = {key: folder for key, folder in there.items() if folder.is_dir()}
        places = {key: folder for key, folder in there.items() if _has_image(folder)}
        self.empty = tuple(key for key in there if key not in places)
        _check(self.root, places, self.empty)
        names = sorted({name for folder in places.values() for name in _class_folders(folder)})
        self._folders = [ImageFolder(folder, labels="folders", classes=names) for folder in places.values()]
        self.variants = tuple(places)
        self.missing = tuple(key for key in wanted if key not in places)
        extra = [name for name in EXTRA if name in found]
        self.notes = (f"{', '.join(extra)}: left out, they count in no mean",) if extra else ()
        self._take(names)

    def _take(self, names: Sequence[str]) -> None:
        """Keep the images of these classes, in their order."""
        all_names, numbers = self._folders[0].classes or (), {name: number for number, name in enumerate(names)}
        self.classes, self._digest = tuple(names), None
        self._numbers = np.array([numbers.get(name, -1) for name in all_names])
        self._chosen = [np.flatnonzero(self._numbers[_labels(folder)] >= 0) for folder in self._folders]
        self._ends = list(accumulate(len(each) for each in self._chosen))

    def of_classes(self, names: Sequence[str]) -> Self:
        """The same with the images of these classes alone. Raises `ValueError` where the tree has none of them."""
        known = [name for name in self.classes if name in set(names)]
        if not known:
            raise ValueError(
                f"{self.root} has no images of these classes: it has {', '.join(self.classes[:3])}, ..., asked for are "
                f"{', '.join(list(names)[:3])}, ..."
            )
        part = copy.copy(self)
        part._take(known)
        return part

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Sample:
        """Decode an image. Raises `UnreadableImage`."""
        folder, inside = self._place(index)
        sample = folder[inside]
        assert sample.label is not None  # they come from class folders
        return sample._replace(label=int(self._numbers[sample.label]))

    def path(self, index: int) -> str:
        """Where an image lies."""
        folder, inside = self._place(index)
        return folder.path(inside)

    def variant_of(self, indices: np.ndarray) -> np.ndarray:
        """Places in `variants` of these numbers of the set."""
        return np.searchsorted(self._ends, indices, side="right")

    def counts(self) -> dict[tuple[str, int], int]:
        """Images of each variant."""
        return {variant: len(each) for variant, each in zip(self.variants, self._chosen)}

    def digest(self) -> str:
        """16 hex digits over all paths, and over size and content of 20,000 files at most, evenly spaced."""
        if self._digest is not None:
            return self._digest
        digest = hashlib.sha256(repr((self.classes, self.variants)).encode())
        for index in range(len(self)):
            path = self.path(index)
            digest.update(path.removeprefix(str(self.root)).encode(errors="surrogateescape"))
            if chosen(index, len(self)):
                digest.update(fingerprint(path, content=True).encode())
        self._digest = digest.hexdigest()[:16]
        return self._digest

    def _place(self, index: int) -> tuple[ImageFolder, int]:
        index = position(index, len(self))
        place = bisect_right(self._ends, index)
        first = self._ends[place - 1] if place else 0
        return self._folders[place], int(self._chosen[place][index - first])


def is_imagenet_c(root: Path) -> bool:
    """Whether a folder has one of the corruptions with severities in it, or in a folder of their group.

    One that is called almost so is enough where it has all five, to be told by its name.
    """
    if corruption_folders(root):
        return True
    return any(near and all((root / name / str(each)).is_dir() for each in SEVERITIES) for name, near in _near(root))


def corruption_folders(root: Path) -> dict[str, Path]:
    """The folders of known corruptions by name, the four further ones included, that have one of the folders 1 to 5."""
    found: dict[str, Path] = {}
    for parent in [root, *(root / group for group in (*GROUPS, "extra"))]:
        for name in (*CORRUPTIONS, *EXTRA):
            folder = parent / name
            if name not in found and any((folder / str(severity)).is_dir() for severity in SEVERITIES):
                found[name] = folder
    return found


def misspelt_folders(root: Path) -> dict[str, str | None]:
    """Paths below `root` with one of the folders 1 to 5 that are called by no corruption, with the nearest name."""
    return {
        name: near
        for name, near in _near(root)
        if any((root / name / str(severity)).is_dir() for severity in SEVERITIES)
    }


def misspelt_in_words(misspelt: Mapping[str, str | None]) -> str:
    """`fogg is no corruption, did you mean fog?`, and so on for all of them."""
    told = (f"{name} is no corruption" + (f", did you mean {near}?" if near else "") for name, near in misspelt.items())
    return "; ".join(told)


def _near(root: Path) -> list[tuple[str, str | None]]:
    """Folders that may be of corruptions by where they are, but not by their name, with the nearest one."""
    groups, found = (*GROUPS, "extra"), list[tuple[str, str | None]]()
    for parent in ("", *groups):
        if not (root / parent).is_dir():
            continue
        for entry in sorted(os.scandir(root / parent), key=lambda each: each.name):
            if entry.is_dir() and entry.name not in (*CORRUPTIONS, *EXTRA, *groups) and entry.name[:1] != ".":
                close = get_close_matches(entry.name.lower().replace("-", "_"), (*CORRUPTIONS, *EXTRA), n=1)
                found.append((f"{parent}/{entry.name}".strip("/"), close[0] if close else None))
    return found


def variants_in_words(variants: Sequence[tuple[str, int]]) -> str:
    """`snow 1 to 5, fog 3 and 5`: all of them, by corruption."""
    severities: dict[str, list[int]] = {}
    for name, severity in variants:
        severities.setdefault(name, []).append(severity)
    return ", ".join(f"{name} {_in_words(sorted(found))}" for name, found in severities.items())


def _in_words(numbers: list[int]) -> str:
    if len(numbers) > 2 and numbers[-1] - numbers[0] == len(numbers) - 1:
        return f"{numbers[0]} to {numbers[-1]}"
    return " and ".join(map(str, numbers))


def _check(root: Path, places: Mapping[tuple[str, int], Path], empty: Sequence[tuple[str, int]]) -> None:
    """Raise `ValueError` where nothing can be measured, or images lie without their class folders."""
    if not places:
        raise ValueError(
            f"{root} has no image in any folder CORRUPTION/SEVERITY/CLASS; empty are {variants_in_words(empty)}; "
            "unpack the archives again"
        )
    bare = [key for key, folder in places.items() if not _class_folders(folder)]
    if bare:
        raise ValueError(
            f"{root} has images but no class folders in {variants_in_words(bare)}; ImageNet-C has "
            "CORRUPTION/SEVERITY/CLASS/*.JPEG"
        )


def _has_image(folder: Path) -> bool:
    """Whether there is an image at any depth; stops at the first."""
    names = (name for _, _, inside in os.walk(folder) for name in inside if not name.startswith("."))
    return any(Path(name).suffix.lower() in EXTENSIONS for name in names)


def _class_folders(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]


def _labels(folder: ImageFolder) -> np.ndarray:
    assert folder.labels is not None  # asked for by folders
    return folder.labels
