"""Small trees in the DAVIS layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

PALETTE = [0, 0, 0, 236, 95, 103, 60, 160, 90, 70, 90, 200]


def moving(frames: int = 5, height: int = 24, width: int = 40, objects: int = 2, step: int = 2) -> np.ndarray:
    """Ids `[T, H, W]`: squares of 8 pixels one below the other, each moving to the right."""
    ids = np.zeros((frames, height, width), np.uint8)
    for t in range(frames):
        for number in range(objects):
            top, left = 2 + 10 * number, 4 + step * t
            ids[t, top : top + 8, left : left + 8] = number + 1
    return ids


def picture(ids: np.ndarray, seed: int = 0) -> Image.Image:
    """Objects in colors of their own on a gray that is everywhere the same."""
    colors = np.array([(90, 90, 90), (220, 40, 40), (40, 200, 60), (40, 60, 220)], np.uint8)
    noise = np.random.default_rng(seed).integers(0, 12, (*ids.shape, 3))
    return Image.fromarray((colors[ids] + noise).astype(np.uint8))


def write_sequence(
    root: Path, name: str, ids: np.ndarray, kind: str = "palette", resolution: str = "480p", picture_ids: object = None
) -> None:
    """Frames as PNG-quality JPEG and masks; kind is palette, gray or binary (0 and 255)."""
    for t, each in enumerate(ids):
        folders = [root / part / resolution / name for part in ("JPEGImages", "Annotations")]
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        picture(np.minimum(each, 3), t).save(folders[0] / f"{t:05d}.jpg", quality=95)
        values = (each > 0).astype(np.uint8) * 255 if kind == "binary" else each
        mask = Image.fromarray(values)
        if kind == "palette":
            mask = mask.convert("P")
            mask.putdata(values.ravel().tolist())
            mask.putpalette(PALETTE + [0] * (768 - len(PALETTE)))
        mask.save(folders[1] / f"{t:05d}.png")


def write_list(root: Path, names: list[str], split: str = "val", folder: str = "ImageSets/2017") -> None:
    path = root / folder / f"{split}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(names) + "\n")
