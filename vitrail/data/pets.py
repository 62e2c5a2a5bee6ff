"""Oxford-IIIT Pets as torchvision lays it out: 37 breeds, 3,680 images to train on and 3,669 to test with.

    oxford-iiit-pet/   images/Abyssinian_1.jpg ...   annotations/trainval.txt   annotations/test.txt

directly in the root, or the root itself. Lines are `<name> <breed, from 1> <species> <number>`.

Source: Parkhi et al. 2012, "Cats and Dogs".
"""

from __future__ import annotations

from pathlib import Path

from vitrail.data.listed import ListedImages, find_below, side_of

FOLDER = "oxford-iiit-pet"
LISTS = {"train": "annotations/trainval.txt", "val": "annotations/test.txt"}
FILES = (*LISTS.values(), "images")


def is_pets(root: Path) -> bool:
    """Whether a folder has this layout."""
    return find_below(root, FOLDER, FILES) is not None


def open_pets(root: str | Path, split: str = "train") -> ListedImages:
    """Images of "train" (trainval.txt) or "val" (test.txt).

    Raises:
        ValueError: no such layout or split, a line that cannot be read, or a breed with two names.
    """
    side, place = side_of(split, "Pets"), find_below(root, FOLDER, FILES)
    if place is None:
        raise ValueError(f"{root} has no Oxford-IIIT Pets: {', '.join(FILES)} in it or in {FOLDER}/")
    lists = {name: _lines(place / path) for name, path in LISTS.items()}
    names: dict[int, str] = {}
    for image, label in [*lists["train"], *lists["val"]]:
        breed = image.rpartition("_")[0].replace("_", " ").title()
        if names.setdefault(label, breed) != breed:
            raise ValueError(f"{place / 'annotations'}: breed {label + 1} is {names[label]!r} and {breed!r}")
    classes = [names.get(label, str(label + 1)) for label in range(max(names, default=-1) + 1)]
    paths = [f"{image}.jpg" for image, _ in lists[side]]
    return ListedImages("Oxford-IIIT Pets", place, side, place / "images", paths, [x for _, x in lists[side]], classes)


def _lines(path: Path) -> list[tuple[str, int]]:
    """Name and breed, counted from 0, of each image."""
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1):
        words = line.split()
        if not words or line.startswith("#"):
            continue
        if len(words) < 2 or not words[1].isdigit() or words[1] == "0":
            raise ValueError(f"{path}:{number}: expected `<name> <breed, from 1> ...`, got {line.strip()!r}")
        found.append((words[0], int(words[1]) - 1))
    return found
