"""Oxford Flowers-102 as torchvision lays it out: 102 classes, 2,040 images to train on and 6,149 to test with.

    flowers-102/   jpg/image_00001.jpg ...   imagelabels.mat   setid.mat

directly in the root, or the root itself. The published training and validation images (`trnid`, `valid`, 1,020 each)
are both trained on, as in transfer learning; those of `tstid`, which are more, test. Classes are called by their
published numbers, 1 to 102: the files name none.

Source: Nilsback and Zisserman 2008, "Automated Flower Classification over a Large Number of Classes".
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vitrail.data.listed import ListedImages, find_below, side_of
from vitrail.data.mat_file import read_mat

FOLDER = "flowers-102"
FILES = ("imagelabels.mat", "setid.mat", "jpg")
SETS = {"train": ("trnid", "valid"), "val": ("tstid",)}


def is_flowers(root: Path) -> bool:
    """Whether a folder has this layout."""
    return find_below(root, FOLDER, FILES) is not None


def open_flowers(root: str | Path, split: str = "train") -> ListedImages:
    """Images of "train" (training and validation) or "val" (test).

    Raises:
        ValueError: no such layout or split, or tables that cannot be read or do not fit each other.
    """
    side, place = side_of(split, "Flowers-102"), find_below(root, FOLDER, FILES)
    if place is None:
        raise ValueError(f"{root} has no Flowers-102: {', '.join(FILES)} in it or in {FOLDER}/")
    sets, known = read_mat(place / "setid.mat"), read_mat(place / "imagelabels.mat")
    for where, table, names in (("setid.mat", sets, SETS[side]), ("imagelabels.mat", known, ("labels",))):
        if not set(names) <= set(table):
            has = ", ".join(table) or "nothing"
            raise ValueError(f"{place / where} has {has}, and not {' and '.join(names)}; download it again")
    labels = np.asarray(known["labels"], np.int64).ravel()
    ids = np.concatenate([np.asarray(sets[name], np.int64).ravel() for name in SETS[side]])
    if len(ids) and (ids.min() < 1 or ids.max() > len(labels)):
        raise ValueError(f"{place}: images {ids.min()} to {ids.max()} are asked for, and {len(labels)} have labels")
    paths = [f"image_{number:05d}.jpg" for number in ids]
    classes = [str(number) for number in range(1, int(labels.max(initial=0)) + 1)]
    return ListedImages("Flowers-102", place, side, place / "jpg", paths, (labels[ids - 1] - 1).tolist(), classes)
