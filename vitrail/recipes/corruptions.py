"""What corruptions make of image files, for `vitrail show corruptions`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from vitrail.data import EvalTransformConfig, build_eval_transform
from vitrail.data.corruptions import BETWEEN, LEAST
from vitrail.recipes.files import stems
from vitrail.recipes.look import open_images
from vitrail.viz.robustness import corruption_sheet

SIZE = 224


def draw_corruptions(images: Sequence[Path], out: Path, *, size: int | None = None, seed: int = 0) -> list[Path]:
    """One sheet an image, IMAGE-corruptions.png: all corruptions at all severities, as the protocol shows them.

    Args:
        images: files; each is resized and cropped to a square first.
        out: folder.
        size: side of that square, pixels; 224 by default.
        seed: of what is drawn; each file draws as the first image of a set does.

    Raises:
        ValueError: no image that can be read, or a size below 32 pixels.
    """
    side = SIZE if size is None else size
    if side < LEAST:
        raise ValueError(f"--size {side} is too small for corruptions; give at least {LEAST}, as in --size 64")
    frame = build_eval_transform(EvalTransformConfig(image_size=side))
    opened = open_images(images)
    out.mkdir(parents=True, exist_ok=True)
    paths = [out / f"{stem}-corruptions.png" for stem in stems(list(opened))]
    strengths = "of 64" if side < BETWEEN else "of 224"
    for path, (file, image) in zip(paths, opened.items()):
        title = f"{file.name}: 15 corruptions at the strengths for images {strengths} pixels"
        corruption_sheet(Image.fromarray(frame.framed(image)), seed=seed, title=title).save(path)
    return paths
