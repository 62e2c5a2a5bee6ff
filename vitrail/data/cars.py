"""Stanford Cars as torchvision lays it out: 196 models, 8,144 images to train on and 8,041 to test with.

    stanford_cars/   cars_train/*.jpg   cars_test/*.jpg   cars_test_annos_withlabels.mat
                     devkit/cars_meta.mat   devkit/cars_train_annos.mat

directly in the root, or the root itself. The archives are no longer at the place that torchvision knows.

Source: Krause et al. 2013, "3D Object Representations for Fine-Grained Categorization".
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vitrail.data.listed import ListedImages, find_below, side_of
from vitrail.data.mat_file import read_mat

FOLDER = "stanford_cars"
TABLES = {"train": "devkit/cars_train_annos.mat", "val": "cars_test_annos_withlabels.mat"}
IMAGES = {"train": "cars_train", "val": "cars_test"}
META = "devkit/cars_meta.mat"
LAYOUT = f"{META}, {TABLES['train']}, {TABLES['val']}, cars_train/*.jpg, cars_test/*.jpg"


def is_cars(root: Path) -> bool:
    """Whether a folder has this layout."""
    return find_below(root, FOLDER, [META]) is not None


def open_cars(root: str | Path, split: str = "train") -> ListedImages:
    """Images of "train" or "val" (test).

    Raises:
        ValueError: no such layout or split, or a table that is not there, cannot be read, or has no labels.
    """
    side, place = side_of(split, "Stanford Cars"), find_below(root, FOLDER, [META])
    if place is None or not (place / TABLES[side]).is_file():
        raise ValueError(f"{place or root} has no {TABLES[side]}; Stanford Cars are {LAYOUT} in it or in {FOLDER}/")
    classes = _of(read_mat(place / META), "class_names", place / META)
    rows: list[dict[str, Any]] = _of(read_mat(place / TABLES[side]), "annotations", place / TABLES[side])
    if rows and not {"fname", "class"} <= set(rows[0]):
        raise ValueError(
            f"{place / TABLES[side]} tells {', '.join(rows[0])} and no fname and class; the test images' labels are in "
            f"{TABLES['val']}"
        )
    paths, labels = [row["fname"] for row in rows], [int(row["class"].item()) - 1 for row in rows]
    return ListedImages("Stanford Cars", place, side, place / IMAGES[side], paths, labels, classes)


def _of(table: dict[str, Any], name: str, path: Path) -> list[Any]:
    if not isinstance(table.get(name), list):
        raise ValueError(f"{path} has no list {name!r}, but {', '.join(table) or 'nothing'}; copy it again")
    found: list[Any] = table[name]
    return found
