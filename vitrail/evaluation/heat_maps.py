"""Heat maps that another program wrote, one file for each image, to be measured as a localizer's are.

A folder holds `<image>.npy` or `<image>.png`, where `<image>` is the path of the image below its data set's folder,
with or without its own extension: `bird/1.jpg` has its map in `bird/1.npy` or `bird/1.jpg.npy`. A map `[h, w]` is of
real numbers, larger is more of the object; it may have any size of the right shape, from a grid of patches to the
image's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vitrail.contracts import ImageSet

ENDINGS = (".npy", ".png")


class UnusableMap(Exception):
    """A heat map that is missing or cannot be used; says why."""


class HeatMaps:
    """A folder of heat maps. Raises `ValueError` where there is no such folder.

    `vitrail.evaluation.localization.evaluate` takes it in place of a localizer. There are no classes in it.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.name = f"heat maps {self.root.name}"
        if not self.root.is_dir():
            raise ValueError(f"there is no folder of heat maps {str(root)!r}")

    def path(self, image: str) -> Path | None:
        """The file of an image's map; None where there is none."""
        names = [image + ending for ending in ENDINGS]
        names += [str(Path(image).with_suffix("")) + ending for ending in ENDINGS if Path(image).suffix]
        return next((self.root / name for name in names if (self.root / name).is_file()), None)

    def missing(self, data: ImageSet) -> dict[int, str]:
        """Positions and names of images without a map, as far as `data` names its images without reading them.

        Raises:
            ValueError: one map for two images, as a.npy for a.jpg and a.png, or the folder of the images themselves.
        """
        owner: dict[Path, str] = {}
        folder = getattr(data, "folder", None)
        if folder is not None and Path(folder).resolve() == self.root.resolve():
            raise ValueError(f"{self.root} is the folder of the images themselves; name the folder of their heat maps")
        for name in _names(data):
            path = self.path(name)
            if path is not None and owner.setdefault(path, name) != name:
                raise ValueError(
                    f"{path} would be the map of both {owner[path]} and {name}; name maps with the image's own ending, "
                    f"{name}.npy"
                )
        return {index: name for index, name in enumerate(_names(data)) if self.path(name) is None}

    def check_apart(self, data: ImageSet, held_out: ImageSet) -> None:
        """Raise `ValueError` where images of both sets have one name: one map would be taken for two images."""
        measured = _names(data)
        taken: set[str | Path] = set(measured) | {path for path in map(self.path, measured) if path is not None}
        both = sorted(name for name in _names(held_out) if name in taken or self.path(name) in taken)
        if both:
            raise ValueError(
                f"{len(both)} held-out images have names of measured ones, such as {both[0]}, so that {self.root} "
                "cannot have maps of both; give those of the held-out images in a folder of their own, as "
                "held_out_source or by --held-out-maps"
            )

    def read(self, image: str) -> Tensor:
        """A map `[h, w]` float32. Raises `UnusableMap`: no file, no numbers, NaN, not two axes."""
        path = self.path(image)
        if path is None:
            raise UnusableMap(f"{image} has no map: neither {image}.npy nor .png is below {self.root}")
        try:
            values = np.load(path, allow_pickle=False) if path.suffix == ".npy" else _gray(path)
        except (OSError, ValueError, EOFError, SyntaxError) as error:
            raise UnusableMap(f"{path} cannot be read ({error})") from None
        if isinstance(values, np.ndarray) and values.ndim == 3 and 1 in (values.shape[0], values.shape[2]):
            values = values[0] if values.shape[0] == 1 else values[:, :, 0]
        if not isinstance(values, np.ndarray) or values.ndim != 2 or not values.size or values.dtype.kind not in "biuf":
            what = f"{values.dtype} {list(values.shape)}" if isinstance(values, np.ndarray) else "several arrays"
            raise UnusableMap(f"{path} holds {what}; a map is [h, w] of real numbers")
        with np.errstate(over="ignore"):
            map_ = values.astype(np.float32)
        if not np.isfinite(map_).all():
            raise UnusableMap(f"{path} holds NaN, infinity or numbers beyond float32")
        return torch.from_numpy(map_)


def _names(data: ImageSet) -> list[str]:
    """Of all images, in order; none where the set does not name them without reading them."""
    try:
        return [str(data.relative_path(index)) for index in range(len(data))]  # type: ignore[attr-defined]
    except AttributeError:
        return []


def image_name(data: ImageSet, index: int, path: str = "") -> str:
    """What a map's file is named after: the image's path below its data set's folder, else its file's name."""
    try:
        return str(data.relative_path(index))  # type: ignore[attr-defined]
    except AttributeError:
        pass
    for folder in (getattr(data, "folder", None), getattr(data, "root", None)):
        if folder is not None and Path(path).is_relative_to(folder):
            return Path(path).relative_to(folder).as_posix()
    return Path(path).name


def in_proportion(shape: Sequence[int], frame: tuple[int, int]) -> bool:
    """Whether one scale, to whole rows and columns, makes the (height, width) of a map of that of a frame."""
    (height, width), (rows, columns) = shape, frame
    # One scale s with |s rows - height| < 1/2 and |s columns - width| < 1/2: the ranges of s meet.
    lower = max((2 * height - 1) * columns, (2 * width - 1) * rows)
    upper = min((2 * height + 1) * columns, (2 * width + 1) * rows)
    return lower < upper


def check_shape(
    shape: Sequence[int], frame: tuple[int, int], image: tuple[int, int] | None, name: str | Path = ""
) -> None:
    """Whether a map of (height, width) shows what it should: all of `frame`, or where that is given all of `image`.

    Raises `UnusableMap`, with the `name` of its file, where it is in proportion to neither.
    """
    if in_proportion(shape, frame) or (image is not None and in_proportion(shape, image)):
        return
    other = f" and not to the image of {image[0]} x {image[1]}" if image else ""
    raise UnusableMap(
        f"{name or 'the map'} of {shape[0]} x {shape[1]} is not in proportion to the view of {frame[0]} x {frame[1]} "
        f"pixels{other}; write maps of that shape"
    )


def _gray(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        if picture.mode not in ("1", "L", "I", "I;16", "F"):
            raise ValueError(f"a map has one channel, this picture is {picture.mode}")
        return np.array(picture)
