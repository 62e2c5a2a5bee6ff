"""Which patches of image files matter, by any ranker: for `vitrail rank` and `vitrail show patches`."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vitrail import __version__, catalog
from vitrail.contracts import Ranker
from vitrail.data import EvalTransformConfig, build_eval_transform
from vitrail.evaluation.features import weights_digest
from vitrail.ops.patches import grid_of
from vitrail.ops.selection import number_kept, select
from vitrail.ops.shares import check_share
from vitrail.recipes.files import image_files, stems, told_apart
from vitrail.recipes.look import open_images, open_or_warn, whole_patches
from vitrail.recipes.rankers import RankerWords, Shape, open_words
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
    like: Shape | None = None  # sizes of rankers that read no weights

    def open(self, words: RankerWords) -> Ranker:
        """The ranker on its device."""
        device = pick_device(self.device)
        return open_words(words, self.like, model=self.model, key=self.key, patch_size=self.patch_size, device=device)


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

    For `photo.jpg` and `dino` of `vits.pth`: `photo-dino-vits.npy` with scores, float32 `[Y, X]`;
    `photo-dino-vits.json` with the kept ids and what they belong to; `photo-dino-vits.png` with image, kept patches and
    score map. A variant stands in the names, too; where images of two folders have one name, the folders do. Folders
    stand for the images in them, an image that is named twice is ranked once. Files that cannot be read are left out,
    with a warning.

    What this ranker gave for the same image and weights before is written anew.

    Raises:
        ValueError: no image that can be read, a keep outside (0, 1], an unknown ranker, missing weights, or files of
            these names that belong to another image or other weights.
    """
    check_share(keep)  # a wrong share is told before weights are read
    files = image_files(paths)
    ranker = shown.open(asked)
    told = _about_ranker(asked, shown, ranker)
    out.mkdir(parents=True, exist_ok=True)
    end = "-".join(word for word in (asked.name, asked.variant, told["weights"] and asked.weights_name) if word)
    names, done = [f"{stem}-{end}" for stem in stems(files)], 0
    for path, name in zip(files, names):
        _refuse_other(out / f"{name}.json", path, told)
    for path, name in zip(files, names):
        image = open_or_warn(path, whole=True)
        if image is None:
            continue
        fitted, ranked = rank(ranker, image, keep, shown.size)
        np.save(out / f"{name}.npy", ranked.scores.numpy())
        about = told | _about(path, image, fitted, ranker, keep, ranked)
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
    images = open_images(image_files(paths), whole=True)
    if shown.patch_size is None and shown.size is None:
        shown = shown._replace(like=shared_shape(asked, shown))
    found = gallery_of(list(images.values()), asked, shown, keep)
    gallery = rankers_gallery(list(images.values()), found, titles=told_apart(list(images)))
    out.mkdir(parents=True, exist_ok=True)
    words = f"The {100 * keep:g}\u00a0% of the patches that each ranker keeps, and its scores below"
    stacked([heading(words, gallery.width), gallery]).save(out / "patches.png")
    return [out / "patches.png"]


def shared_shape(words: Mapping[str, RankerWords], shown: Shown) -> Shape | None:
    """Sizes that give `center` and `random` the grid of the others; None where nobody needs them, or others differ."""
    others = [each for each in words.values() if each.reads_weights]
    if not others or len(others) == len(words):
        return None
    sizes = [(ranker.image_size, ranker.patch_size) for ranker in map(shown.open, others)]
    (height, width), (tall, wide) = sizes[0]
    if len({grid_of(*size, patch) for size, patch in sizes}) > 1 or tall != wide:
        return None
    return Shape((height, width), tall)


def gallery_of(
    images: Sequence[Image.Image], asked: Mapping[str, RankerWords], shown: Shown, keep: float
) -> dict[str, list[Ranked]]:
    """Each ranker's view of each image, by the rankers' titles; one ranker is in memory at a time."""
    found = {}
    for title, words in asked.items():
        ranker = shown.open(words)
        found[title] = [rank(ranker, image, keep, shown.size)[1] for image in images]
    return found


def _pixels(ranker: Ranker, image: Image.Image) -> Tensor:
    shape = (image.height, image.width)
    config = EvalTransformConfig(image_size=shape, mode="squash", mean=_three(ranker.mean), std=_three(ranker.std))
    weights = ranker.parameters() if isinstance(ranker, torch.nn.Module) else iter(())
    device = next((value.device for value in weights), torch.device("cpu"))
    return build_eval_transform(config)(image)[None].to(device)


def _three(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = values
    return red, green, blue


def _refuse_other(file: Path, image: Path, told: Mapping[str, Any]) -> None:
    """Raise where a file that would be written holds what belongs to another image or to other weights."""
    try:
        found = json.loads(file.read_text())
        was = (os.path.abspath(found["image"]), found["weights_digest"])
    except (OSError, ValueError, KeyError, TypeError):
        return  # not there, or not one of ours
    if was != (os.path.abspath(image), told["weights_digest"]):
        of = f" by weights {found.get('weights')}" if found["weights_digest"] else ""
        now = f" by weights {told['weights']}" if told["weights_digest"] else ""
        raise ValueError(
            f"{file} is of {found['image']}{of}, and {image}{now} would take its place; give another --out"
        )


def _about_ranker(asked: RankerWords, shown: Shown, ranker: Ranker) -> dict[str, Any]:
    """What scored, so that it can be done again; null for what it does not read, and where it has no variants."""
    entry = catalog.find(catalog.rankers(), asked.name, "ranker")
    reads = asked.reads_weights
    if asked.weights is not None and not reads:
        warnings.warn(f"the ranker {asked.name} reads no weights: {asked.weights} is passed by", stacklevel=3)
    return {
        "ranker": asked.name,
        "variant": asked.variant or next(iter(entry.variants), None),
        "weights": asked.weights if reads else None,
        "weights_digest": weights_digest(ranker) if reads else None,
        "model": shown.model if reads else None,
        "key": shown.key if reads else None,
        "version": __version__,
    }


def _about(
    path: Path, image: Image.Image, fitted: Image.Image, ranker: Ranker, keep: float, ranked: Ranked
) -> dict[str, Any]:
    """What a program needs to find the kept patches in the file again."""
    return {
        "image": str(path),
        "height": image.height,
        "width": image.width,
        "resized": [fitted.height, fitted.width],
        "patch_size": list(ranker.patch_size),
        "grid": list(ranked.scores.shape),
        "keep": keep,
        "number": len(ranked.ids),
        "ids": ranked.ids.tolist(),
    }
