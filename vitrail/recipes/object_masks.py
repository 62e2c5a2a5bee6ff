"""Masks of the object of each image, from the attention of any ViT: for `vitrail object-masks`, for recipes that learn
from them, and as a picture.

This process shows squashed images to the backbone in batches; others cut meanwhile and write each mask once it is done.
Made again after a stop, only what is missing is made.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vitrail.backbones import TimmViT, need_vit
from vitrail.contracts import Batch, ImageSet
from vitrail.data import EvalTransform, EvalTransformConfig, ordered_batches
from vitrail.data.cutters import Cutters, cut_object
from vitrail.data.mask_writer import MaskWriter
from vitrail.data.object_masks import (
    PLAIN_ALONE,
    UNREADABLE,
    ObjectMasks,
    ObjectMasksConfig,
    Which,
    is_finished,
)
from vitrail.data.transforms import Picture
from vitrail.evaluation.features import frozen, weights_digest
from vitrail.evaluation.progress import progress
from vitrail.ops.grabcut import ObjectMask, resized_attention, trimap
from vitrail.ops.mean_attention import check_heads, mean_attention
from vitrail.ops.patches import grid_of
from vitrail.rankers.dino import Dino
from vitrail.recipes.files import stems
from vitrail.recipes.look import open_images
from vitrail.recipes.sources import Part, open_data
from vitrail.recipes.start import tell_unreadable
from vitrail.recipes.weights import open_backbone
from vitrail.viz.grabcut import Stages, grabcut_sheet

log = logging.getLogger("vitrail")


def make_object_masks(
    backbone: TimmViT,
    data: ImageSet,
    path: str | Path,
    config: ObjectMasksConfig | None = None,
    *,
    batch_size: int = 32,
    workers: int = 0,
    processes: int | None = None,
    device: str = "auto",
    verify: bool = False,
) -> ObjectMasks:
    """Make both masks of every image, or read those that are there; goes on where it was stopped.

    Args:
        backbone: whose last block's attention says where the object is.
        path: folder of the masks.
        config: what decides them; LocLoc's by default.
        batch_size, workers: of the loading.
        processes: how many cut; None for as many as there are cores, 1 for this one alone.
        device: of the backbone.
        verify: look at the checksums of finished masks, too, and make those anew that are damaged.

    Raises:
        ValueError: an empty set, heads or a block that the backbone does not have, other masks in that folder (of other
            images, weights or settings, with what differs), attention that is not finite.
        TooManyUnreadable: more than 1 % of the images cannot be read.
    """
    path, config = Path(path).expanduser(), config or ObjectMasksConfig()
    if not len(data):
        raise ValueError("the data set is empty; there is nothing to make masks of")
    about = about_masks(backbone, data, config)
    with MaskWriter(path, about, verify=verify) as writer:
        if writer.todo:
            cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
            with Cutters(writer, config, processes or cores, batch_size) as cutters:
                _make(backbone, data, cutters, batch_size, workers, device)
        else:
            log.info("object masks: read from %s", path)
    masks = ObjectMasks.open(path)
    alone = masks.having(PLAIN_ALONE)
    if alone:
        log.warning(
            "%d of %d images have the plain mask alone, since attention left GrabCut nothing to tell apart: images %s",
            *(len(alone), len(masks), ", ".join(map(str, alone[:8])) + (" ..." if len(alone) > 8 else "")),
        )
    return masks


def tell_coverage(masks: ObjectMasks, which: Which = "enhanced", most: int = 256) -> None:
    """Log how much of its image a mask covers on average; warn where most masks tell nothing.

    A mask that covers more than 95 % of its image says nothing of where the object is, and one below 1 % leaves nothing
    to learn from.

    Args:
        which: GrabCut's masks, which are the plain ones where it had nothing to tell apart, or the plain ones.
        most: so many are read, evenly spaced: a folder of a million takes no longer.
    """
    there = np.setdiff1d(np.arange(len(masks)), masks.having(UNREADABLE), assume_unique=True)
    if not len(there):
        return
    places = there[np.linspace(0, len(there) - 1, min(most, len(there))).round().astype(int)]
    covered = np.array([getattr(masks[index], which).mean() for index in places.tolist()])
    few, nearly_all = (100 * float(each.mean()) for each in (covered < 0.01, covered > 0.95))
    log.info("%s masks in %s cover %.0f %% of their image on average", which, masks.folder, 100 * covered.mean())
    if few + nearly_all > 50:
        log.warning(
            "%.0f %% of the %s masks in %s cover nearly all of their image and %.0f %% nearly nothing, which "
            "teaches little; look at them with `vitrail show grabcut`, and choose other heads, %s, or other weights",
            *(nearly_all, which, masks.folder, few),
            "high and low" if which == "enhanced" else "threshold",
        )


def await_object_masks(path: Path, main: bool) -> None:
    """Wait until the first process has made all masks; no collective operation, which would time out."""
    while not main and not is_finished(path):
        time.sleep(0.5)


def check_settings(backbone: TimmViT, config: ObjectMasksConfig) -> None:
    """Raise `ValueError` for heads or an image size that do not fit the backbone."""
    _sides(backbone, config)
    if config.heads is not None:
        check_heads(config.heads, backbone.heads)


def about_masks(backbone: TimmViT, data: ImageSet, config: ObjectMasksConfig) -> dict[str, Any]:
    """What decides masks, as JSON values. Raises `ValueError` for heads or an image size that do not fit."""
    heads = range(backbone.heads) if config.heads is None else check_heads(config.heads, backbone.heads)
    settings = config.plain() | {"heads": list(heads), "image_size": list(_sides(backbone, config))}
    return {
        "images": len(data),
        "data": data.digest(),
        "weights": weights_digest(backbone),
        "attention_heads": backbone.heads,
        "mean": list(backbone.mean),
        "std": list(backbone.std),
        **settings,
        "made_by": f"OpenCV {_version()}",  # not compared
    }


class SeenAndCut:
    """An image twice, squashed: as the backbone sees it, float32 `[3, h, w]`, and as it is cut, uint8 `[S, S, 3]`."""

    def __init__(self, backbone: TimmViT, config: ObjectMasksConfig) -> None:
        """Args: whose normalization and image size count; the settings."""
        sides = _sides(backbone, config)
        seen = EvalTransformConfig(image_size=sides, mode="squash", mean=backbone.mean, std=backbone.std)
        self.seen, self.side = EvalTransform(seen), config.size

    def __call__(self, image: Picture) -> tuple[Tensor, Tensor]:
        """Both; the second by antialiased bilinear resizing."""
        picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
        squashed = picture.resize((self.side, self.side), Image.Resampling.BILINEAR)
        return self.seen(picture), torch.from_numpy(np.array(squashed))


@torch.no_grad()
def object_attention(backbone: TimmViT, images: Tensor, heads: Sequence[int] | None) -> Tensor:
    """Mean attention of heads of the last block, from the class token, stretched to [0, 1].

    Args:
        images: `[B, 3, H, W]`, normalized, on the backbone's device.
        heads: as in `mean_attention`.

    Returns:
        `[B, Y, X]` float32. The softmax runs over class and register tokens, too.
    """
    return mean_attention(Dino(backbone).attention(images), heads)


def masks_by(
    weights: str,
    data: str,
    settings: Sequence[str],
    out: Path,
    *,
    split: Literal["train", "val"] = "train",
    processes: int | None = None,
    workers: int = 0,
    batch_size: int = 32,
    model: str | None = None,
    key: str = "auto",
    device: str = "auto",
) -> ObjectMasks:
    """Make masks by the words of a command line, for `vitrail object-masks`.

    Args:
        data: as for `open_data`.
        settings: of `ObjectMasksConfig`; those that begin with `data.` are of the images, see `DataConfig`.
        split: which images.
    """
    of_images = [setting for setting in settings if setting.startswith("data.")]
    config = ObjectMasksConfig().override([setting for setting in settings if setting not in of_images])
    chosen = getattr(open_data(data, None, [setting.removeprefix("data.") for setting in of_images]), split)
    found = open_backbone(weights, model=model, key=key, device=device)
    backbone = need_vit(found, "making object masks")
    how: dict[str, Any] = {"processes": processes, "workers": workers, "batch_size": batch_size, "device": device}
    masks = make_object_masks(backbone, chosen, out, config, verify=True, **how)
    tell_coverage(masks, "enhanced")
    tell_coverage(masks, "plain")
    return masks


def draw_grabcut(
    paths: Sequence[Path],
    weights: str,
    out: Path,
    settings: Sequence[str] = (),
    *,
    model: str | None = None,
    key: str = "auto",
    size: int | None = None,
    device: str = "auto",
) -> list[Path]:
    """Draw how the mask of each image comes about, IMAGE-grabcut.png; returns the PNGs' paths.

    Args:
        settings: of `ObjectMasksConfig`.
        size: pixels a side at which the backbone sees images; its own by default.
    """
    config = ObjectMasksConfig(image_size=size).override(settings)
    found = open_backbone(weights, model=model, key=key, device=device)
    backbone = need_vit(found, "making object masks")
    check_settings(backbone, config)
    opened = open_images(paths)
    drawn = [grabcut_sheet([stages_of(backbone, image, config)]) for image in opened.values()]
    out.mkdir(parents=True, exist_ok=True)
    written = [out / f"{stem}-grabcut.png" for stem in stems(list(opened))]
    for path, picture in zip(written, drawn, strict=True):
        picture.save(path)
    return written


def stages_of(backbone: TimmViT, image: Image.Image, config: ObjectMasksConfig | None = None) -> Stages:
    """From the image over attention and trimap to both masks, as `make_object_masks` makes them."""
    config = config or ObjectMasksConfig()
    seen, pixels = SeenAndCut(backbone, config)(image)
    place = next(backbone.parameters()).device
    attention = object_attention(backbone, seen[None].to(place), config.heads)[0].cpu().numpy()
    found: ObjectMask = cut_object(pixels.numpy(), attention, config)
    marks = trimap(resized_attention(attention, (config.size, config.size)), config.high, config.low)
    return Stages(image, attention, marks, found)


def _make(backbone: TimmViT, data: ImageSet, cutters: Cutters, batch_size: int, workers: int, device: str) -> None:
    config, todo = cutters.config, list(cutters.writer.todo)
    skipped: dict[int, tuple[str, str]] = {}
    batches = ordered_batches(Part(data, todo), SeenAndCut(backbone, config), batch_size, workers, skipped=skipped)
    watch = _Watch()
    with frozen(backbone, device) as place, progress("object masks", len(data)) as advance:
        advance(len(data) - len(todo), ready=True)
        for batch in watch.waiting(batches):
            indices = [todo[where] for where in batch.indices.tolist()]
            maps = _maps(backbone, batch.images.to(place), config, indices)
            for index, pixels, attention in zip(indices, batch.views[0].numpy(), maps, strict=True):
                advance(cutters.cut(index, pixels, attention), words=watch.words())
        advance(cutters.finish(), words=watch.words())
        for where in skipped:
            cutters.writer.lose(todo[where])
        advance(len(skipped))
    tell_unreadable({todo[where]: why for where, why in skipped.items()}, len(data), set(), "image")


def _maps(backbone: TimmViT, images: Tensor, config: ObjectMasksConfig, indices: Sequence[int]) -> np.ndarray:
    try:
        return object_attention(backbone, images, config.heads).cpu().numpy()
    except ValueError as error:
        raise ValueError(f"images {indices[0]} to {indices[-1]} of the data set: {error}") from None


class _Watch:
    """How much of the time goes by waiting for images."""

    def __init__(self) -> None:
        self.start, self.waited = time.monotonic(), 0.0

    def waiting(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        while True:
            before = time.monotonic()
            batch = next(batches, None)
            self.waited += time.monotonic() - before
            if batch is None:
                return
            yield batch

    def words(self) -> str:
        share = self.waited / max(time.monotonic() - self.start, 1e-9)
        return f"{100 * share:.0f} % of the time waiting for images"


def _sides(backbone: TimmViT, config: ObjectMasksConfig) -> tuple[int, int]:
    """Height and width at which the backbone sees images. Raises `ValueError` where these are no whole patches."""
    size = config.image_size or backbone.image_size
    sides = (size, size) if isinstance(size, int) else (size[0], size[1])
    grid_of(*sides, backbone.patch_size)
    return sides


def _version() -> str:
    import cv2

    return str(cv2.__version__)
