"""CIFAR-10 and CIFAR-100: 50,000 + 10,000 images of 32 x 32 pixels, from the published pickles or from one npz.

    cifar-10-batches-py/     data_batch_1 ... data_batch_5, test_batch, batches.meta
    cifar-100-python/        train, test, meta; the labels are the 100 fine ones
    *.npz                    x_train, y_train, x_test, y_test, and classes where names are known; images of any size,
                             uint8 [N, H, W, 3], labels int64 [N]

directly in the root, or the root itself. All images are kept in memory, 180 MB at most for CIFAR. The published files
are pickles, and a pickle can run anything; only containers, text, numbers and NumPy arrays are let through here.

Source: Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images"; www.cs.toronto.edu/~kriz/cifar.html.
"""

from __future__ import annotations

import hashlib
import pickle
import zipfile
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image

from vitrail.contracts import Sample
from vitrail.data.folders import position
from vitrail.data.plain_pickle import PlainUnpickler

Name = Literal["cifar10", "cifar100"]
SIDE = 32
ARRAYS = ("x_train", "y_train", "x_test", "y_test")


class _Published(NamedTuple):
    """How a published set is laid out."""

    folder: str
    files: dict[str, tuple[str, ...]]  # of each split
    labels: str
    meta: str
    names: str


PUBLISHED: dict[Name, _Published] = {
    "cifar10": _Published(
        "cifar-10-batches-py",
        {"train": tuple(f"data_batch_{number}" for number in range(1, 6)), "val": ("test_batch",)},
        "labels",
        "batches.meta",
        "label_names",
    ),
    "cifar100": _Published(
        "cifar-100-python", {"train": ("train",), "val": ("test",)}, "fine_labels", "meta", "fine_label_names"
    ),
}


class Cifar:
    """Small images with a class each. Fulfills `vitrail.contracts.ImageSet`.

    Args:
        root: as the module says.
        split: "train", or "val" for the published test images.

    Attributes: `images` uint8 `[N, H, W, 3]`, `labels` int64 `[N]`, `classes`, `name`.

    Raises:
        ValueError: no such layout or split, both sets in one root, or files that are cut short or not what they say.
    """

    has_boxes = False
    has_masks = False

    def __init__(self, root: str | Path, split: str = "train") -> None:
        if split not in ("train", "val"):
            raise ValueError(f"there is no split {split!r}; CIFAR has train and val, its published test images")
        self.root, self.split = Path(root).expanduser(), split
        place, name = find_cifar(self.root)
        self.name = place.stem if name is None else name
        found = _npz(place, split) if name is None else _pickles(place, PUBLISHED[name], split)
        self.images, self.labels, self.classes = _checked(*found, place)
        self._digest: str | None = None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        """The image and its label."""
        index = position(index, len(self))
        return Sample(Image.fromarray(self.images[index]), int(self.labels[index]), path=f"{self.split}/{index:05d}")

    def digest(self) -> str:
        """16 hex digits over the classes, all labels and all pixels."""
        if self._digest is None:
            digest = hashlib.sha256(repr((self.classes, self.images.shape)).encode())
            for part in (self.labels.astype("<i8"), self.images):
                digest.update(np.ascontiguousarray(part).data)
            self._digest = digest.hexdigest()[:16]
        return self._digest


def find_cifar(root: str | Path) -> tuple[Path, Name | None]:
    """Where the set lies and which it is; None for an npz. Raises `ValueError` where there is none, or several."""
    root = Path(root)
    found: list[tuple[Path, Name | None]] = []
    for name, layout in PUBLISHED.items():
        found += [(place, name) for place in (root, root / layout.folder) if (place / layout.meta).is_file()]
    if not found and root.is_dir():
        found = [(path, None) for path in sorted(root.glob("*.npz")) if _is_images(path)]
    if not found:
        raise ValueError(
            f"{root} holds no CIFAR: neither {' nor '.join(each.folder for each in PUBLISHED.values())} nor an npz "
            f"with {', '.join(ARRAYS)}"
        )
    if len(found) > 1:
        raise ValueError(f"{root} holds several sets, {' and '.join(str(path) for path, _ in found)}; name one of them")
    return found[0]


