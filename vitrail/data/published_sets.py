"""Published data sets of one class an image, told by their layouts, and how those that can be are downloaded.

Downloads are torchvision's, with its checksums, into the layouts that its classes make:

    flowers-102/   oxford-iiit-pet/   cifar-10-batches-py/   cifar-100-python/     fetched
    stanford_cars/                                                                 no longer where torchvision looks
"""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from vitrail.data import cars, flowers, pets
from vitrail.data.cars import is_cars, open_cars
from vitrail.data.cifar import download_cifar, is_cifar
from vitrail.data.domainnet import is_domain, open_domain
from vitrail.data.fetched import FETCHED
from vitrail.data.flowers import is_flowers, open_flowers
from vitrail.data.listed import ListedImages
from vitrail.data.pets import is_pets, open_pets


class Layout(NamedTuple):
    """How a set is recognized and opened."""

    name: str  # for people
    fits: Callable[[Path], bool]
    opening: Callable[[Path, str], ListedImages]  # folder, and "train" or "val"


LISTED = (
    Layout("Flowers-102", is_flowers, open_flowers),
    Layout("Oxford-IIIT Pets", is_pets, open_pets),
    Layout("Stanford Cars", is_cars, open_cars),
    Layout("DomainNet", is_domain, open_domain),
)


def listed_layout(root: Path) -> Layout | None:
    """The layout of `LISTED` that a folder has; None for any other folder."""
    return next((each for each in LISTED if each.fits(root)), None)


def download(root: str | Path) -> Path:
    """Fetch the set that the folder's name asks for, such as data/flowers-102; what is there already is left as it is.

    Processes that ask at once wait for each other.

    Raises:
        ValueError: for another name, for Stanford Cars, or where the download fails; says where files are to be put.
    """
    root = Path(root).expanduser()
    if root.is_dir() and (listed_layout(root) is not None or is_cifar(root)):
        return root
    if root.name == cars.FOLDER:
        raise ValueError(
            "Stanford Cars cannot be downloaded: the address that torchvision.datasets.StanfordCars has is dead. Get "
            f"the archives elsewhere and unpack them to {root}: {cars.LAYOUT}"
        )
    if root.name not in FETCHED:
        raise ValueError(
            f"there is no set {root.name!r} to download to {root}; known folders: {', '.join(FETCHED)}, as in "
            f"data.root={root.parent / flowers.FOLDER}"
        )
    made = [folder for folder in (root, *root.parents) if not folder.exists()]
    root.parent.mkdir(parents=True, exist_ok=True)
    path = root.parent / f".{root.name}.lock"
    try:
        with path.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if root.name.startswith("cifar"):
                return download_cifar(root.parent, "cifar10" if root.name == FETCHED[2] else "cifar100")
            return _by_torchvision(root)
    except ValueError:
        _tidy(path, made)
        raise


def _tidy(lock: Path, made: Sequence[Path]) -> None:
    """Remove what a failed download made, where nothing lies in it; `made` has inner folders first."""
    lock.unlink(missing_ok=True)
    for folder in made:
        for inside in sorted((each for each in folder.rglob("*") if each.is_dir()), reverse=True):
            with suppress(OSError):  # something lies in it
                inside.rmdir()
        with suppress(OSError):
            folder.rmdir()


def _by_torchvision(root: Path) -> Path:
    from torchvision import datasets

    fits, kind = {
        flowers.FOLDER: (is_flowers, datasets.Flowers102),
        pets.FOLDER: (is_pets, datasets.OxfordIIITPet),
    }[root.name]
    reason = "it left no such layout"
    if not fits(root):  # another process may have been first
        try:
            kind(str(root.parent), download=True)
        except Exception as error:  # what fails depends on the library and on the network; Flowers102 also wants SciPy
            told = (str(error).strip().splitlines() or [""])[0][:160]
            reason = f"{type(error).__name__}: {told}"
    if not fits(root):
        files = ", ".join(flowers.FILES if root.name == flowers.FOLDER else pets.FILES)
        raise ValueError(
            f"{root.name} could not be downloaded by torchvision.datasets.{kind.__name__} ({reason}). Without a "
            f"network: get its archives elsewhere and unpack them to {root}, so that it holds {files}"
        )
    return root
