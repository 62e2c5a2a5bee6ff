"""Which patches of image files matter, by any ranker: for `vitrail rank` and `vitrail show patches`."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vitrail.contracts import Ranker
from vitrail.data import EvalTransformConfig, UnreadableImage, build_eval_transform, open_image
from vitrail.data.images import EXTENSIONS
from vitrail.ops.selection import number_kept, select
from vitrail.recipes.look import open_images, whole_patches
from vitrail.recipes.rankers import RankerWords, open_words
from vitrail.recipes.weights import pick_device
from vitrail.viz.canvas import heading, stacked
from vitrail.viz.patches import Ranked, ranked_picture, rankers_gallery


class Shown(NamedTuple):
    """How rankers are opened, and images shown to them."""

    model: str | None = None
    key: str = "auto"
    size: int | None = None  # shorter side, pixels; None for the ranker's own
    patch_size: int | None = None
    device: str = "auto"

    def open(self, words: RankerWords) -> Ranker:
        """The ranker on its device."""
        device = pick_device(self.device)
        return open_words(words, model=self.model, key=self.key, patch_size=self.patch_size, device=device)


@torch.no_grad()
def rank(ranker: Ranker, image: Image.Image, keep: float, size: int | None = None) -> tuple[Image.Image, Ranked]:
    """The image resized to whole patches, nothing cut off, with its scores and kept patches.

    Args:
        ranker: on any device.
        image: RGB.
        keep: share of the patches, in (0, 1].
        size: shorter side in pixels; None for the ranker's own.
    """
    fitted = whole_patches(image, size or min(ranker.image_size), ranker.patch_size)
    pixels = _pixels(ranker, fitted)
    count = pixels.shape[2] // ranker.patch_size[0] * (pixels.shape[3] // ranker.patch_size[1])
    number = number_kept(keep, count)
    scores = ranker(pixels, number=number)
    return fitted, Ranked(scores[0].float().cpu(), select(scores, number)[0].cpu())


def rank_files(paths: Sequence[Path], asked: RankerWords, shown: Shown, keep: float, out: Path) -> Iterator[Path]:
    """Rank images one after the other; yields the picture of each as soon as its three files are written.

    For `photo.jpg` and the ranker `dino`: `photo-dino.npy` with scores, float32 `[Y, X]`; `photo-dino.json` with the
    kept ids and what they belong to; `photo-dino.png` with image, kept patches and score map. Folders stand for the
    images in them. Files that cannot be read are left out, with a warning.

    Raises:
        ValueError: no image that can be read, a keep outside (0, 1], an unknown ranker, or missing weights.
    """
    number_kept(keep, 1)  # a wrong share is told before weights are read
    files = image_files(paths)
    ranker = shown.open(asked)
    out.mkdir(parents=True, exist_ok=True)
    names = _names(files, asked)
    done = 0
    for path, name in zip(files, names):
        for image in _readable(path):
            fitted, ranked = rank(ranker, image, keep, shown.size)
            np.save(out / f"{name}.npy", ranked.scores.numpy())
            about = _about(path, image, fitted, asked, ranker, keep, ranked)
            (out / f"{name}.json").write_text(json.dumps(about))
            ranked_picture(fitted, ranked, name=asked.title).save(out / f"{name}.png")
            done += 1
            yield out / f"{name}.png"
    if not done:
        raise ValueError(f"none of {len(files)} images can be read; give image files that are there and whole")


def draw_patches(
    paths: Sequence[Path], asked: Mapping[str, RankerWords], shown: Shown, keep: float, out: Path
) -> list[Path]:
    """What each ranker keeps of each image, with its score maps, on one page: patches.png, whose path is returned."""
    images = open_images(image_files(paths))
    found = gallery_of(list(images.values()), asked, shown, keep)
    gallery = rankers_gallery(list(images.values()), found, titles=[path.name for path in images])
    out.mkdir(parents=True, exist_ok=True)
    words = f"The {100 * keep:g}\u00a0% of the patches that each ranker keeps, and its scores below"
    stacked([heading(words, gallery.width), gallery]).save(out / "patches.png")
    return [out / "patches.png"]


def gallery_of(
    images: Sequence[Image.Image], asked: Mapping[str, RankerWords], shown: Shown, keep: float
) -> dict[str, list[Ranked]]:
    """Each ranker's view of each image, by the rankers' titles; one ranker is in memory at a time."""
    found = {}
    for title, words in asked.items():
        ranker = shown.open(words)
        found[title] = [rank(ranker, image, keep, shown.size)[1] for image in images]
    return found


def image_files(paths: Sequence[Path]) -> list[Path]:
    """The files, and for a folder the images below it in the order of their names. `ValueError` for an empty folder."""
    files: list[Path] = []
    for path in paths:
        if not path.is_dir():
            files.append(path)
            continue
        inside = sorted(each for each in path.rglob("*") if each.suffix.lower() in EXTENSIONS and each.is_file())
        if not inside:
            raise ValueError(f"there is no image below {path}; give image files, or a folder that holds some")
        files += inside
    return files


def _pixels(ranker: Ranker, image: Image.Image) -> Tensor:
    shape = (image.height, image.width)
    config = EvalTransformConfig(image_size=shape, mode="squash", mean=_three(ranker.mean), std=_three(ranker.std))
    weights = ranker.parameters() if isinstance(ranker, torch.nn.Module) else iter(())
    device = next((value.device for value in weights), torch.device("cpu"))
    return build_eval_transform(config)(image)[None].to(device)


def _three(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = values
    return red, green, blue


def _readable(path: Path) -> Iterator[Image.Image]:
    """The image, or nothing but a warning."""
    try:
        yield open_image(path)
    except UnreadableImage as error:
        warnings.warn(f"{path} is left out: {error.reason}", stacklevel=3)


def _about(
    path: Path, image: Image.Image, fitted: Image.Image, asked: RankerWords, ranker: Ranker, keep: float, ranked: Ranked
) -> dict[str, Any]:
    """What a program needs to find the kept patches in the file again."""
    return {
        "image": str(path),
        "height": image.height,
        "width": image.width,
        "ranker": asked.name,
        "variant": asked.variant,
        "weights": asked.weights,
        "resized": [fitted.height, fitted.width],
        "patch_size": list(ranker.patch_size),
        "grid": list(ranked.scores.shape),
        "keep": keep,
        "number": len(ranked.ids),
        "ids": ranked.ids.tolist(),
    }


def _names(files: Sequence[Path], asked: RankerWords) -> list[str]:
    """A name for each, also where two folders hold files of the same name."""
    ranker = asked.name if asked.variant is None else f"{asked.name}-{asked.variant}"
    names: list[str] = []
    for path in files:
        name, number = f"{path.stem}-{ranker}", 2
        while name in names:
            name, number = f"{path.stem}-{ranker}-{number}", number + 1
        names.append(name)
    return names
