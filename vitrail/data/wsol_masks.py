"""Masks of objects by the metadata of wsolevaluation, as OpenImages has them there.

    localization.txt    path,mask,ignore: several lines for several objects; `ignore` on the first of an image, or none

Masks lie beside the images, `test/01226z/<id>_m01226z_<number>.png`. An image's object is where any of its masks is not
0; where its ignore mask is not 0 and there is no object, pixels do not count: other objects of the class, or crowds.

Source: Choe et al. 2020 (arXiv 2001.07437), Sec. 4.3, for PxAP on OpenImages30k.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from vitrail.data.images import EXTENSIONS, open_mask
from vitrail.data.named_lines import NamedLine

IGNORED = 255


class Masks(NamedTuple):
    """Files of one image, as localization.txt has them."""

    objects: tuple[str, ...]
    ignored: tuple[str, ...] = ()  # at most one as published


def is_mask_line(line: str) -> bool:
    """Whether a line of localization.txt names an image and a mask, and no four numbers."""
    parts = line.rsplit(",", 2)
    return len(parts) == 3 and Path(parts[1].strip()).suffix.lower() in EXTENSIONS


def parse_mask_line(line: str) -> tuple[str, Masks]:
    """`<path>,<mask>,<ignore mask or nothing>` -> path and files. Raises `ValueError`."""
    if not is_mask_line(line):
        raise ValueError("expected `<path>,<mask>,<ignore mask or nothing>`")
    name, mask, ignored = (part.strip() for part in line.rsplit(",", 2))
    return name, Masks((mask,), (ignored,) if ignored else ())


def by_image(lines: Iterable[NamedLine[Masks]]) -> dict[str, Masks]:
    """All files of each image."""
    found: dict[str, Masks] = {}
    for line in lines:
        before = found.get(line.name, Masks(()))
        found[line.name] = Masks(before.objects + line.value.objects, before.ignored + line.value.ignored)
    return found


def united(folder: Path, masks: Masks, size: tuple[int, int]) -> np.ndarray:
    """One mask `[height, width]` uint8: 1 is object, 255 does not count, 0 is all else.

    Args:
        size: (width, height) of the image in pixels; masks of another size are brought to it, pixel by nearest pixel.

    Raises:
        UnreadableImage: a file that is not there, or no mask.
    """
    objects, ignored = (_any(folder, names, size) for names in masks)
    return np.where(objects, 1, np.where(ignored, IGNORED, 0)).astype(np.uint8)


def _any(folder: Path, names: tuple[str, ...], size: tuple[int, int]) -> np.ndarray:
    """Where any of the masks is not 0."""
    found = np.zeros(size[::-1], bool)
    for name in names:
        mask = open_mask(folder / name) > 0
        if mask.shape != found.shape:
            mask = np.asarray(Image.fromarray(mask.astype(np.uint8)).resize(size, Image.Resampling.NEAREST)) > 0
        found |= mask
    return found
