"""Small trees in the layouts that torchvision makes of published sets, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image


def picture(path: Path, number: int, size: int = 20) -> None:
    """A PNG in spite of its name's ending: exact pixels, told by its number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 255, (size, size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, format="PNG")


def save_mat(path: Path, **variables: Any) -> None:
    """By SciPy, packed as MATLAB does; skips the test, loudly, without it."""
    scipy_io = pytest.importorskip("scipy.io", reason="SCIPY ABSENT: it writes the .mat files of this test")
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy_io.savemat(str(path), variables, do_compression=True)


def flowers_tree(root: Path, classes: int = 3) -> Path:
    """Eight images: 1, 4 train, 2, 8 validate, 3, 5, 6 test; the label of image n is 1 + (n - 1) mod classes."""
    place = root / "flowers-102"
    for number in range(1, 9):
        picture(place / "jpg" / f"image_{number:05d}.jpg", number)
    save_mat(place / "imagelabels.mat", labels=np.array([[1 + n % classes for n in range(8)]], np.uint8))
    sets = {"trnid": [[1, 4]], "valid": [[2, 8]], "tstid": [[3, 5, 6]]}
    save_mat(place / "setid.mat", **{name: np.array(ids, np.uint16) for name, ids in sets.items()})
    return place


def pets_tree(root: Path) -> Path:
    """Two breeds, two images each to train on and one to test with."""
    place = root / "oxford-iiit-pet"
    lines: dict[str, list[str]] = {"trainval": [], "test": []}
    for breed, name in enumerate(("Abyssinian", "american_bulldog"), 1):
        for number in range(3):
            picture(place / "images" / f"{name}_{number}.jpg", 10 * breed + number)
            lines["test" if number == 2 else "trainval"].append(f"{name}_{number} {breed} {breed} 1")
    (place / "annotations").mkdir()
    (place / "annotations" / "trainval.txt").write_text("\n".join(lines["trainval"]))
    (place / "annotations" / "test.txt").write_text("\n".join(lines["test"]) + "\n")
    return place


def annotations(names: list[str], classes: list[int]) -> np.ndarray:
    """A MATLAB array of structs, as Stanford Cars has it."""
    rows = np.zeros((1, len(names)), dtype=[("bbox_x1", object), ("class", object), ("fname", object)])
    for place, (name, number) in enumerate(zip(names, classes)):
        rows[0, place] = (np.array([[39]], np.uint8), np.array([[number]], np.uint8), name)
    return rows


def cars_tree(root: Path) -> Path:
    """Two models, four images to train on and two to test with."""
    place, names = root / "stanford_cars", np.array(["AM General Hummer SUV 2000", "Acura RL Sedan 2012"], object)
    save_mat(place / "devkit" / "cars_meta.mat", class_names=names.reshape(1, 2))
    for split, count in (("train", 4), ("test", 2)):
        images = [f"{number:05d}.jpg" for number in range(1, count + 1)]
        for number, name in enumerate(images):
            picture(place / f"cars_{split}" / name, 100 * count + number)
        path = "devkit/cars_train_annos.mat" if split == "train" else "cars_test_annos_withlabels.mat"
        save_mat(place / path, annotations=annotations(images, [1 + number % 2 for number in range(count)]))
    return place


def domain_tree(root: Path, domain: str = "clipart", *, beside: bool = True) -> Path:
    """Three classes, of which the training list lacks one; lists beside the domain's folder, or in it."""
    place, lines = root / domain, {"train": [], "test": []}
    for label, name in enumerate(("aircraft carrier", "zebra", "t-shirt")):
        for number in range(3):
            path = f"{domain}/{name}/{domain}_{number}.jpg"
            picture(root / path, 10 * label + number)
            if name != "t-shirt" or number == 2:
                lines["test" if number == 2 else "train"].append(f"{path} {label}")
    for split, texts in lines.items():
        ((root if beside else place) / f"{domain}_{split}.txt").write_text("\n".join(texts) + "\n")
    return place
