"""Small trees in the layout of ImageNet-C."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
from PIL import Image

from vitrail.data.corruptions import CORRUPTIONS, GROUPS, SEVERITIES

WNIDS = ("n01440764", "n01443537", "n01484850")  # tench, goldfish, great white shark
COLORS = {"n01440764": (200, 60, 60), "n01443537": (60, 200, 60), "n01484850": (60, 60, 200)}


def imagenet_c(
    root: Path,
    images: int = 1,
    side: int = 32,
    *,
    nested: bool = False,
    leave_out: Collection[tuple[str, int]] = (),
    shifted: Collection[tuple[str, int]] = (),
) -> Path:
    """Images whose color tells the class, in all folders; in `shifted` ones it tells another class. PNG, so exact."""
    groups = {name: group for group, names in GROUPS.items() for name in names}
    for name in (*CORRUPTIONS, *(("speckle_noise",) if nested else ())):
        for severity in SEVERITIES:
            if (name, severity) in leave_out:
                continue
            parent = root / groups.get(name, "extra") if nested else root
            folder = parent / name / str(severity)
            _classes(folder, images, side, (name, severity) in shifted)
    return root


def _classes(folder: Path, images: int, side: int, shifted: bool) -> None:
    for number, wnid in enumerate(WNIDS):
        color = COLORS[WNIDS[(number + shifted) % len(WNIDS)]]
        (folder / wnid).mkdir(parents=True)
        for index in range(images):
            pixels = np.full((side, side, 3), color, np.uint8)
            Image.fromarray(pixels).save(folder / wnid / f"ILSVRC2012_val_{index:08d}.png")


def wnid_folder(root: Path, images: int = 2, side: int = 40) -> Path:
    """Class folders of WordNet ids right in the root, as ImageNet-A has."""
    _classes(root, images, side, False)
    return root