def is_cifar(root: Path) -> bool:
    """Whether a folder holds CIFAR, or an npz like it."""
    try:
        find_cifar(root)
    except ValueError as error:
        return "several sets" in str(error)
    return True


def download_cifar(root: str | Path, name: Name = "cifar10") -> Path:
    """Fetch a published set by torchvision, 170 MB, and check it; what is there already is left as it is.

    Returns:
        The folder that `Cifar` opens.

    Raises:
        ValueError: for another name, or where there is no network.
    """
    if name not in PUBLISHED:
        raise ValueError(f"there is no set {name!r} to download; known: {', '.join(PUBLISHED)}")
    layout = PUBLISHED[name]
    place = Path(root).expanduser() / layout.folder
    if (place / layout.meta).is_file():
        return place
    from torchvision import datasets

    try:
        {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name](str(place.parent), download=True)
    except Exception as error:  # what fails in a download depends on the library and on the network
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise ValueError(
            f"{name} could not be downloaded to {place.parent} ({type(error).__name__}: {reason}). Without a network: "
            f"fetch its python version from www.cs.toronto.edu/~kriz/cifar.html elsewhere and unpack it to {place}"
        ) from error
    return place


def _is_images(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as file:
            return {f"{name}.npy" for name in ARRAYS} <= set(file.namelist())
    except (zipfile.BadZipFile, OSError):
        return False


def _npz(path: Path, split: str) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    part = "train" if split == "train" else "test"
    try:
        with np.load(path, allow_pickle=False) as file:
            images, labels = file[f"x_{part}"], file[f"y_{part}"]
            named = "classes" in file.files
            count = 1 + int(max(file["y_train"].max(initial=0), file["y_test"].max(initial=0)))
            classes = tuple(str(name) for name in (file["classes"] if named else range(count)))
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}; copy it again") from None
    return images, labels, classes


def _pickles(folder: Path, layout: _Published, split: str) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    classes = tuple(str(name) for name in _entry(folder / layout.meta, layout.names))
    images, labels = [], []
    for name in layout.files[split]:
        content = _load(folder / name)
        planes = _of(content, "data", folder / name)
        if planes.ndim != 2 or planes.shape[1] != 3 * SIDE * SIDE or planes.dtype != np.uint8:
            raise ValueError(
                f"{folder / name} holds {planes.dtype} {list(planes.shape)}; CIFAR's images are uint8 [N, 3072]"
            )
        images.append(planes.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1))
        labels.append(np.asarray(_of(content, layout.labels, folder / name), np.int64))
    return np.ascontiguousarray(np.concatenate(images)), np.concatenate(labels), classes


def _entry(path: Path, key: str) -> Any:
    return _of(_load(path), key, path)


def _of(content: Any, key: str, path: Path) -> Any:
    if not isinstance(content, dict) or key not in content:
        raise ValueError(f"{path} has no {key!r}, so it is no file of CIFAR's python version; download it again")
    return content[key]


def _load(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            # Written by Python 2: its text is bytes there, and so are the arrays'.
            return PlainUnpickler(file, encoding="latin1").load()
    except (pickle.UnpicklingError, EOFError, OSError, ValueError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"{path} cannot be read as a file of CIFAR ({error}); download it again") from None


def _checked(
    images: np.ndarray, labels: np.ndarray, classes: tuple[str, ...], place: Path
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8:
        raise ValueError(f"{place}: images are {images.dtype} {list(images.shape)}; give uint8 [N, H, W, 3]")
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu":
        raise ValueError(f"{place}: {len(images)} images have labels {labels.dtype} {list(labels.shape)}")
    if not len(images):
        raise ValueError(f"{place} holds no images")
    if labels.min() < 0 or labels.max() >= len(classes):
        raise ValueError(
            f"{place}: labels run from {labels.min()} to {labels.max()}, and there are {len(classes)} classes"
        )
    return images, labels.astype(np.int64), classes
